"""Decides and publishes while the counter rows are locked: excess content, and the announcements of complete batches.

An announcement that is built again from the same rows, for the same time, is the same event byte for byte.
"""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from psycopg import AsyncConnection
from psycopg.errors import SerializationFailure

from service.domain import failure_events, outgoing
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
from service.domain.events import ContentProvisioned
from service.intake.outcome import EffectKind, EffectRecord
from service.intake.work import BatchWork, PollWork, in_pages
from service.postgres import queries
from service.store import batches, slots
from service.store.batches import RegisteredBatch

_T = TypeVar("_T")

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
            if batch.assigned or batch.failed or batch.excess or batch.unchecked or batch.surplus
        ]
        if not changed:
            return
        taken = {batch.batch_id: (batch.assigned, batch.failed) for batch in changed}
        counted = await batches.count_taken(self._work.conn, taken)
        # Sent after the counter rows are locked; their values are not needed for it.
        await self._work.publish(self._slot_events)
        counts = await counted
        self._check_counters(changed, counts)
        await self._declare_excess(changed, counts)
        complete = [announce.batch_id for announce in decide_announcements(counts, taken)]
        if complete:
            await self._announce(complete)

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
            is_known = (content.batch_id, content.text_storage_id) in known
            match decide_excess(
                content, counts[content.batch_id], is_known=is_known, was_not_full=delivery.was_not_full
            ):
                case RepeatContent():
                    work.record_repeat(delivery)
                case DeclareExcess(_, reason):
                    excess.append((content, reason))
                    work.record("content_excess", delivery, reason)
                case Retry(why):
                    raise SerializationFailure(why)
        if excess:
            await slots.insert_excess_content(work.conn, excess)
            await work.publish([work.excess(content, reason) for content, reason in excess])

    async def _announce(self, complete: Sequence[str]) -> None:
        conn = self._work.conn
        rows = await batches.read_batches(conn, complete)
        small = [batch_id for batch_id in complete if rows[batch_id].expected <= queries.PAGE]
        for page in in_pages(small, ANNOUNCED):
            assigned = await slots.read_assigned_slots(conn, page)
            await self._work.publish(
                [event for id_ in page async for event in self._events(rows[id_], _one_page(assigned[id_]))]
            )
        for batch_id in complete:
            if rows[batch_id].expected > queries.PAGE:
                pages = slots.stream_assigned_slots(conn, batch_id)
                await self._work.publish([event async for event in self._events(rows[batch_id], pages)])

    async def _events(
        self, row: RegisteredBatch, essays: AsyncIterable[Sequence[tuple[str, str]]]
    ) -> AsyncIterator[Outgoing]:
        work = self._work
        limit = work.limits.large_event_bytes
        async for event in announcements_of(work.conn, row, essays, work.now, max_bytes=limit):
            yield event
        kind: EffectKind = "batch_ready" if row.assigned else "batch_failed"
        seconds = (work.now - row.registered_at).total_seconds()
        work.effects.records.append(EffectRecord(kind, row.batch_id, None, row.correlation_id, None, None, seconds))


async def announcements_of(
    conn: AsyncConnection[Any],
    row: RegisteredBatch,
    essays: AsyncIterable[Sequence[tuple[str, str]]],
    completed_at: datetime,
    *,
    max_bytes: int,
) -> AsyncIterator[Outgoing]:
    """BatchValidationErrors where a slot failed, then BatchEssaysReady where one is assigned.

    `essays` are pages of (essay_id, text_storage_id) of the assigned slots, in slot order. Raises Unpublishable.
    """
    origin = Origin(row.correlation_id, row.traceparent, row.tracestate)
    if row.failed:
        yield await failure_events.validation_errors(
            row.batch_id,
            lambda: slots.read_failed_slots(conn, row.batch_id),
            row.assigned == 0,
            origin,
            completed_at,
            max_bytes=max_bytes,
        )
    if row.assigned:
        yield await outgoing.batch_ready(
            row.batch_id,
            row.course_code,
            row.essay_instructions,
            row.class_id,
            row.student_prompt_ref,
            essays,
            origin,
            completed_at,
            max_bytes=max_bytes,
        )


async def _one_page(rows: Sequence[_T]) -> AsyncIterator[Sequence[_T]]:
    yield rows
