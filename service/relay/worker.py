"""Serves the shards of a lease: one transaction that fetches rows, then their publication, again and again."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final

import psycopg
import structlog
from psycopg import AsyncConnection

from service.kafka.producer import Producer
from service.postgres.pipeline import PendingResult
from service.postgres.pool import Database
from service.relay.leases import Lease
from service.relay.producer_line import ProducerLine
from service.relay.publication import Publication
from service.relay.watermarks import Watermarks
from service.runtime import tracing
from service.runtime.loop import Throttle
from service.runtime.metrics import TRANSACTION
from service.store import outbox, relays
from service.store.outbox import Blocked, FetchLimits, OutboxKey, OutboxRow
from service.store.relays import SHARDS

FEW: Final = 100
"""After a step with so many rows, the next step follows at once: there are probably more."""

SETTLE_SECONDS: Final = 0.1
"""Longest time in seconds that published rows stay in the outbox. The next fetch deletes them if it comes earlier."""

BLOCKED_SECONDS: Final = 1.0
"""Pause in seconds between two reads of blocked batches that are due for a retry."""

_log = structlog.get_logger(__name__)


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


class Worker:
    """Serves the shards of the lease. A step is one transaction that settles and fetches, then the publication.

    Between two steps the worker keeps what the next transaction writes: rows to delete, batches to block or unblock.
    """

    def __init__(
        self, database: Database, lease: Lease, producers: Callable[[], Producer], limits: FetchLimits
    ) -> None:
        self.wake = asyncio.Event()
        self._database = database
        self._lease = lease
        self._limits = limits
        self._line = ProducerLine(producers)
        self._watermarks = Watermarks()
        self._next_shard = 0
        self._blocked_at = float("-inf")
        self._published: list[OutboxKey] = []
        self._blocked: list[Blocked] = []
        self._retried: frozenset[bytes] = frozenset()
        self._unblocked: dict[bytes, int] = {}
        self._blocked_log = Throttle()

    async def step(self) -> bool:
        """Publish the next rows. Returns whether there were any. Raises psycopg.Error, KafkaError or TimeoutError."""
        try:
            rows = await self._turn()
        except psycopg.OperationalError as error:
            if error.sqlstate is None:  # not reported by the server: the network may have failed
                self._line.renew()
            raise
        if not rows:
            return False
        publication = Publication(self._line, self._lease)
        try:
            with tracing.step("publish") as step:
                step.about(len(rows), ((_decoded(row.traceparent), _decoded(row.tracestate)) for row in rows))
                await publication.publish(rows)
        finally:
            self._published += publication.acknowledged
            self._blocked += publication.blocked
            self._unblocked.update(publication.recovered(self._retried))
            self._log_blocked()
        if publication.error is not None:
            raise publication.error
        if len(rows) < FEW and sum(len(row.payload) for row in rows) < self._limits.size // 2:
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self.wake.wait()
        return True

    async def finish(self) -> None:
        """Write the results of the last step, and stop the producer."""
        try:
            async with self._database.transaction() as conn:
                await relays.prepare_relay(conn)
                await self._settle(conn)
            self._settled()
        finally:
            await self._line.abandon()

    async def abandon(self) -> None:
        """Stop the producer at once. Rows that are not settled stay in the outbox."""
        await self._line.abandon()

    def forget_watermarks(self, shards: Iterable[int]) -> None:
        """Read these shards from their first row again."""
        self._watermarks.forget(shards)

    async def _turn(self) -> list[OutboxRow]:
        """Write the results of the last rows and fetch the next ones, in one transaction."""
        leaving = list(self._lease.shards & self._lease.leaving)
        shards = self._ordered(self._lease.shards - self._lease.leaving)
        with TRANSACTION.labels("relay").time():
            rows = await self._transaction(shards, leaving)
        self._settled()
        self._lease.gave_back(leaving)
        self._watermarks.forget(leaving)
        return rows

    async def _transaction(self, shards: Sequence[int], leaving: Sequence[int]) -> list[OutboxRow]:
        """Run the transaction as one pipeline: no statement depends on the result of another."""
        retrying = time.monotonic() - self._blocked_at >= BLOCKED_SECONDS
        rows = retried = None
        async with self._database.transaction(pipelined=True) as conn:
            await relays.prepare_relay(conn)
            deleted = await self._settle(conn)
            if leaving:
                await relays.give_back_shards(conn, self._lease.relay, leaving)
            if shards and self._lease.is_valid:
                rows = await outbox.fetch_outbox(conn, self._lease.relay, self._watermarks.of(shards), self._limits)
                if retrying:
                    self._blocked_at = time.monotonic()
                    await outbox.forget_blocked(conn, shards)
                    retried = await outbox.fetch_blocked(conn, self._lease.relay, shards, self._limits)
        if deleted is not None:
            self._watermarks.drawn(await deleted)
        fetched = [] if rows is None else self._fetched(await rows)
        return fetched if retried is None else fetched + self._without_fetched(await retried, fetched)

    def _fetched(self, rows: list[OutboxRow]) -> list[OutboxRow]:
        self._watermarks.fetched(rows)
        if rows:
            self._next_shard = rows[-1].shard + 1
        return rows

    def _without_fetched(self, retried: list[OutboxRow], fetched: list[OutboxRow]) -> list[OutboxRow]:
        """Returns the rows of blocked batches to retry, except for batches that were also fetched normally."""
        here = {row.batch_id for row in fetched}
        retried = [row for row in retried if row.batch_id not in here]
        self._retried = frozenset(row.batch_id for row in retried)
        return retried

    async def _settle(self, conn: AsyncConnection) -> PendingResult[int] | None:
        """Delete published rows, block and unblock batches. Drops an unblocked batch's watermark before its fetch."""
        deleted = await outbox.delete_outbox(conn, self._published) if self._published else None
        if self._blocked:
            await outbox.block_batch(conn, self._blocked)
        if self._unblocked:
            self._watermarks.forget(self._unblocked.values())
            await outbox.unblock_batch(conn, list(self._unblocked))
        return deleted

    def _settled(self) -> None:
        self._published, self._blocked, self._unblocked = [], [], {}

    def _ordered(self, shards: Iterable[int]) -> list[int]:
        """Order the shards, starting after the one served last, so that a full one does not starve the others."""
        return sorted(shards, key=lambda shard: (shard - self._next_shard) % SHARDS)

    def _log_blocked(self) -> None:
        if self._blocked and self._blocked_log.due():
            first = self._blocked[0]
            _log.warning(
                "outbox_blocked",
                batches=len(self._blocked),
                batch_id=first.batch_id.decode(),
                topic=first.topic.decode(),
                error=first.error,
            )
