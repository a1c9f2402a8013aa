"""Outbox → Kafka: what was committed is published, in the order of its commits within a batch.

Why the order holds: the rows of a batch get their `seq` under that batch's row lock, so within a batch
`seq` is the order of the commits. A row is handed to the broker only after every earlier row of its
batch is acknowledged or was found deleted, whatever its topic. So the *first* acknowledgement of each
row comes in that order, even where two relays overlap: each goes in order from a point before which
everything is acknowledged. Shards and leases only keep relays from doing the same work twice.

Why nothing is lost: a row leaves the outbox after its acknowledgement, in a transaction of its own. What
happens in between, a crash, a cancellation, a lost answer, repeats the row under its old event id.

No connection and no lock is held while the broker is waited for.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import psycopg
import structlog
from psycopg import AsyncConnection

from service import outbox, tracing
from service.database import Database
from service.kafka import Producer
from service.leases import Floors, Lease
from service.loop import Loop, Seldom
from service.outbox import SHARDS, Blocked, Key, Limits, Row
from service.publication import ProducerLine, Publication
from service.telemetry import TRANSACTION

_log = structlog.get_logger(__name__)

WORKERS: Final = 2
"""One fetches and deletes while the other publishes."""

BLOCKED_SECONDS: Final = 1.0
NOTIFY_SECONDS: Final = 0.05
CHANNEL: Final = "els_outbox"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


class Worker:
    """Serves every `WORKERS`-th shard: one transaction that settles and fetches, then the broker, again.

    Between two steps it holds what the next transaction must write: rows to delete, batches to block.
    """

    def __init__(
        self, number: int, database: Database, lease: Lease, producers: Callable[[], Producer], limits: Limits
    ) -> None:
        self._number = number
        self._database = database
        self._lease = lease
        self._limits = limits
        self._line = ProducerLine(producers)
        self._floors = Floors()
        self._first = 0
        self._blocked_at = float("-inf")
        self._published: list[Key] = []
        self._blocked: list[Blocked] = []
        self._retried: frozenset[bytes] = frozenset()
        self._cured: dict[bytes, int] = {}
        self._blocking = Seldom()

    async def step(self) -> bool:
        """Publish the next rows. Returns whether there were any. Raises what kept all from going out."""
        rows = await self._turn()
        if not rows:
            return False
        wave = Publication(self._line, self._lease)
        try:
            with tracing.step("publish") as step:
                step.about(len(rows), ((_text(row.traceparent), _text(row.tracestate)) for row in rows))
                await wave.publish(rows)
        finally:
            self._published += wave.acknowledged
            self._blocked += wave.blocked
            self._cured.update(wave.went_on(self._retried))
            self._tell()
        if wave.trouble is not None:
            raise wave.trouble
        return True

    async def finish(self) -> None:
        """Settle what is published, and stop the producer."""
        try:
            async with self._database.transaction() as conn:
                await outbox.prepare_relay(conn)
                await self._settle(conn)
            self._settled()
        finally:
            await self._line.abandon()

    async def abandon(self) -> None:
        """Drop everything; the rows are still in the outbox."""
        await self._line.abandon()

    def forget_floors(self, shards: Iterable[int]) -> None:
        self._floors.forget(shards)

    async def _turn(self) -> list[Row]:
        """One transaction: what came of the last rows is written down, the next ones are read."""
        mine = [shard for shard in self._lease.shards if shard % WORKERS == self._number]
        leaving = [shard for shard in mine if shard in self._lease.leaving]
        shards = self._in_turn(shard for shard in mine if shard not in leaving)
        with TRANSACTION.labels("relay").time():
            rows = await self._transaction(shards, leaving)
        self._settled()
        self._lease.gave_back(leaving)
        self._floors.forget(leaving)
        return rows

    async def _transaction(self, shards: Sequence[int], leaving: Sequence[int]) -> list[Row]:
        async with self._database.transaction() as conn:
            await outbox.prepare_relay(conn)
            await self._settle(conn)
            if leaving:
                await outbox.give_back_shards(conn, self._lease.relay, leaving)
            return await self._fetch(conn, shards) if shards and self._lease.is_valid else []

    async def _fetch(self, conn: AsyncConnection, shards: Sequence[int]) -> list[Row]:
        relay = self._lease.relay
        rows = await outbox.fetch_outbox(conn, relay, self._floors.of(shards), self._limits)
        self._floors.fetched(rows)
        if rows:
            self._first = rows[-1].shard + 1
        if time.monotonic() - self._blocked_at >= BLOCKED_SECONDS:
            self._blocked_at = time.monotonic()
            await outbox.forget_blocked(conn, shards)
            retried = await outbox.fetch_blocked(conn, relay, shards, self._limits)
            here = {row.batch_id for row in rows}
            retried = [row for row in retried if row.batch_id not in here]
            self._retried = frozenset(row.batch_id for row in retried)
            rows += retried
        return rows

    async def _settle(self, conn: AsyncConnection) -> None:
        """Deletes, blocks and unblocks. Before an unblocked batch is fetched, its shard's floor goes."""
        if self._published:
            self._floors.drawn(await outbox.delete_outbox(conn, self._published))
        if self._blocked:
            await outbox.block_batch(conn, self._blocked)
        if self._cured:
            self._floors.forget(self._cured.values())
            await outbox.unblock_batch(conn, list(self._cured))

    def _settled(self) -> None:
        self._published, self._blocked, self._cured = [], [], {}

    def _in_turn(self, shards: Iterable[int]) -> list[int]:
        """The shards, from behind the one that was served last: a full one must not starve the others."""
        return sorted(shards, key=lambda shard: (shard - self._first) % SHARDS)

    def _tell(self) -> None:
        if self._blocked and self._blocking.due():
            stuck = self._blocked[0]
            _log.warning(
                "outbox_blocked",
                batches=len(self._blocked),
                batch_id=stuck.batch_id.decode(),
                topic=stuck.topic.decode(),
                error=stuck.error,
            )


