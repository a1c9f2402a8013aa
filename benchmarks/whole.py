"""Measures the whole path, from Kafka to the database to Kafka, with everything on one machine.

The input is sent before the measurement. The rate is computed from the end offsets of the output topic between 10 % and
90 % of the events, so that neither the start of the pods nor the end of the run is part of it.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import psycopg
from aiohttp import ClientSession, CookieJar
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks import console, load, servers
from benchmarks.report import Report
from deploy.servers.brokers import Broker
from deploy.servers.pods import Pod, Pods
from service.domain.topics import SLOT_ASSIGNED

SHAPES = ("registered", "interleaved", "content-first", "one-hot-batch", "small-batches")
BEGIN, END = 0.1, 0.9
EVERY = 0.25
PATIENCE = 60.0
"""Seconds without progress after which a measurement fails."""


@dataclass(slots=True)
class Run:
    """The result of one run: points of (seconds, events published), memory, cores."""

    events: int
    points: list[tuple[float, float]] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    peak_memory: float = 0.0
    cores: dict[str, float] = field(default_factory=dict)
    reloads: int = 0

    def rate(self) -> float:
        """Returns the events per second, from `BEGIN` to `END`."""
        begin = next(point for point in self.points if point[1] >= self.events * BEGIN)
        end = next(point for point in self.points if point[1] >= self.events * END)
        return (end[1] - begin[1]) / (end[0] - begin[0])

    def rates(self) -> list[tuple[float, float]]:
        """Returns the events per second over time."""
        return [
            (later[0], (later[1] - sooner[1]) / (later[0] - sooner[0]))
            for sooner, later in zip(self.points[::4], self.points[4::4], strict=False)
        ]


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    """Measures one shape of input. The reference is the same service with one record per transaction."""
    if options.overview:
        return _with_and_without_overview(server, options)
    report = Report(f"whole {options.shape}" + (f" {options.pods} pods" if options.pods > 1 else ""))
    runs = [_run(server, options.shape, options.events, options.pods) for _ in range(options.repeat)]
    bounds = {"watermark": 6_000.0, "goal": 12_000.0} if options.shape == "registered" else {}
    report.add("content events", "1/s", [run.rate() for run in runs], **bounds)
    if options.reference:
        single = [_run(server, "registered", options.reference, 1, ELS_MAX_POLL_RECORDS="1")]
        report.add("reference: one record per transaction", "1/s", [run.rate() for run in single])
        report.add("ratio to the reference", "×", report.figures[0].median / report.figures[1].median)
    report.add("pod memory, peak", "MiB RSS", [run.peak_memory for run in runs], better="less", watermark=150, goal=110)
    for program in ("pods", "postgres", "broker"):
        used = [run.cores.get(program, 0.0) / run.rate() * 1e6 for run in runs]
        report.add(f"{program}: CPU of an event", "µs", used, better="less")
    others = [run.cores["everything else on the machine"] for run in runs]
    report.add("everything else on the machine: CPU", "cores", others, better="less")
    report.series["events/s over seconds"] = runs[-1].rates()
    report.series["pod MiB over seconds"] = [
        (point[0], memory) for point, memory in zip(runs[-1].points, runs[-1].memory, strict=True)
    ]
    report.notes.append(f"{options.events} contents, {options.pods} pod(s), {servers.PARTITIONS} partitions a topic")
    return report


def _with_and_without_overview(server: servers.Server, options: argparse.Namespace) -> Report:
    """Alternates runs without and with persons who reload the overview, whose cost is the ratio of two runs."""
    report = Report(f"whole {options.shape} overview")
    pairs = []
    for number in range(options.repeat):
        runs = {}
        for overview in (0.0, options.overview) if number % 2 else (options.overview, 0.0):
            runs[overview] = _run(server, options.shape, options.events, options.pods, overview=overview)
        pairs.append((runs[0.0], runs[options.overview]))
    for place, name in enumerate(("without", f"with {options.overview:g} reloads/s")):
        report.add(f"content events, {name}", "1/s", [pair[place].rate() for pair in pairs])
        for program in ("pods", "postgres"):
            used = [pair[place].cores.get(program, 0.0) / pair[place].rate() * 1e6 for pair in pairs]
            report.add(f"{program}: CPU of an event, {name}", "µs", used, better="less")
    report.add("content events, with/without", "×", [seen.rate() / alone.rate() for alone, seen in pairs])
    for programs in (("pods",), ("postgres",), ("pods", "postgres")):
        costs = [
            [sum(run.cores.get(each, 0.0) for each in programs) / run.rate() for run in (alone, seen)]
            for alone, seen in pairs
        ]
        ratios = [seen / alone for alone, seen in costs]
        bound = {"watermark": 1.02} if len(programs) > 1 else {}
        report.add(f"{' and '.join(programs)}: CPU of an event, with/without", "×", ratios, better="less", **bound)
    report.notes.append(f"{options.events} contents; reloads answered: {[seen.reloads for _, seen in pairs]}")
    return report


def _run(
    server: servers.Server, shape: str, events: int, number: int, *, overview: float = 0.0, **settings: str
) -> Run:
    slots = {"one-hot-batch": events, "small-batches": 1}.get(shape, 30)
    batches = events // slots
    load_options = {"first": 0, "batches": batches, "each": slots}
    if overview:
        settings |= {"ELS_ADMIN_TOKEN": console.TOKEN}
    with server.database() as url, servers.broker() as kafka, servers.service(url, kafka, **settings) as pods:
        with psycopg.connect(url, autocommit=True) as conn:
            if shape not in ("interleaved", "content-first"):
                load.register(conn, batches, slots)
            servers.analyzed(conn)
        if shape == "interleaved":
            load.send("registrations", kafka.bootstrap_servers, **load_options)
        load.send("contents", kafka.bootstrap_servers, **load_options)
        if shape == "content-first":
            asyncio.run(_until_pending(pods, url, batches * slots))
            load.send("registrations", kafka.bootstrap_servers, **load_options)
        return asyncio.run(watched(url, kafka, pods, number, batches * slots, overview=overview))


async def _until_pending(pods: Pods, url: str, events: int) -> None:
    """Runs a pod until all content is pending."""
    pods.start(1)
    await pods.ready()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while True:
            cursor = await conn.execute("select count(*) from els.pending_content")
            if await cursor.fetchone() == (events,):
                break
            await asyncio.sleep(1)
    await pods.stop()


async def _look(pod: Pod, rate: float, run: Run) -> None:
    """Reloads the overview of a pod as a browser does, `rate` times a second, until cancelled."""
    port: int | None = None
    while port is None:
        await asyncio.sleep(EVERY)
        port = next((each["port"] for each in pod.logged() if each.get("event") == "started"), None)
    origin = f"http://127.0.0.1:{port}"
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as client:
        await console.log_in(client, origin)
        while True:
            for path in ("", "samples.json"):
                async with client.get(f"{origin}/console/{path}") as response:
                    response.raise_for_status()
                    await response.read()
            run.reloads += 1
            await asyncio.sleep(1 / rate)


async def watched(
    url: str, kafka: Broker, pods: Pods, number: int, events: int, *arguments: str, overview: float = 0.0
) -> Run:
    """Starts `number` pods and samples the output until the outbox is empty.

    Meanwhile, the overview of the first pod is loaded `overview` times a second.

    The embedded broker's end offsets are too low by up to a record batch per partition. So they give the rate, and the
    outbox, whose rows are deleted when they are acknowledged, gives the end.
    """
    client = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    await client.start()
    tps = [TopicPartition(SLOT_ASSIGNED, each) for each in range(servers.PARTITIONS)]
    running = pods.start(number, arguments=arguments)
    run, cpu = Run(events), None
    begun = moved = time.monotonic()
    looking = asyncio.create_task(_look(running[0], overview, run)) if overview else None
    try:
        while True:
            await asyncio.sleep(EVERY)
            if any(pod.has_ended for pod in running):
                raise RuntimeError(f"a pod has ended:\n{running[0].last_lines()}")
            if looking and looking.done():
                looking.result()
            now, there = time.monotonic(), sum((await client.end_offsets(tps)).values())
            if not run.points or there > run.points[-1][1]:
                moved = now
            elif now - moved > PATIENCE:
                raise RuntimeError(f"only {there} of {events} are published:\n{running[0].last_lines()}")
            run.points.append((now - begun, there))
            run.memory.append(max(servers.memory_mib(pod.pid)[0] for pod in running))
            if cpu is None and there >= events * BEGIN:
                cpu = servers.Cpu()
            if cpu and not run.cores and there >= events * END:
                run.cores = cpu.cores()
            if there >= events * END and await nothing_left(url):
                break
        run.peak_memory = max(servers.memory_mib(pod.pid)[1] for pod in running)
    finally:
        await client.stop()
        if looking:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
    _check_exit_statuses(await pods.stop(), running)
    return run


async def nothing_left(url: str) -> bool:
    """Returns whether a database has announced all of its batches."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        cursor = await conn.execute(
            "select not exists (select from els.outbox_pages)"
            " and not exists (select from els.batches where state = 'registered')"
        )
        return await cursor.fetchone() == (True,)


def _check_exit_statuses(statuses: Sequence[int], running: Sequence[Pod]) -> None:
    if any(statuses):
        raise RuntimeError(f"the pods exited with status {statuses}:\n{running[0].last_lines()}")
