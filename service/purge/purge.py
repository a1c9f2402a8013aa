"""Expires, reports and deletes what has passed its time limit.

A round runs its purge tasks one after the other, each in small chunks. Each chunk is a transaction of its own that
first takes the right to purge: so one pod purges at a time, and a pod that crashes blocks no other. A purge waits for
no lock. A batch that another transaction works on is skipped, and tried again by the next round.

Content and failures that wait are changed only under the exclusive lock of their batch, which intake takes as well, and
after the state of the batch was read under that lock: uploads of a registered batch are not changed (I4). An event and
the change that it reports are one transaction (I6); its outbox number is drawn while the batch is held, by its lock or
by its counter row.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from psycopg import AsyncConnection

from service.domain.delivery import IntakeLimits
from service.postgres.pool import Database
from service.purge.confirmations import settle_confirmations
from service.purge.events import expired_event, publish, publish_ready, timeout_event
from service.purge.policy import Chunk, PurgeReport, RetentionPolicy, due_before, is_held, time_before, turn_of
from service.purge.trimming import Trimmer
from service.runtime.metrics import TRANSACTION
from service.store import batches, retention, search
from service.store.retention import (
    ClearingStatement,
    DueStatement,
    EndingStatement,
    LateBatch,
    PurgeTurn,
    SizedBatch,
    UploadKey,
)

ROWS_PER_CHUNK = 500
"""Rows of a transaction, and batches whose locks it may hold."""

BATCHES_PER_CHUNK = 50
"""Batches that are reported, or deleted, in a transaction."""

SLOTS_PER_CHUNK = 5_000
"""Slots of these batches together. A batch that has more gets a transaction of its own."""

Committed = Callable[[Chunk], None]
_Sized = TypeVar("_Sized", LateBatch, SizedBatch)
_PurgeTask = Callable[[AsyncConnection[Any], datetime], Awaitable[Chunk]]


async def purge_once(
    database: Database,
    policy: RetentionPolicy,
    *,
    limits: IntakeLimits | None = None,
    now: datetime | None = None,
    committed: Committed = lambda _: None,
    stopped: Callable[[], bool] = lambda: False,
) -> PurgeReport:
    """Run one round, until its end or until `stopped` returns True.

    `now` replaces the database's clock; `committed` is called with each chunk after its commit. Raises psycopg.Error;
    chunks that were committed before stay done.
    """
    return await _Round(database, policy, limits or IntakeLimits(), now, committed, stopped).run()


async def count_due(database: Database, policy: RetentionPolicy, now: datetime | None = None) -> PurgeReport:
    """Count what a round would do at this moment. Changes nothing. Raises psycopg.Error."""
    async with database.transaction() as conn:
        turn = turn_of(await retention.try_purge(conn), now)
        now = turn.now
        counts = await retention.count_due(
            conn,
            pending=due_before(turn, turn.registrations_until, policy.pending_ttl),
            late=due_before(turn, turn.inputs_until, policy.batch_timeout),
            expired=time_before(now, policy.expired_retention),
            ended=time_before(now, policy.batch_retention),
            closed=time_before(now, policy.closed_retention),
            actions=time_before(now, policy.actions_retention),
            confirmations=due_before(turn, turn.registrations_until, policy.batch_retention),
            erasures=time_before(now, policy.erasure_retention),
            waits=policy.ready_waits,
        )
    report = PurgeReport(held=is_held(turn))
    for task, count in counts.items():
        setattr(report, task, count)
    return report


@dataclass(slots=True)
class _Round:
    """One purge round, with its report and the batches that it skips."""

    database: Database
    policy: RetentionPolicy
    limits: IntakeLimits
    now: datetime | None
    committed: Committed
    stopped: Callable[[], bool]
    report: PurgeReport = field(default_factory=PurgeReport)
    turn: PurgeTurn = field(init=False)
    skipped: set[str] = field(default_factory=set)
    """Batches that this round does not change."""

    async def run(self) -> PurgeReport:
        """Run all tasks to their end, or until the round is stopped."""
        for task in self._tasks():
            while await self._chunk(task):
                pass
        return self.report

    def _tasks(self) -> Iterable[_PurgeTask]:
        yield self.expire_content
        yield self.expire_failures
        yield self.report_late_batches
        yield self.settle_confirmations
        if not self.policy.ready_waits:
            yield self.end_waits
        yield self.delete_expired_content
        yield self.delete_expired_failures
        yield self.delete_batches
        yield self.delete_confirmations
        yield self._clearing("deleted_removed", "delete_removed_content", self.policy.closed_retention)
        yield self._clearing("deleted_removed_failures", "delete_removed_failures", self.policy.closed_retention)
        yield self._clearing("deleted_quarantine", "delete_closed_quarantine", self.policy.closed_retention)
        # Last, so that no action is deleted before the rows that it closed, whose `closed_at` is its `at`.
        yield self._clearing("deleted_actions", "delete_operator_actions", self.policy.actions_retention)
        yield Trimmer(self._lock).trim
        yield _index_changes
        yield self._clearing("deleted_erasures", "delete_old_erasures", self.policy.erasure_retention)
        yield _note_round

    async def _chunk(self, task: _PurgeTask) -> bool:
        """Run one transaction of a task. Returns whether the task may have more to do."""
        if self.stopped():
            self.report.whole = False
        if not self.report.whole:
            return False
        with TRANSACTION.labels("purge").time():
            chunk = await self._transaction(task)
        if chunk is None:
            self.report.whole = False
            return False
        setattr(self.report, chunk.task, getattr(self.report, chunk.task) + len(chunk.done))
        if chunk.done:
            self.committed(chunk)
        return chunk.more

    async def _transaction(self, task: _PurgeTask) -> Chunk | None:
        """Run one transaction of a task. Returns None where another pod is purging."""
        async with self.database.transaction() as conn:
            self.turn = turn_of(await retention.try_purge(conn), self.now)
            self.report.held = is_held(self.turn)
            return await task(conn, self.turn.now) if self.turn.taken else None

    # -- uploads that wait for a registration

    async def expire_content(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Expire content whose registration did not come in time, and publish an event for each."""
        due = due_before(self.turn, self.turn.registrations_until, self.policy.pending_ttl)
        keys, more = await self._lock_due(conn, "find_due_content", due)
        expired = await retention.expire_content(conn, keys, due, now) if keys and due else []
        events = [event for content in expired if (event := expired_event(content, now, self.limits.event_bytes))]
        await publish(conn, events)
        return Chunk(
            "expired_content",
            [(each.batch_id, each.text_storage_id, each.correlation_id, each.traceparent) for each in expired],
            len(events),
            more,
        )

    async def expire_failures(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Expire waiting validation failures. Publishes no event for them."""
        due = due_before(self.turn, self.turn.registrations_until, self.policy.pending_ttl)
        return await self._end(conn, "expired_failures", "find_due_failures", "expire_failures", due, now)

    async def delete_expired_content(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Delete expired content that was not restored or reconciled within its retention."""
        due = time_before(now, self.policy.expired_retention)
        return await self._end(conn, "deleted_content", "find_old_expired_content", "delete_expired_content", due, now)

    async def delete_expired_failures(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Delete expired failures at the end of their retention."""
        due = time_before(now, self.policy.expired_retention)
        return await self._end(
            conn, "deleted_failures", "find_old_expired_failures", "delete_expired_failures", due, now
        )

    async def _end(
        self,
        conn: AsyncConnection[Any],
        task: str,
        finding: DueStatement,
        ending: EndingStatement,
        due: datetime | None,
        now: datetime,
    ) -> Chunk:
        keys, more = await self._lock_due(conn, finding, due)
        done = await retention.end(conn, ending, keys, due, now) if keys and due else []
        return Chunk(task, done, more=more)

    async def _lock_due(
        self, conn: AsyncConnection[Any], finding: DueStatement, due: datetime | None
    ) -> tuple[list[UploadKey], bool]:
        """Find what is due (None: nothing is), and lock its batches, without waiting.

        Returns the keys of locked batches that are not registered, and whether there may be more.
        """
        keys = await retention.find_due(conn, finding, due, self.skipped, ROWS_PER_CHUNK) if due else []
        locked = await self._lock(conn, {batch_id for batch_id, _ in keys})
        if locked:
            # A statement after the locks, so that it sees a registration that committed meanwhile.
            _, registered = await batches.read_batch_states(conn, locked)
            self.skipped |= registered.keys()
        return [key for key in keys if key[0] not in self.skipped], len(keys) == ROWS_PER_CHUNK

    async def _lock(self, conn: AsyncConnection[Any], batch_ids: Collection[str]) -> list[str]:
        """Lock batches, and skip those that other transactions hold. Returns the locked ones."""
        if not batch_ids:
            return []
        busy = await batches.try_lock_batches(conn, exclusive=sorted(batch_ids), shared=[])
        self._skip(busy)
        return sorted(set(batch_ids) - busy)

    def _skip(self, busy: Collection[str]) -> None:
        self.skipped |= set(busy)
        self.report.passed_over += len(busy)

    # -- batches

    async def report_late_batches(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Report batches that are neither ready nor failed after their timeout. They can still become so."""
        due = due_before(self.turn, self.turn.inputs_until, self.policy.batch_timeout)
        if due is None:
            return Chunk("timed_out_batches")
        late = await retention.find_late_batches(conn, due, BATCHES_PER_CHUNK)
        some = _for_one_transaction(late)
        events = [
            event
            for batch in some
            if (
                event := await timeout_event(conn, batch, self.policy.batch_timeout, now, self.limits.large_event_bytes)
            )
        ]
        await publish(conn, events)
        if some:
            await retention.mark_timed_out(conn, [batch.batch_id for batch in some], now)
        more = len(late) == BATCHES_PER_CHUNK or len(some) < len(late)
        done = [(batch.batch_id, batch.correlation_id, batch.traceparent) for batch in some]
        return Chunk("timed_out_batches", done, len(events), more)

    async def settle_confirmations(self, conn: AsyncConnection[Any], _: datetime) -> Chunk:
        """Apply confirmations that wait although their batch is registered."""
        return await settle_confirmations(conn, BATCHES_PER_CHUNK, self.limits.large_event_bytes)

    async def end_waits(self, conn: AsyncConnection[Any], _: datetime) -> Chunk:
        """Announce the batches as ready that are complete, since confirmations are not waited for any more."""
        found = await retention.find_unconfirmed_batches(conn, BATCHES_PER_CHUNK)
        some = [batch.batch_id for batch in _for_one_transaction(found)]
        if some:
            await retention.end_waiting(conn, some)
        ready = await publish_ready(conn, some, self.limits.large_event_bytes)
        more = len(found) == BATCHES_PER_CHUNK or len(some) < len(found)
        return Chunk("ended_waits", [(batch_id,) for batch_id in some], len(ready), more, ready)

    async def delete_batches(self, conn: AsyncConnection[Any], now: datetime) -> Chunk:
        """Delete batches that ended long ago, with all rows that belong to them."""
        due = time_before(now, self.policy.batch_retention)
        found = await retention.find_ended_batches(conn, due, self.skipped, BATCHES_PER_CHUNK)
        some = _for_one_transaction(found)
        locked = await self._lock(conn, [batch.batch_id for batch in some])
        deleted = await retention.delete_batches(conn, locked, due) if locked else []
        self._skip(set(locked) - {batch_id for batch_id, *_ in deleted})
        more = len(found) == BATCHES_PER_CHUNK or len(some) < len(found)
        return Chunk("deleted_batches", deleted, more=more)

    async def delete_confirmations(self, conn: AsyncConnection[Any], _: datetime) -> Chunk:
        """Delete confirmations whose registration did not come within the retention of batches."""
        due = due_before(self.turn, self.turn.registrations_until, self.policy.batch_retention)
        done = await retention.clear(conn, "delete_old_confirmations", due, ROWS_PER_CHUNK) if due else []
        return Chunk("deleted_confirmations", done, more=len(done) == ROWS_PER_CHUNK)

    def _clearing(self, task: str, clearing: ClearingStatement, seconds: int) -> _PurgeTask:
        """Return the task that deletes rows which were closed, or have waited, for longer than so many seconds."""

        async def clear(conn: AsyncConnection[Any], now: datetime) -> Chunk:
            done = await retention.clear(conn, clearing, time_before(now, seconds), ROWS_PER_CHUNK)
            return Chunk(task, done, more=len(done) == ROWS_PER_CHUNK)

        return clear


async def _index_changes(conn: AsyncConnection[Any], _: datetime) -> Chunk:
    """Let a search find what changed since the last round."""
    indexed = await search.index_changes(conn)
    return Chunk("indexed_batches", [(batch_id,) for batch_id in indexed], more=bool(indexed))


async def _note_round(conn: AsyncConnection[Any], _: datetime) -> Chunk:
    """Let ops.health know that somebody purges."""
    await retention.note_purge_round(conn)
    return Chunk("indexed_batches", [])


def _for_one_transaction(found: Sequence[_Sized]) -> list[_Sized]:
    """Return the first batch, and more up to SLOTS_PER_CHUNK slots.

    The limit is there because other transactions wait for the rows that a chunk locks.
    """
    some: list[_Sized] = []
    total = 0
    for batch in found:
        total += batch.expected
        if some and total > SLOTS_PER_CHUNK:
            break
        some.append(batch)
    return some
