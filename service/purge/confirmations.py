"""Applies confirmations that no intake applies any more: a pod that knew none has registered their batch."""

from typing import Any

from psycopg import AsyncConnection

from service.domain.decisions import Confirm, decide_confirmations
from service.purge.events import publish_ready
from service.purge.policy import Chunk
from service.store import confirmations


async def settle_confirmations(conn: AsyncConnection[Any], page: int, max_bytes: int) -> Chunk:
    """Apply the first confirmations that wait although their batch is registered."""
    found = await confirmations.find_stranded_confirmations(conn, page)
    if not found:
        return Chunk("settled_confirmations")
    decided = decide_confirmations(found)
    await confirmations.store_confirmations(conn, [(each.confirmation, each.state) for each in decided])
    confirmed = {each.confirmation.batch_id for each in decided if isinstance(each, Confirm)}
    await confirmations.confirm_batches(conn, sorted(confirmed))
    waiting = {confirmation.batch_id for confirmation, batch in found if batch.state == "complete"}
    ready = await publish_ready(conn, sorted(waiting & confirmed), max_bytes)
    done = [
        (event.batch_id, event.class_id, event.correlation_id, event.traceparent)
        for event in (each.confirmation for each in decided)
    ]
    return Chunk("settled_confirmations", done, len(ready), True, ready)
