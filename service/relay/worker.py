"""Serves the shards of a lease: one transaction that fetches rows, then their publication, again and again."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from service.kafka.producer import Producer
from service.postgres.pipeline import PendingResult
from service.postgres.pool import Database
from service.relay.leases import Lease
from service.relay.partitions import AgreedPartitions
from service.relay.producer_line import ProducerLine
from service.relay.publication import Publication, Results
from service.relay.watermark import Watermark
from service.runtime import tracing
from service.runtime.logging import log_many
from service.runtime.loop import Throttle
from service.runtime.metrics import TRANSACTION
from service.store import outbox, relays
from service.store.outbox import Blocked, FetchLimits, OutboxRow

FEW: Final = 100
"""After a step with so many events, the next step follows at once: there are probably more."""

SETTLE_SECONDS: Final = 0.1
"""Longest time in seconds that published rows stay in the outbox. The next fetch deletes them if it comes earlier."""

BLOCKED_SECONDS: Final = 1.0
"""Pause in seconds between two reads of blocked batches that are due for a retry."""


class Worker:
    """Serves the shards of the lease. A step is one transaction that settles and fetches, then the publication.

    Between two steps the worker keeps the results, which the next transaction writes.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        partitions: AgreedPartitions,
        producers: Callable[[], Producer],
        limits: FetchLimits,
    ) -> None:
        self.wake = asyncio.Event()
        self._database = database
        self._lease = lease
        self._partitions = partitions
        self._limits = limits
        self._line = ProducerLine(producers)
        self._watermark = Watermark()
        self._blocked_at = float("-inf")
        self._results = Results()
        self._blocked_log = Throttle()

    @property
    def throttled(self) -> str | None:
        """Say that a broker delays what is published for long because of a quota; None where none does."""
        return self._line.throttled

    async def step(self) -> bool:
        """Publish the next rows. Returns whether there were any. Raises psycopg.Error, KafkaError or TimeoutError."""
        try:
            rows = await self._transaction()
        except psycopg.OperationalError as error:
            self._watermark.drop()  # the server may have been replaced by one that has lost the last numbers
            if error.sqlstate is None:  # not reported by the server: the network may have failed
                self._line.renew()
            raise
        if not rows:
            return False
        publication = Publication(self._line, self._lease, self._partitions, rows)
        events = publication.events
        try:
            with tracing.send(events) as spans:
                await publication.publish(spans)
        finally:
            self._results = publication.results
            self._log_blocked()
        if publication.error is not None:
            raise publication.error
        if len(events) < FEW and sum(len(event.payload) for event in events) < self._limits.size // 2:
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
            self._results = Results()
        finally:
            await self._line.abandon()

    async def abandon(self) -> None:
        """Stop the producer at once. Rows that are not settled stay in the outbox."""
        await self._line.abandon()

    def took_shards(self) -> None:
        """Read the outbox from its first row again: shards were added to the lease."""
        self._watermark.drop()
        self.wake.set()

    async def _transaction(self) -> list[OutboxRow]:
        """Write the results of the last rows and fetch the next ones: in one pipeline, none depends on another."""
        relay, shards, leaving = self._lease.relay, self._lease.shards, self._lease.leaving
        rows = retried = None
        with TRANSACTION.labels("relay").time():
            async with self._database.transaction(pipelined=True) as conn:
                await relays.prepare_relay(conn)
                deleted = await self._settle(conn)
                if leaving:
                    await relays.give_back_shards(conn, relay, list(leaving))
                if shards and self._lease.is_valid:
                    rows = await outbox.fetch_outbox(conn, relay, shards, self._watermark.seq, self._limits)
                    if time.monotonic() - self._blocked_at >= BLOCKED_SECONDS:
                        self._blocked_at = time.monotonic()
                        await outbox.forget_blocked(conn, shards)
                        retried = await outbox.fetch_blocked(conn, relay, shards, self._limits)
        self._results = Results()
        self._lease.gave_back(leaving)
        if deleted is not None:
            self._watermark.drawn(await deleted)
        fetched = await rows if rows is not None else []
        self._watermark.fetched(fetched)
        if retried is None:
            return fetched
        here = {row.batch_id for row in fetched}
        return fetched + [row for row in await retried if row.batch_id not in here]

    async def _settle(self, conn: AsyncConnection) -> PendingResult[int] | None:
        """Delete published rows, block and unblock batches. An unblocked batch is read from its first row again."""
        published, blocked, unblocked = self._results
        deleted = await outbox.delete_outbox(conn, published) if published else None
        if blocked:
            await outbox.block_batch(conn, blocked)
        if unblocked:
            self._watermark.drop()
            await outbox.unblock_batch(conn, self._lease.relay, unblocked)
        return deleted

    def _log_blocked(self) -> None:
        """Log each batch once that is blocked, or not any more; of those that stay blocked, one in a while."""
        _, blocked, unblocked = self._results
        lines = [stuck for stuck in blocked if not stuck.was_blocked]
        if not lines and blocked and self._blocked_log.due():
            lines = [blocked[0]]
        count = {"batches": len(blocked)}
        if lines:
            log_many((("outbox_blocked", _fields(stuck) | count) for stuck in lines), "warning")
        if unblocked:
            log_many(("outbox_unblocked", {"batch_id": batch_id.decode()}) for batch_id in unblocked)


def _fields(stuck: Blocked) -> dict[str, Any]:
    where = {"batch_id": stuck.batch_id.decode(), **stuck.ids, "topic": stuck.topic.decode()}
    return where | {"error": stuck.error}
