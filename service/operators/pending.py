"""Operator actions on content that waits for its registration."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from service.operators.errors import Impossible, NotThere
from service.store import batches as store
from service.store import pending_content as waiting
from service.store.operator_actions import Done, Operator, record
from service.store.pending_content import Chosen

NAMED = 100
"""So many contents an audit row names; of more it tells the number, and their `closed_at` is its `at`."""


async def remove_pending(conn: AsyncConnection[Any], by: Operator, action: str, chosen: Chosen) -> int:
    """Remove what is chosen of what waits for a batch, expired content included; returns how much it was.

    Raises Impossible where the batch is registered, NotThere where a content that is named does not wait,
    psycopg.Error (55P03) where somebody has the batch in hand.
    """
    batch_id = await _unregistered(conn, chosen.batch_id)
    removed = await waiting.remove_pending_content(conn, chosen)
    _all_of(chosen.text_storage_ids, removed, f"waits for batch {batch_id}")
    if removed:
        conditions = {name: getattr(chosen, name) for name in ("contains", "older_than", "newer_than")}
        given = {name: value for name, value in conditions.items() if value is not None}
        await record(conn, by, action, [Done(batch_id, details=_contents(removed) | given)])
    return len(removed)


async def restore_pending(
    conn: AsyncConnection[Any], by: Operator, batch_id: str, text_storage_ids: Sequence[str] | None
) -> int:
    """Let expired content (None: all of the batch) wait again; returns how much it was. Raises as remove_pending."""
    await _unregistered(conn, batch_id)
    restored = await waiting.restore_pending_content(conn, batch_id, text_storage_ids)
    _all_of(text_storage_ids, restored, f"of batch {batch_id} is expired")
    if restored:
        await record(conn, by, "pending restore", [Done(batch_id, details=_contents(restored))])
    return len(restored)


async def _unregistered(conn: AsyncConnection[Any], batch_id: str | None) -> str:
    """Have the batch alone, and see that it is not registered."""
    if batch_id is None:
        raise ValueError("a change is of one batch")
    await store.lock_batch(conn, batch_id, alone=True)
    _, registered = await store.look_at_batches(conn, [batch_id])
    if registered:
        raise Impossible(f"batch {batch_id} is registered: nothing waits for it, its content has slots or is excess")
    return batch_id


def _all_of(named: Sequence[str] | None, changed: Sequence[str], such: str) -> None:
    """What is named is changed, all of it, or nothing is: a slip in one name is not passed over."""
    if missing := set(named or ()) - set(changed):
        raise NotThere(f"nothing such {such}: {min(missing)}")


def _contents(text_storage_ids: Sequence[str]) -> dict[str, Any]:
    return {"contents": len(text_storage_ids), "text_storage_ids": list(text_storage_ids[:NAMED])}
