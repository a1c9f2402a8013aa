"""Builds the announcements of a batch from its rows: of its end, its slots and its excess content.

An announcement that is built again from the same rows is the same event byte for byte.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Sequence
from typing import Any, Final

from psycopg import AsyncConnection

from service.domain import failure_events, outgoing
from service.domain.enveloped import Origin, Outgoing
from service.domain.topics import BATCH_CANCELLED, BATCH_COMPLETED, BATCH_READY, VALIDATION_ERRORS
from service.store import slots
from service.store.batches import RegisteredBatch

COMPLETION: Final = frozenset({VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY})
"""The topics on which a completion is announced."""

ENDING: Final = COMPLETION | {BATCH_CANCELLED}
"""The topics on which the end of a batch is announced."""

Essays = Callable[[], AsyncIterable[Sequence[tuple[str, str]]]]


async def announcements_of(
    conn: AsyncConnection[Any],
    row: RegisteredBatch,
    *,
    max_bytes: int,
    topics: Collection[str] = ENDING,
    essays: Essays | None = None,
) -> AsyncIterator[Outgoing]:
    """Yield what is announced of a batch without open slots: errors, its completion, that it is ready or cancelled.

    Only what is announced on these topics.

    Each call of `essays` yields pages of (essay_id, text_storage_id) of the assigned slots, in slot order; otherwise
    they are read. Raises Unpublishable.
    """
    essays = essays or (lambda: slots.stream_assigned_slots(conn, row.batch_id))
    origin = Origin(row.correlation_id, row.traceparent, row.tracestate)
    if row.completed_at is None:
        return
    if VALIDATION_ERRORS in topics and row.was_complete and (row.failed or row.state == "failed"):
        yield await failure_events.validation_errors(
            row.batch_id,
            lambda: slots.read_failed_slots(conn, row.batch_id),
            row.assigned == 0,
            origin,
            row.completed_at,
            max_bytes=max_bytes,
        )
    if (
        BATCH_COMPLETED in topics
        and row.was_complete
        and (row.state in ("complete", "cancelled") or row.ready_announced_at)
    ):
        yield await outgoing.batch_completed(
            row.batch_id,
            row.course_code,
            row.user_id,
            row.class_id,
            essays(),
            row.assigned,
            row.expected,
            origin,
            row.completed_at,
            max_bytes=max_bytes,
        )
    if BATCH_READY in topics and row.state == "ready":
        yield await outgoing.batch_ready(
            row.batch_id,
            row.course_code,
            row.essay_instructions,
            row.class_id,
            row.student_prompt_ref,
            essays(),
            origin,
            row.ready_announced_at or row.completed_at,
            max_bytes=max_bytes,
        )
    if BATCH_CANCELLED in topics and row.cancelled_at and row.cancel_reason:
        yield outgoing.batch_cancelled(
            row.batch_id,
            row.cancel_reason,
            row.expected,
            row.assigned,
            row.failed,
            origin,
            row.cancelled_at,
            max_bytes=max_bytes,
        )


async def slot_announcements(
    conn: AsyncConnection[Any], batch_id: str, *, max_bytes: int
) -> AsyncIterator[Outgoing | None]:
    """Yield EssaySlotAssigned of each assigned slot, in slot order; None where it is not known in full."""
    async for page in slots.read_slot_announcements(conn, batch_id):
        for is_known, essay_id, text, upload, name, time, *origin in page:
            if is_known:
                yield outgoing.slot_assigned(
                    batch_id, essay_id, text, upload, name, Origin(*origin), time, max_bytes=max_bytes
                )
            else:
                yield None


async def excess_announcements(
    conn: AsyncConnection[Any], batch_id: str, *, max_bytes: int
) -> AsyncIterator[Outgoing | None]:
    """Yield ExcessContentProvisioned of each excess content; None where it is not known in full."""
    async for page in slots.read_excess_announcements(conn, batch_id):
        for is_known, text, name, reason, time, *origin in page:
            if is_known:
                yield outgoing.excess_content(batch_id, text, name, reason, Origin(*origin), time, max_bytes=max_bytes)
            else:
                yield None
