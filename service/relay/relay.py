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
from contextlib import suppress
from typing import Final

import psycopg
import structlog
from psycopg import AsyncConnection

from service.kafka.topics import Producer
from service.postgres.pipeline import Answer
from service.postgres.pool import Database
from service.relay.leases import Floors, Lease
from service.relay.publication import ProducerLine, Publication
from service.runtime import tracing
from service.runtime.loop import Loop, Seldom, cancelled
from service.runtime.metrics import TRANSACTION
from service.store import outbox
from service.store.outbox import SHARDS, Blocked, Key, Limits, Row

_log = structlog.get_logger(__name__)

FEW: Final = 100
"""Rows in one go after which it is worth looking for more at once."""

SETTLE_SECONDS: Final = 0.1
"""What was published is taken out of the outbox when the next rows are fetched, and after so long at the latest."""

BLOCKED_SECONDS: Final = 1.0
NOTIFY_SECONDS: Final = 0.05
CHANNEL: Final = "els_outbox"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


class Worker:
    """Serves the shards of the lease: one transaction that settles and fetches, then the broker, again.

    Between two steps it holds what the next transaction must write: rows to delete, batches to block.
    """

    def __init__(self, database: Database, lease: Lease, producers: Callable[[], Producer], limits: Limits) -> None:
        self.wake = asyncio.Event()
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
        try:
            rows = await self._turn()
        except psycopg.OperationalError as error:
            if error.sqlstate is None:  # it was not the server that said so: the network, maybe
                self._line.doubt()
            raise
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
        if len(rows) < FEW and sum(len(row.payload) for row in rows) < self._limits.size // 2:
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self.wake.wait()
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
        leaving = list(self._lease.shards & self._lease.leaving)
        shards = self._in_turn(self._lease.shards - self._lease.leaving)
        with TRANSACTION.labels("relay").time():
            rows = await self._transaction(shards, leaving)
        self._settled()
        self._lease.gave_back(leaving)
        self._floors.forget(leaving)
        return rows

    async def _transaction(self, shards: Sequence[int], leaving: Sequence[int]) -> list[Row]:
        """Nothing that is answered decides what is sent, so that all goes to the server at once."""
        retrying = time.monotonic() - self._blocked_at >= BLOCKED_SECONDS
        rows = retried = None
        async with self._database.transaction(pipelined=True) as conn:
            await outbox.prepare_relay(conn)
            deleted = await self._settle(conn)
            if leaving:
                await outbox.give_back_shards(conn, self._lease.relay, leaving)
            if shards and self._lease.is_valid:
                rows = await outbox.fetch_outbox(conn, self._lease.relay, self._floors.of(shards), self._limits)
                if retrying:
                    self._blocked_at = time.monotonic()
                    await outbox.forget_blocked(conn, shards)
                    retried = await outbox.fetch_blocked(conn, self._lease.relay, shards, self._limits)
        if deleted is not None:
            self._floors.drawn(await deleted)
        fetched = [] if rows is None else self._fetched(await rows)
        return fetched if retried is None else fetched + self._once_more(await retried, fetched)

    def _fetched(self, rows: list[Row]) -> list[Row]:
        self._floors.fetched(rows)
        if rows:
            self._first = rows[-1].shard + 1
        return rows

    def _once_more(self, retried: list[Row], fetched: list[Row]) -> list[Row]:
        """Rows of blocked batches whose pause is over, but of those that come as others do."""
        here = {row.batch_id for row in fetched}
        retried = [row for row in retried if row.batch_id not in here]
        self._retried = frozenset(row.batch_id for row in retried)
        return retried

    async def _settle(self, conn: AsyncConnection) -> Answer[int] | None:
        """Deletes, blocks and unblocks. Before an unblocked batch is fetched, its shard's floor goes."""
        deleted = await outbox.delete_outbox(conn, self._published) if self._published else None
        if self._blocked:
            await outbox.block_batch(conn, self._blocked)
        if self._cured:
            self._floors.forget(self._cured.values())
            await outbox.unblock_batch(conn, list(self._cured))
        return deleted

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
        self._worker = Worker(database, self._lease, producers, limits)
        self._renewal = Loop("relay_lease", self._lease.renew, lease_seconds / 3)
        self._working = Loop("relay", self._worker.step, poll_seconds, self._worker.wake)
        self._telling = Loop("relay_notify", self._notify, poll_seconds)
        self._listening = Loop("relay_listen", self._listen, poll_seconds) if listen else None

    @property
    def trouble(self) -> str | None:
        """What keeps the relay from publishing; None while all is well."""
        if not self._running:
            return "the relay is not running"
        troubles = [f"{loop.name}: {loop.trouble}" for loop in (self._working, self._renewal) if loop.trouble]
        if not troubles and not self._lease.is_valid:
            return "the relay has no lease"
        return "; ".join(troubles) or None

    @property
    def shards(self) -> frozenset[int]:
        """The shards that this relay serves."""
        return self._lease.shards

    def wake(self) -> None:
        """Rows were committed by this pod. Cheap; call it after every commit."""
        self._worker.wake.set()
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
        work = asyncio.create_task(self._working.run(stop))
        try:
            await stop.wait()
            await asyncio.wait([work], timeout=self._drain_seconds)
            await cancelled([work, *aside])
            async with asyncio.timeout(self._drain_seconds):
                await self._leave()
        except (TimeoutError, psycopg.Error) as error:
            _log.warning("relay_left_late", error=str(error))
        finally:
            self._running = False
            await cancelled([work, *aside])
            await self._worker.abandon()

    async def publish_once(self) -> bool:
        """One renewal and one step. Returns whether there was anything to do."""
        await self._lease.renew()
        return await self._worker.step()

    async def close(self) -> None:
        """After `publish_once`: settle and leave, as the end of `run` does."""
        await self._leave()

    async def _leave(self) -> None:
        await self._worker.finish()
        await self._lease.leave()

    def _besides(self) -> list[Loop]:
        return [loop for loop in (self._renewal, self._telling, self._listening) if loop is not None]

    def _took(self, shards: Iterable[int]) -> None:
        self._worker.forget_floors(shards)
        self._worker.wake.set()

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
                self._worker.wake.set()
        return False
