"""Operator actions on registered batches."""

from typing import Any

from psycopg import AsyncConnection

from service.domain.delivery import Limits
from service.domain.enveloped import Outgoing
from service.intake import announcement as completion
from service.operators.errors import Impossible
from service.store import batches as store
from service.store import outbox, slots
from service.store.operator_actions import Done, Operator, record


async def republish(conn: AsyncConnection[Any], by: Operator, batch_id: str, limits: Limits) -> list[Outgoing]:
    """Put what a complete batch had to announce into the outbox again, with its old event ids.

    Raises Impossible where the batch is not registered or not complete.
    """
    _, registered = await store.look_at_batches(conn, [batch_id])
    if not registered:
        raise Impossible(f"batch {batch_id} is not registered")
    # The deciding row is held before it is read, so that the rows stand behind all that was committed before.
    count = (await (await store.count_taken(conn, {batch_id: (0, 0)})))[batch_id]
    row = (await store.read_batches(conn, [batch_id]))[batch_id]
    if row.completed_at is None:
        taken = f"{count.assigned + count.failed} of its {count.expected} slots are taken"
        raise Impossible(f"batch {batch_id} has announced nothing yet: {taken}")
    pages = slots.assigned_pages(conn, batch_id)
    announced = completion.announce(conn, row, pages, row.completed_at, max_bytes=limits.large_event_bytes)
    events = [event async for event in announced]
    await outbox.insert_outbox(conn, events)
    republished = {"events": [{"topic": event.topic, "event_id": event.event_id} for event in events]}
    await record(conn, by, "batches republish", [Done(batch_id, details=republished)])
    return events
