"""Serves the shards of a lease: one transaction, then the broker, again."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import psycopg
from psycopg import AsyncConnection

from service.kafka.producer import Producer
from service.postgres.pipeline import Answer
from service.postgres.pool import Database
from service.relay.leases import Lease
from service.relay.producer_line import ProducerLine
from service.relay.publication import Publication
from service.relay.relay import _log
from service.relay.watermarks import Floors
from service.runtime import tracing
from service.runtime.loop import Seldom
from service.runtime.metrics import TRANSACTION
from service.store import outbox, relays
from service.store.outbox import Blocked, Key, Limits, Row
from service.store.relays import SHARDS

FEW: Final = 100
"""Rows in one go after which it is worth looking for more at once."""

SETTLE_SECONDS: Final = 0.1
"""What was published is taken out of the outbox when the next rows are fetched, and after so long at the latest."""

BLOCKED_SECONDS: Final = 1.0


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
                await relays.prepare_relay(conn)
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
            await relays.prepare_relay(conn)
            deleted = await self._settle(conn)
            if leaving:
                await relays.give_back_shards(conn, self._lease.relay, leaving)
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