class Relay:
    """Publishes the outbox, together with the relays of other pods."""

    def __init__(
        self,
        database: Database,
        producers: Callable[[], Producer],
        *,
        lease_seconds: float = 6.0,
        poll_seconds: float = 1.0,
        listen: bool = True,
        drain_seconds: float = 5.0,
        limits: Limits = Limits(),  # noqa: B008  a tuple
    ) -> None:
        """Nothing runs yet. Behind a transaction pooler: `listen=False` and a shorter poll."""
        self._database = database
        self._drain_seconds = drain_seconds
        self._running = False
        self._unheard = False
        self._lease = Lease(database, lease_seconds, self._took)
        self._workers = [Worker(number, database, self._lease, producers, limits) for number in range(WORKERS)]
        self._renewal = Loop("relay_lease", self._lease.renew, lease_seconds / 3)
        self._loops = [Loop(f"relay_{n}", worker.step, poll_seconds) for n, worker in enumerate(self._workers)]
        self._telling = Loop("relay_notify", self._notify, poll_seconds)
        self._listening = Loop("relay_listen", self._listen, poll_seconds) if listen else None

    @property
    def trouble(self) -> str | None:
        """What keeps the relay from publishing; None while all is well."""
        if not self._running:
            return "the relay is not running"
        troubles = [f"{loop.name}: {loop.trouble}" for loop in (*self._loops, self._renewal) if loop.trouble]
        if not troubles and not self._lease.is_valid:
            return "the relay has no lease"
        return "; ".join(troubles) or None

    @property
    def shards(self) -> frozenset[int]:
        """The shards that this relay serves."""
        return self._lease.shards

    def wake(self) -> None:
        """Rows were committed by this pod. Cheap; call it after every commit."""
        self._wake_workers()
        if len(self._lease.shards) < SHARDS:
            self._unheard = True
            self._telling.wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop`; then finish what is on its way, within the drain time, and leave.

        Cancelled, it leaves everything as it is: the rows are in the outbox, the lease runs out.
        """
        self._running = True
        ended = asyncio.Event()
        aside = [asyncio.create_task(loop.run(ended)) for loop in self._besides()]
        work = [asyncio.create_task(loop.run(stop)) for loop in self._loops]
        try:
            await stop.wait()
            await asyncio.wait(work, timeout=self._drain_seconds)
            await _cancelled([*work, *aside])
            async with asyncio.timeout(self._drain_seconds):
                await self._leave()
        except (TimeoutError, psycopg.Error) as error:
            _log.warning("relay_left_late", error=str(error))
        finally:
            self._running = False
            await _cancelled([*work, *aside])
            for worker in self._workers:
                await worker.abandon()

    async def publish_once(self) -> bool:
        """One renewal and one step of each worker. Returns whether there was anything to do."""
        await self._lease.renew()
        return any([await worker.step() for worker in self._workers])

    async def close(self) -> None:
        """After `publish_once`: settle and leave, as the end of `run` does."""
        await self._leave()

    async def _leave(self) -> None:
        for worker in self._workers:
            await worker.finish()
        await self._lease.leave()

    def _besides(self) -> list[Loop]:
        return [loop for loop in (self._renewal, self._telling, self._listening) if loop is not None]

    def _took(self, shards: Iterable[int]) -> None:
        for worker in self._workers:
            worker.forget_floors(shards)
        self._wake_workers()

    def _wake_workers(self) -> None:
        for loop in self._loops:
            loop.wake.set()

    async def _notify(self) -> bool:
        """Tell other pods, once for all that was committed meanwhile."""
        if self._unheard:
            self._unheard = False
            async with self._database.transaction() as conn:
                await outbox.notify_relays(conn)
            await asyncio.sleep(NOTIFY_SECONDS)
        return False

    async def _listen(self) -> bool:
        """Hear of rows of other pods, on a session of its own, until that ends."""
        async with await self._database.connect_alone() as conn:
            await conn.execute(f"listen {CHANNEL}")
            async for _ in conn.notifies():
                self._wake_workers()
        return False


async def _cancelled(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
