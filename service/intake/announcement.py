"""Decides and publishes while the counter rows are locked: excess content, confirmations, and announcements."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from psycopg.errors import SerializationFailure

from service.domain.contract import ExcessReason
from service.domain.decisions import (
    BatchCount,
    DeclareExcess,
    DeferUpload,
    NoSlotLeft,
    RepeatContent,
    Retry,
    decide_announcements,
    decide_by_counter,
    decide_excess,
)
from service.domain.enveloped import Origin, Outgoing
from service.domain.events import ContentProvisioned, trace_id_of
from service.domain.topics import BATCH_READY
from service.intake.confirmations import Confirmations
from service.intake.erasures import Erasures
from service.intake.outcome import EffectKind, EffectRecord
from service.intake.work import BatchWork, PollWork, in_pages
from service.postgres import queries
from service.store import batches, slots
from service.store.announcements import COMPLETION, Essays, announcements_of
from service.store.batches import RegisteredBatch

_T = TypeVar("_T")

READY: Final = frozenset({BATCH_READY})
_EFFECT_OF: Final[Mapping[str, EffectKind]] = {
    "complete": "batch_completed",
    "ready": "batch_ready",
    "failed": "batch_failed",
}

ANNOUNCED: Final = 50
"""How many batches, each of at most a page of slots, are announced together."""


class Announcement:
    """The phase that counts taken slots, declares excess, and announces the batches that became complete."""

    def __init__(self, work: PollWork, slot_events: Sequence[Outgoing]) -> None:
        """`slot_events` are the EssaySlotAssigned events of the phases before."""
        self._work = work
        self._slot_events = slot_events

    async def announce(self) -> None:
        """Lock and change the counter rows, then write everything that this transaction publishes."""
        # A failure that found no slot changes no counter, but its batch must not have been deleted meanwhile.
        changed = [
            batch
            for batch in self._work.batches.values()
            if batch.assigned or batch.failed or batch.excess or batch.unchecked or batch.surplus or batch.to_confirm
        ]
        if not changed:
            return
        taken = {batch.batch_id: (batch.assigned, batch.failed) for batch in changed}
        counted = await batches.count_taken(self._work.conn, taken, waits=self._work.limits.ready_waits)
        # Sent after the counter rows are locked; their values are not needed for it.
        await self._work.publish(self._slot_events)
        counts = await counted
        Erasures(self._work).check(counts)
        self._check_counters(changed, counts)
        await self._declare_excess(changed, counts)
        due = {announce.batch_id: COMPLETION for announce in decide_announcements(counts, taken)}
        for batch_id in await Confirmations(self._work).confirm(changed):
            due.setdefault(batch_id, READY)
        if due:
            await self._announce(due)

    def _check_counters(self, changed: Sequence[BatchWork], counts: Mapping[str, BatchCount]) -> None:
        for batch in changed:
            for content in batch.unchecked:
                match decide_by_counter(content, counts[batch.batch_id]):
                    case NoSlotLeft():
                        batch.excess.append(content)
                    case DeferUpload():
                        self._work.defer_upload(content)

    async def _declare_excess(self, changed: Sequence[BatchWork], counts: Mapping[str, BatchCount]) -> None:
        candidates = [content for batch in changed for content in batch.excess]
        if not candidates:
            return
        work = self._work
        known = await slots.find_known_content(work.conn, candidates)
        excess: list[tuple[ContentProvisioned, ExcessReason]] = []
        for content in candidates:
            delivery = work.batches[content.batch_id].delivery_of(content)
            file = known.get((content.batch_id, content.text_storage_id))
            match decide_excess(
                content, counts[content.batch_id], is_known=file is not None, was_not_full=delivery.was_not_full
            ):
                case RepeatContent():
                    work.record_repeat(delivery, file)
                case DeclareExcess(_, reason):
                    excess.append((content, reason))
                    work.record("content_excess", delivery, reason)
                case Retry(why):
                    raise SerializationFailure(why)
        if excess:
            await slots.insert_excess_content(work.conn, excess)
            await work.publish([work.excess(content, reason) for content, reason in excess])

    async def _announce(self, due: Mapping[str, Collection[str]]) -> None:
        """Announce batches on the topics that are due."""
        conn = self._work.conn
        rows = await batches.read_batches(conn, list(due))
        small = [batch_id for batch_id in due if rows[batch_id].expected <= queries.PAGE]
        for page in in_pages(small, ANNOUNCED):
            assigned = await slots.read_assigned_slots(conn, page)
            await self._work.publish(
                [
                    event
                    for id_ in page
                    async for event in self._events(rows[id_], due[id_], partial(_one_page, assigned[id_]))
                ]
            )
        for batch_id, topics in due.items():
            if rows[batch_id].expected > queries.PAGE:
                async for event in self._events(rows[batch_id], topics):
                    await self._work.publish([event])

    async def _events(
        self, row: RegisteredBatch, topics: Collection[str], essays: Essays | None = None
    ) -> AsyncIterator[Outgoing]:
        work, limit = self._work, self._work.limits.large_event_bytes
        async for event in announcements_of(work.conn, row, max_bytes=limit, topics=topics, essays=essays):
            yield event
        kind = _EFFECT_OF[row.state]
        seconds = None if kind == "batch_completed" else (work.now - row.registered_at).total_seconds()
        work.effects.join(row.batch_id, Origin(row.correlation_id, row.traceparent, row.tracestate))
        trace_id = trace_id_of(row.traceparent)
        work.effects.records.append(
            EffectRecord(kind, row.batch_id, None, row.correlation_id, None, None, seconds, trace_id)
        )


async def _one_page(rows: Sequence[_T]) -> AsyncIterator[Sequence[_T]]:
    yield rows
