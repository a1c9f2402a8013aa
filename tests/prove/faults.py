"""Injects faults under load, each kind in turn, and checks that the pods recover in time.

The pods reach PostgreSQL through a proxy, and also the broker if that is Apache Kafka. A supervisor restarts pods that
have ended. After each fault a new batch with an upload in every partition is sent; the time until it is published as
ready is the recovery time. At the end the audit checks every input.
"""

import asyncio
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import psycopg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from psycopg import sql

from deploy.local.postgres import Postgres
from deploy.local.processes import LOOPBACK, StackError
from deploy.servers import brokers, databases
from deploy.servers.apache_kafka import ApacheKafka
from deploy.servers.brokers import Broker, committed_offsets
from deploy.servers.pods import SESSION_SECONDS, Pods, pods
from deploy.servers.ports import reserved_port
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, INCOMING_TOPICS, VALIDATION_FAILED
from service.postgres import migration
from tests.prove import load
from tests.prove.load import Load
from tests.prove.report import Row, Task
from tests.support.builders import inputs
from tests.support.checks.audited import audited
from tests.support.servers.proxy import Proxy, may_forget

PARTITIONS: Final = 4
GROUP: Final = "prove"
PASSWORD: Final = "prove"
IN_TIME: Final = SESSION_SECONDS + 10.0
"""Seconds within which the service must recover after the end of a fault."""
AT_LAST: Final = 180.0
SMALL_DISK: Final = "6g"
FAKETIME: Final = tuple(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class ProxiedKafka(ApacheKafka):
    """Apache Kafka with a second listener whose advertised address is a proxy; the pods use it.

    The measurement connects directly, so that it does not wait for its own connections.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.behind = reserved_port()
        self.proxy: Proxy

    def _settings(self) -> dict[str, str]:
        settings = super()._settings()
        settings["listeners"] += f",PROXIED://{LOOPBACK}:{self.behind}"
        settings["advertised.listeners"] += f",PROXIED://{LOOPBACK}:{self.proxy.port}"
        settings["listener.security.protocol.map"] += ",PROXIED:PLAINTEXT"
        return settings | {"inter.broker.listener.name": "PLAINTEXT"}


class World:
    """All servers, proxies and pods of a run, and operations on them."""

    def __init__(
        self, postgres: Postgres, broker: Broker, running: Pods, dice: random.Random, disk: Path | None
    ) -> None:
        self.postgres = postgres
        self.broker = broker
        self.pods = running
        self.dice = dice
        self.disk = disk
        self.database_proxy: Proxy
        self.broker_proxy: Proxy | None = None
        self.deaths = 0
        self.probes = 0
        self.probed = 0
        """The number of probe records, which `Load` does not count."""
        self.injected: Counter[str] = Counter()
        self.clocks_apart = 0.0

    async def supervise(self, stop: asyncio.Event) -> None:
        """Restarts pods that have ended."""
        while not stop.is_set():
            for pod in self.pods.all:
                if pod._process is not None and pod._process.poll() is not None:
                    self.deaths += 1
                    pod.start()
            await asyncio.sleep(0.2)

    async def follow(self, loaded: Load, stop: asyncio.Event) -> None:
        """Updates the number of processed records in the load."""
        partitions = [TopicPartition(topic, number) for topic in INCOMING_TOPICS for number in range(PARTITIONS)]
        while not stop.is_set():
            with suppress(KafkaError, OSError, TimeoutError):
                async with asyncio.timeout(5):
                    done = sum((await committed_offsets(self.broker, GROUP, partitions)).values())
                loaded.done = max(loaded.done, done)
            await asyncio.sleep(0.5)

    async def recovered(self) -> float:
        """Sends a batch with uploads in all partitions. Returns the seconds until it is announced as ready."""
        started = time.monotonic()
        self.probes += 1
        batch_id, count = f"probe-{self.probes}-{self.dice.randrange(10**9)}", PARTITIONS * 4
        essays = [f"{batch_id}-{number}" for number in range(count)]
        some: list[load.Input] = [
            (CONTENT_PROVISIONED, inputs.content(batch_id, name), name.encode()) for name in essays
        ]
        some.append((BATCH_REGISTERED, inputs.registration(batch_id, essays), batch_id.encode()))
        while True:
            with suppress(KafkaError, OSError, TimeoutError):
                await load.send(self.broker, some)
                self.probed += len(some)
                break
            await asyncio.sleep(0.1)
        while not await asyncio.to_thread(self._is_announced, batch_id):
            if time.monotonic() - started > AT_LAST:
                raise AssertionError(f"not recovered after {AT_LAST} s:\n{self.pods.all[0].last_lines(5)}")
            await asyncio.sleep(0.05)
        return time.monotonic() - started

    def _is_announced(self, batch_id: str) -> bool:
        with suppress(psycopg.Error), psycopg.connect(self.postgres.url(), connect_timeout=5) as conn:
            row = conn.execute(
                "select (select state from els.batches where batch_id = %(id)s) = 'ready'"
                " and not exists (select from els.unpublished where batch_id = %(id)s)",
                {"id": batch_id},
            ).fetchone()
            return bool(row and row[0])
        return False

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement as superuser, without the proxy."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as conn:
            return conn.execute(sql.SQL(statement)).fetchall()

    async def restart_postgres(self) -> None:
        """Restarts PostgreSQL, whether it runs or not."""
        if not self.postgres.running() or not self.postgres.answers():
            await asyncio.to_thread(self.postgres.kill)
            await asyncio.to_thread(self.postgres.start)


# -- the faults: each returns at the end of the fault, with the number of injections


async def kill_pods(world: World) -> int:
    """SIGKILL at random moments."""
    for _ in range(5):
        await asyncio.sleep(world.dice.random())
        world.dice.choice(world.pods.all).kill()
    return 5


async def terminate_pods(world: World) -> int:
    """SIGTERM in a loop, as deployments do; each pod drains, leaves the group and is restarted."""
    for pod in world.pods.all:
        pod.terminate()
        await asyncio.sleep(world.dice.uniform(0.2, 1.5))
    return len(world.pods.all)


async def terminate_backends(world: World) -> int:
    """Many calls of pg_terminate_backend."""
    ended = 0
    for _ in range(8):
        rows = await asyncio.to_thread(
            world.sql,
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'essay-lifecycle-service'",
        )
        ended += len(rows)
        await asyncio.sleep(world.dice.uniform(0, 0.4))
    return ended


async def kill_postgres(world: World) -> int:
    """Killed with all backends and started; it recovers from its log."""
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(world.dice.random())
    await asyncio.to_thread(world.postgres.start)
    return 1


async def kill_broker(world: World) -> int:
    """SIGKILL and a start."""
    world.broker.kill()
    await asyncio.sleep(world.dice.random())
    await asyncio.to_thread(world.broker.start)
    return 1


async def kill_both(world: World) -> int:
    """Database and broker at once."""
    world.broker.kill()
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.gather(asyncio.to_thread(world.postgres.start), asyncio.to_thread(world.broker.start))
    return 2


async def cut_connections(world: World) -> int:
    """Connections are reset, in a loop."""
    cut = 0
    for _ in range(10):
        for proxy in _proxies(world):
            cut += proxy.cut()
        await asyncio.sleep(world.dice.uniform(0, 0.3))
    return cut


async def stall_database(world: World) -> int:
    """The proxy of the database passes nothing on, but keeps and accepts connections."""
    world.database_proxy.stall()
    await asyncio.sleep(world.dice.uniform(2, 12))
    world.database_proxy.flow()
    return 1


async def stall_broker(world: World) -> int:
    """The same for the broker, longer or shorter than the session timeout."""
    assert world.broker_proxy is not None
    world.broker_proxy.stall()
    await asyncio.sleep(world.dice.uniform(2, 12))
    world.broker_proxy.flow()
    return 1


async def slow_connections(world: World) -> int:
    """All data is delayed by 50 ms in both directions."""
    for proxy in _proxies(world):
        proxy.slow(0.05)
    await asyncio.sleep(4)
    for proxy in _proxies(world):
        proxy.flow()
    return len(_proxies(world))


async def leave_half_open(world: World) -> int:
    """The server has lost all open connections without closing them; new connections work."""
    return sum(proxy.forget() for proxy in _proxies(world))


async def swallow(world: World) -> int:
    """Data on open connections is acknowledged but never answered; new connections work."""
    return sum(proxy.swallow() for proxy in _proxies(world))


async def rebalance(world: World) -> int:
    """Members join and leave the group."""
    for _ in range(2):
        (guest,) = world.pods.start(1, module="tests.support.pods.crash_on_record")
        await asyncio.sleep(world.dice.uniform(1.5, 3))
        world.pods.all.remove(guest)
        if world.dice.random() < 0.5:
            guest.kill()
        else:
            guest.terminate()
            with suppress(AssertionError):
                await guest.ended(30)
            guest.kill()
    return 4


async def exhaust_connections(world: World) -> int:
    """PostgreSQL has no free session left; existing sessions are ended first."""
    async with AsyncExitStack() as held:
        for _ in range(4):
            await terminate_backends_once(world)
            with suppress(psycopg.OperationalError):
                while True:
                    conn = await psycopg.AsyncConnection.connect(world.postgres.url(), connect_timeout=5)
                    held.push_async_callback(conn.close)
            await asyncio.sleep(1)
    return 1


async def terminate_backends_once(world: World) -> None:
    with suppress(psycopg.Error):
        await asyncio.to_thread(
            world.sql,
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'essay-lifecycle-service'",
        )


async def hold_the_horizon(world: World) -> int:
    """An idle transaction has a snapshot and locks a row of the batch that changed last."""
    async with await psycopg.AsyncConnection.connect(world.postgres.url()) as conn:
        await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await conn.execute("select count(*) from (select from els.batches limit 1000) as seen")
        with suppress(psycopg.Error):
            await conn.execute("select batch_id from els.batches order by changed_at desc limit 5 for update")
        await asyncio.sleep(world.dice.choice((8, 8, 8, 8, 8, 150)))
        await conn.rollback()
    return 1


async def fill_the_disk(world: World) -> int:
    """The disk is full: PostgreSQL can write neither tables nor its log."""
    assert world.disk is not None
    ballast = world.disk / "ballast"
    try:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(world.disk).free)
        with suppress(OSError), ballast.open("ab", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        await asyncio.sleep(4)
    finally:
        ballast.unlink()
    await world.restart_postgres()
    return 1


async def move_a_clock(world: World) -> int:
    """One pod's clock is a day ahead, another's a day behind; the database's clock is right."""
    world.clocks_apart = 2 * 86_400 + 60.0  # of records that these pods have published, as their timestamps have it
    for pod, by in zip(world.pods.all, ("+1d", "-1d"), strict=False):
        environment = pod._environment
        pod._environment = {
            **environment, "LD_PRELOAD": str(FAKETIME[0]), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        pod.kill()
        await asyncio.sleep(5)
        pod._environment = environment
        pod.kill()
    return 2


async def poison(world: World) -> int:
    """A poison record kills the process that decodes it; isolated in three crashes, it is quarantined."""
    deaths = world.deaths
    name = f"poison-{world.dice.randrange(10**9)}"
    value = inputs.content(name, name, original_file_name="mine")
    await load.send(world.broker, [(CONTENT_PROVISIONED, value, name.encode())])
    deadline = time.monotonic() + AT_LAST
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        with suppress(psycopg.Error):
            found = await asyncio.to_thread(
                world.sql, "select count(*) from els.quarantine where reason = 'killed_the_process'"
            )
            if found[0][0] > world.injected["poison records found"]:
                world.injected["poison records found"] += 1
                return max(1, world.deaths - deaths)
    raise AssertionError("a record that kills was not found out")


async def garbage(world: World) -> int:
    """A topic has only invalid records until it is paused; an operator resumes it until all are processed."""
    some: list[load.Input] = [
        (VALIDATION_FAILED, f"garbage {world.dice.random()} {number}".encode(), str(number).encode())
        for number in range(1500)
    ]
    await load.send(world.broker, some)
    return 1


async def resume(world: World, stop: asyncio.Event) -> None:
    """Acts as the operator: resumes paused topics."""
    while not stop.is_set():
        await asyncio.sleep(1)
        with suppress(psycopg.Error):
            await asyncio.to_thread(
                world.sql,
                "update els.topic_refusals set in_a_row = 0, stopped_at = null"
                " where stopped_at is not null returning topic",
            )


Fault = Callable[[World], Awaitable[int]]


def _proxies(world: World) -> list[Proxy]:
    return [proxy for proxy in (world.database_proxy, world.broker_proxy) if proxy is not None]


def faults(world: World) -> tuple[dict[str, Fault], dict[str, str]]:
    """Returns the faults that this machine can inject, and the reasons why it cannot inject the others."""
    here: dict[str, Fault] = {
        "kill -9 of pods": kill_pods,
        "SIGTERM of pods in a loop": terminate_pods,
        "storms of pg_terminate_backend": terminate_backends,
        "PostgreSQL killed and restarted": kill_postgres,
        "connections cut": cut_connections,
        "database stalled": stall_database,
        "connections slowed": slow_connections,
        "connections acknowledged and never answered": swallow,
        "rebalances in a loop": rebalance,
        "connections exhausted": exhaust_connections,
        "idle transaction with locks and snapshot": hold_the_horizon,
        "poison record": poison,
        "a topic of garbage": garbage,
    }
    missing = {}
    if world.broker.keeps_records:
        here["broker killed and restarted"] = kill_broker
        here["PostgreSQL and broker killed at once"] = kill_both
    else:
        missing["broker killed and restarted"] = "the embedded broker keeps nothing"
    if may_forget():
        here["connections left half open"] = leave_half_open
    else:
        missing["connections left half open"] = "only who may administer the network can close without a word"
    if world.broker_proxy:
        here["broker stalled"] = stall_broker
    if world.disk:
        here["disk full"] = fill_the_disk
    else:
        missing["disk full"] = "no small file system could be mounted"
    if FAKETIME:
        here["clock wrong by a day"] = move_a_clock
    else:
        missing["clock wrong by a day"] = "libfaketime is not installed"
    return here, missing


# -- servers and pods


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """Gives a small file system that can be filled, or None if it cannot be mounted (root is needed)."""
    with TemporaryDirectory(prefix="els-disk-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o711)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=0711", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if mounted.returncode:
            yield None
            return
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=False)


@asynccontextmanager
async def world_of(
    folder: Path, dice: random.Random, *, apache: bool, count: int, fillable: bool = True
) -> AsyncIterator[World]:
    """Starts PostgreSQL, a broker, pods and proxies. With `fillable`, PostgreSQL is on a small file system."""
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk()) if fillable else None
        postgres = stack.enter_context(databases.embedded_server(durable=True, within=disk))
        migration.upgrade(postgres.url())
        with psycopg.connect(postgres.url(), autocommit=True) as conn:
            conn.execute(f"alter role els_app password '{PASSWORD}'")
        database_proxy = await Proxy(postgres.port).start()
        stack.push_async_callback(database_proxy.stop)
        broker_proxy, of_pods = None, {}
        if apache:
            (folder / "kafka").mkdir()
            server = ProxiedKafka(folder / "kafka")
            server.proxy = broker_proxy = await Proxy(server.behind).start()
            of_pods["ELS_KAFKA_BOOTSTRAP_SERVERS"] = f"{LOOPBACK}:{broker_proxy.port}"
            stack.push_async_callback(broker_proxy.stop)
            stack.callback(server.stop)
            await asyncio.to_thread(server.start)
            broker = Broker("apache", server.bootstrap_servers, server=server)
        else:
            broker = stack.enter_context(brokers.tansu())
        await broker.create_topics(PARTITIONS)
        # They log in as in production, since that decides what a session sees of others.
        url = postgres.url(role="els_app", password=PASSWORD)
        proxied = url.replace(f":{postgres.port}/", f":{database_proxy.port}/")
        settings = {"ELS_DATABASE_URL": proxied, "ELS_CONSUMER_GROUP": GROUP, "MINE": "decode"}
        running = stack.enter_context(pods(folder, settings, broker.settings | of_pods))
        world = World(postgres, broker, running, dice, disk)
        world.database_proxy, world.broker_proxy = database_proxy, broker_proxy
        running.start(count, module="tests.support.pods.crash_on_record")
        await running.ready()
        yield world


async def under_load(
    task: Task, *, apache: bool, rate: float | None, only: str, without: str | None, count: int = 3
) -> list[Row]:
    """Injects the kinds of faults in random order until the time is over. `rate` is passed to `Load`."""
    dice = random.Random(task.seed)
    with TemporaryDirectory(prefix="els-prove-", ignore_cleanup_errors=True) as folder:
        async with world_of(Path(folder), dice, apache=apache, count=count) as world:
            return await _inject(world, Load(world.broker, task.seed, ahead=2_000, rate=rate), task, only, without)


async def _inject(world: World, loaded: Load, task: Task, only: str, without: str | None) -> list[Row]:
    part = f"faults on {world.broker.name}"
    here, missing = faults(world)
    here = {name: fault for name, fault in here.items() if only in name and (without is None or without not in name)}
    rows = {name: Row(part, name, unit="injections") for name in here}
    stop = asyncio.Event()
    beside = [
        asyncio.create_task(each)
        for each in (loaded.run(stop), world.supervise(stop), world.follow(loaded, stop), resume(world, stop))
    ]
    started = time.monotonic()
    waiting: list[str] = []
    try:
        await world.recovered()
        while not task.is_over:
            waiting = waiting or world.dice.sample(list(here), len(here))
            name = waiting.pop()
            task.report(
                f"{name}; {sum(row.runs for row in rows.values()):,} injections, {loaded.sent.total():,} records"
            )
            await _inject_one(world, here[name], rows[name])
        stop.set()
        await asyncio.gather(*beside)
        overall = await _account(world, loaded, Row(part, "everything after all of it", unit="records"))
    finally:
        stop.set()
        for each in beside:
            each.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    overall.seconds = time.monotonic() - started
    overall.more["pods that died"] = world.deaths
    left_out = [Row(part, name, unit="injections", more={"left out": why}) for name, why in missing.items()]
    return [*rows.values(), *left_out, overall]


async def _inject_one(world: World, fault: Fault, row: Row) -> None:
    begun = time.monotonic()
    try:
        row.runs += await fault(world)
        took = await world.recovered()
        row.times.append(took)
        if took > IN_TIME:
            row.late.append(f"recovered after {took:.1f} s, not within {IN_TIME:.0f}")
    except (AssertionError, StackError, psycopg.Error, KafkaError, OSError) as error:
        row.found.append(f"{type(error).__name__}: {error}")
        await world.restart_postgres()
        await asyncio.to_thread(world.broker.start)
    row.seconds += time.monotonic() - begun


async def _account(world: World, loaded: Load, row: Row) -> Row:
    """Waits until all is processed, runs the audit, and stops the pods."""
    try:
        await world.recovered()
        await _idle(world)
        report = await audited(world.postgres.url(), world.broker, GROUP, clocks_apart=world.clocks_apart)
        row.found += [str(finding) for finding in report.findings]
        row.runs = sum(count for name, count in report.counts.items() if name.startswith("records of huleedu"))
        row.more = {
            "content events": report.counts[f"records of {CONTENT_PROVISIONED}"],
            "sent": loaded.sent.total(),
            "sent without an answer": loaded.unsure,
            "violations": report.violations.total(),
            "unknown": report.unknown,
            "not done with": report.counts["inputs not yet done with"],
            "in quarantine": report.counts["rows of quarantine"],
        }
        if report.unknown or report.counts["inputs not yet done with"]:
            row.found.append(f"not accounted for: {report.counts['inputs not yet done with']}, {report.examples}")
    except (AssertionError, StackError, psycopg.Error, KafkaError, OSError) as error:
        row.found.append(f"{type(error).__name__}: {error}")
    return row


async def _idle(world: World) -> None:
    """Waits until every input is processed and every event is published."""
    partitions = [TopicPartition(topic, number) for topic in INCOMING_TOPICS for number in range(PARTITIONS)]
    still, before = 0, -1
    deadline = time.monotonic() + AT_LAST
    while still < 4:
        if time.monotonic() > deadline:
            raise AssertionError("it does not come to rest")
        await asyncio.sleep(1)
        done = sum((await committed_offsets(world.broker, GROUP, partitions)).values())
        rows = (await asyncio.to_thread(world.sql, "select count(*) from els.unpublished"))[0][0]
        still = still + 1 if done == before and rows == 0 else 0
        before = done
