"""What is announced of a batch whose slots are all taken, when it happens and when it is built again.

Built again, from the same rows and for the same moment, it is the same event, byte for byte.
"""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from psycopg import AsyncConnection

from service.domain import failure_events, outgoing
from service.domain.enveloped import Origin, Outgoing
from service.store import batches as store
from service.store import slots


async def announce(
    conn: AsyncConnection[Any],
    row: store.BatchRow,
    essays: AsyncIterable[Sequence[tuple[str, str]]],
    completed_at: datetime,
    *,
    max_bytes: int,
) -> AsyncIterator[Outgoing]:
    """BatchValidationErrors where a slot failed, BatchEssaysReady where one is assigned, in this order.

    `essays` are pages of the assigned slots. Raises Unpublishable.
    """
    origin = Origin(row.correlation_id, row.traceparent, row.tracestate)
    if row.failed:
        yield await failure_events.validation_errors(
            row.batch_id,
            lambda: slots.failed_pages(conn, row.batch_id),
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
            essays,
            origin,
            completed_at,
            max_bytes=max_bytes,
        )
