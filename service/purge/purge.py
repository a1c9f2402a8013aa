"""What has outlived its time: told, kept apart, and in the end deleted.

A round goes through its chores one after the other, each in small chunks, each chunk in a transaction of its own that
first takes the right to purge: so one pod purges at a time, and one that dies holds nobody up. Nothing here is waited
for. A batch that somebody is working on is skipped over, and met again by the next round.

Content and failures that wait are touched only behind the lock of their batch, where content and registrations meet
as well, and after one more look behind that lock: what belongs to a registered batch is left alone (I4). An event and
the change that it tells of are one transaction (I6), numbered while the batch is held, by its lock or by its row.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import structlog
from psycopg import AsyncConnection

from service.domain import outgoing
from service.domain.delivery import IntakeLimits
from service.domain.enveloped import Origin, Outgoing, Unpublishable
from service.postgres.pool import Database
from service.purge.policy import Chunk, PurgeReport, RetentionPolicy
from service.runtime.metrics import TRANSACTION
from service.store import batches as store
from service.store import outbox, retention
from service.store import slots as slots_
from service.store.retention import DueStatement, EndedBatch, EndingStatement, ExpiredContent, LateBatch, UploadKey

CHUNK = 500
"""Rows of a transaction, and batches whose locks it may hold."""

LATE = 50
"""Batches that are reported, or deleted, in a transaction."""

LARGE = 5_000
"""Slots of such batches together; one that has more goes alone."""

_log = structlog.get_logger(__name__)


Committed = Callable[[Chunk], None]
_Sized = TypeVar("_Sized", LateBatch, EndedBatch)
_Step = Callable[[AsyncConnection[Any], datetime], Awaitable[Chunk]]


async def purge_once(
    database: Database,
    policy: RetentionPolicy,
    *,
    limits: IntakeLimits | None = None,
    now: datetime | None = None,
    committed: Committed = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> PurgeReport:
    """One round. `now` stands in for the database's clock; `committed` is told of each chunk.

    Raises psycopg.Error; what was committed before stays done.
    """
    return await _Round(database, policy, limits or IntakeLimits(), now, committed, stopped).run()


async def count_due(database: Database, policy: RetentionPolicy, now: datetime | None = None) -> PurgeReport:
    """What a round would find to do at this moment. Changes nothing. Raises psycopg.Error."""
    async with database.transaction() as conn:
        _, clock = await retention.try_purge(conn)
        now = now or clock
        counts = await retention.count_due(
            conn,
            pending=_before(now, policy.pending_ttl),
            late=_before(now, policy.batch_timeout),
            expired=_before(now, policy.expired_retention),
            ended=None if policy.batch_retention is None else _before(now, policy.batch_retention),
            closed=None if policy.closed_retention is None else _before(now, policy.closed_retention),
        )
    report = PurgeReport()
    for task, count in counts.items():
        setattr(report, task, count)
    return report


@dataclass(slots=True)
class _Round:
    database: Database
    policy: RetentionPolicy
    limits: IntakeLimits
    now: datetime | None
    committed: Committed
    stopped: Callable[[], bool]
    report: PurgeReport = field(default_factory=PurgeReport)
    skipped: set[str] = field(default_factory=set)
    """Batches that this round leaves alone."""

    async def run(self) -> PurgeReport:
        for step in self._steps():
            while await self._chunk(step):
                pass
        return self.report

    def _steps(self) -> Iterable[_Step]:
        yield self.expire_content
        yield self.expire_failures
        yield self.report_late_batches
        yield self.delete_expired_content
        yield self.delete_expired_failures
        if self.policy.batch_retention is not None:
            yield self.delete_batches
        if self.policy.closed_retention is not None:
            yield self.delete_removed
            yield self.delete_quarantine
            yield self.delete_actions

    async def _chunk(self, step: _Step) -> bool:
        """One transaction; returns whether another is worth it."""
        if self.stopped():
            self.report.whole = False
        if not self.report.whole:
            return False
        with TRANSACTION.labels("purge").time():
            chunk = await self._transaction(step)
        if chunk is None:
            self.report.whole = False
            return False
        setattr(self.report, chunk.task, getattr(self.report, chunk.task) + len(chunk.done))
        if chunk.done:
            self.committed(chunk)
        return chunk.more

    async def _transaction(self, step: _Step) -> Chunk | None:
        """None where another pod is purging."""
        async with self.database.transaction() as conn:
            taken, now = await retention.try_purge(conn)
            return await step(conn, self.now or now) if taken else None

    # -- what waits for a registration

    async def expire_content(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Content whose registration did not come in time becomes expired, and that is told."""
        due = _before(now, self.policy.pending_ttl)
        keys, more = await self._lock_due(conn, "find_due_content", due)
        expired = await retention.expire_content(conn, keys, due, now) if keys else []
        events = [event for content in expired if (event := self._expired(content, now))]
        await _publish(conn, events)
        return Chunk(
            "expired_content",
            [(each.batch_id, each.text_storage_id, each.correlation_id) for each in expired],
            len(events),
            more,
        )

    async def expire_failures(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Failures go the same way; nobody is told."""
        due = _before(now, self.policy.pending_ttl)
        return await self._end(conn, "expired_failures", "find_due_failures", "expire_failures", due, now)

    async def delete_expired_content(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Expired content that nobody asked for to the end of its retention."""
        due = _before(now, self.policy.expired_retention)
        return await self._end(conn, "deleted_content", "find_old_expired_content", "delete_expired_content", due, now)

    async def delete_expired_failures(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """The same of failures."""
        due = _before(now, self.policy.expired_retention)
        return await self._end(
            conn, "deleted_failures", "find_old_expired_failures", "delete_expired_failures", due, now
        )

    async def _end(
        self,
        conn: AsyncConnection[Any],
        task: str,
        finding: DueStatement,
        ending: EndingStatement,
        due: datetime,
        now: datetime,
    ) -> Chunk:
        keys, more = await self._lock_due(conn, finding, due)
        done = await retention.end(conn, ending, keys, due, now) if keys else []
        return Chunk(task, done, more=more)

    async def _lock_due(
        self, conn: AsyncConnection[Any], finding: DueStatement, due: datetime
    ) -> tuple[list[UploadKey], bool]:
        """What is due of batches that are ours alone and not registered; and whether there is more."""
        keys = await retention.find_due(conn, finding, due, self.skipped, CHUNK)
        ours = await self._lock(conn, {batch_id for batch_id, _ in keys})
        if ours:
            # In a statement after the lock: a registration that committed meanwhile is seen.
            _, registered = await store.read_batch_states(conn, ours)
            self.skipped |= registered.keys()
        return [key for key in keys if key[0] not in self.skipped], len(keys) == CHUNK

    async def _lock(self, conn: AsyncConnection[Any], batch_ids: Collection[str]) -> list[str]:
        if not batch_ids:
            return []
        busy = await store.try_lock_batches(conn, exclusive=sorted(batch_ids), shared=[])
        self._skip(busy)
        return sorted(set(batch_ids) - busy)

    def _skip(self, busy: Collection[str]) -> None:
        self.skipped |= set(busy)
        self.report.passed_over += len(busy)

    def _expired(self, content: ExpiredContent, now: datetime) -> Outgoing | None:
        origin = Origin(content.correlation_id, content.traceparent, content.tracestate)
        try:
            return outgoing.pending_expired(
                content.batch_id,
                content.text_storage_id,
                content.file_upload_id,
                content.original_file_name,
                content.stored_at,
                now,
                origin,
                max_bytes=self.limits.event_bytes,
            )
        except Unpublishable as error:
            _log_unpublishable(error)
            return None

    # -- batches

    async def report_late_batches(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Batches that are neither ready nor failed after their timeout; they can still become so."""
        late = await retention.find_late_batches(conn, _before(now, self.policy.batch_timeout), LATE)
        some = _for_one_transaction(late)
        events = [event for batch in some if (event := await self._timeout(conn, batch, now))]
        await _publish(conn, events)
        if some:
            await retention.mark_timed_out(conn, [batch.batch_id for batch in some], now)
        more = len(late) == LATE or len(some) < len(late)
        return Chunk("timed_out_batches", [(batch.batch_id,) for batch in some], len(events), more)

    async def _timeout(self, conn: AsyncConnection[Any], batch: LateBatch, now: datetime) -> Outgoing | None:
        try:
            return await outgoing.readiness_timeout(
                batch.batch_id,
                slots_.stream_assigned_slots(conn, batch.batch_id),
                slots_.read_open_slots(conn, batch.batch_id),
                batch.expected,
                batch.assigned,
                self.policy.batch_timeout,
                Origin(batch.correlation_id, batch.traceparent, batch.tracestate),
                now,
                max_bytes=self.limits.large_event_bytes,
            )
        except Unpublishable as error:
            _log_unpublishable(error)
            return None

    async def delete_batches(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Batches that ended long ago, with all that is theirs."""
        due = _before(now, self.policy.batch_retention or 0)
        found = await retention.find_ended_batches(conn, due, self.skipped, LATE)
        some = _for_one_transaction(found)
        ours = await self._lock(conn, [batch.batch_id for batch in some])
        deleted = await retention.delete_batches(conn, ours, due) if ours else []
        self._skip(set(ours) - set(deleted))
        more = len(found) == LATE or len(some) < len(found)
        return Chunk("deleted_batches", [(batch_id,) for batch_id in deleted], more=more)

    # -- rows that were closed

    async def delete_removed(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """What operators removed."""
        return await self._clear(conn, "deleted_removed", "delete_removed_content", now)

    async def delete_quarantine(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """QuarantineFilter inputs that were replayed or discarded."""
        return await self._clear(conn, "deleted_quarantine", "delete_closed_quarantine", now)

    async def delete_actions(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """What operators did: not before what they closed by it, whose `closed_at` is its `at`."""
        return await self._clear(conn, "deleted_actions", "delete_operator_actions", now)

    async def _clear(
        self, conn: AsyncConnection[Any], task: str, clearing: retention.ClearingStatement, now: datetime
    ) -> Chunk:
        done = await retention.clear(conn, clearing, _before(now, self.policy.closed_retention or 0), CHUNK)
        return Chunk(task, done, more=len(done) == CHUNK)


def _for_one_transaction(batches: Sequence[_Sized]) -> list[_Sized]:
    """The first of them, and more while they are small: others wait for the rows that are held here."""
    some: list[_Sized] = []
    slots = 0
    for batch in batches:
        slots += batch.expected
        if some and slots > LARGE:
            break
        some.append(batch)
    return some


async def _publish(conn: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    if events:
        await outbox.insert_outbox(conn, events)


def _log_unpublishable(error: Unpublishable) -> None:
    """What no topic takes must not stop all the rest, every minute anew: the state says it, and the log."""
    _log.error("event_not_published", topic=error.topic, batch_id=error.batch_id, error=str(error))


def _before(now: datetime, seconds: int) -> datetime:
    return now - timedelta(seconds=seconds)
