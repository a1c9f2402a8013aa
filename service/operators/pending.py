"""Implements the operator actions on pending content.

A change first locks the batch, then reads in a second statement that it is not registered. While the lock is held, the
batch cannot be registered. Each change writes a row into the log of operator actions in the same transaction.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from psycopg import AsyncConnection

from service.operators import parameters
from service.operators.errors import Conflict, NotFound
from service.operators.transactions import Page, transaction
from service.postgres.pool import Database
from service.postgres.queries import NamedRow
from service.store import batches, operator_actions, pending_content
from service.store.operator_actions import Operator, Subject
from service.store.pending_content import PendingContentRow, PendingFilter

NAMED: Final = 100
"""Maximum number of contents that a row of the log lists. It always has their number, and their `closed_at` equals its
`at`."""


class PendingActions:
    """Performs the operator actions on pending content. Every method raises OperationError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self,
        condition: PendingFilter,
        *,
        page: int,
        state: str = "pending",
        after: tuple[datetime, int] | None = None,
    ) -> Page[PendingContentRow]:
        """Returns a page of content in a state (pending, expired or removed), the longest waiting first."""
        async with transaction(self._database) as conn:
            rows = await pending_content.list_pending_content(conn, condition, page=page, state=state, after=after)
        more = parameters.pending_cursor_text(rows[-1].waiting_since, rows[-1].arrival) if len(rows) == page else None
        return Page(rows, more)

    async def show(self, batch_id: str, text_storage_id: str) -> NamedRow:
        """Returns a content that is pending, expired or removed, with all its columns."""
        async with transaction(self._database) as conn:
            row = await pending_content.show_pending_content(conn, batch_id, text_storage_id)
            _, registered = await batches.read_batch_states(conn, [batch_id])
        if row is None and registered:
            raise NotFound(
                f"batch {batch_id} is registered: nothing waits for it, see ops.slots and ops.excess_content"
            )
        if row is None:
            raise NotFound(f"there is no content {text_storage_id} that waits for batch {batch_id}")
        return row

    async def count_removable(self, condition: PendingFilter) -> int:
        """Returns how many contents `remove` would remove."""
        async with transaction(self._database) as conn:
            return await pending_content.count_removable_content(conn, condition)

    async def remove(self, by: Operator, action: str, condition: PendingFilter) -> int:
        """Remove content of one batch that is pending or expired. Returns how many contents, at least 1."""
        async with transaction(self._database) as conn:
            removed = await remove_pending(conn, by, action, condition)
        if not removed:
            raise NotFound(f"no such content waits for batch {condition.batch_id}")
        return removed

    async def restore(self, by: Operator, batch_id: str, text_storage_ids: Sequence[str] | None) -> int:
        """Make expired content of a batch (None: all of it) pending again. Returns how many contents, at least 1."""
        async with transaction(self._database) as conn:
            restored = await restore_pending(conn, by, batch_id, text_storage_ids)
        if not restored:
            raise NotFound(f"no such content of batch {batch_id} is expired")
        return restored


async def remove_pending(conn: AsyncConnection[Any], by: Operator, action: str, condition: PendingFilter) -> int:
    """Remove content in the caller's transaction. Returns how many contents.

    Raises Conflict if the batch is registered, NotFound if a named content does not wait, psycopg.Error (55P03) if
    another transaction holds the lock of the batch.
    """
    batch_id = await _lock_unregistered(conn, condition.batch_id)
    removed = await pending_content.remove_pending_content(conn, condition)
    _check_all(condition.text_storage_ids, removed, f"waits for batch {batch_id}")
    if removed:
        conditions = {name: getattr(condition, name) for name in ("contains", "older_than", "newer_than")}
        given = {name: value for name, value in conditions.items() if value is not None}
        await operator_actions.insert_operator_actions(
            conn, by, action, [Subject(batch_id, details=_details(removed) | given)]
        )
    return len(removed)


async def restore_pending(
    conn: AsyncConnection[Any], by: Operator, batch_id: str, text_storage_ids: Sequence[str] | None
) -> int:
    """Restore expired content in the caller's transaction. Returns how many contents. Raises like `remove_pending`."""
    await _lock_unregistered(conn, batch_id)
    restored = await pending_content.restore_pending_content(conn, batch_id, text_storage_ids)
    _check_all(text_storage_ids, restored, f"of batch {batch_id} is expired")
    if restored:
        await operator_actions.insert_operator_actions(
            conn, by, "pending restore", [Subject(batch_id, details=_details(restored))]
        )
    return len(restored)


async def _lock_unregistered(conn: AsyncConnection[Any], batch_id: str | None) -> str:
    """Lock the batch exclusively, then check that it is not registered. Raises Conflict if it is."""
    if batch_id is None:
        raise ValueError("a change is made to one batch")
    await batches.lock_batch(conn, batch_id, exclusive=True)
    _, registered = await batches.read_batch_states(conn, [batch_id])
    if registered:
        raise Conflict(f"batch {batch_id} is registered: nothing waits for it, its content has slots or is excess")
    return batch_id


def _check_all(named: Sequence[str] | None, changed: Sequence[str], such: str) -> None:
    """Raise NotFound, which rolls back, unless every named content was changed: a typing error must not be skipped."""
    if missing := set(named or ()) - set(changed):
        raise NotFound(f"no such content {such}: {min(missing)}")


def _details(text_storage_ids: Sequence[str]) -> dict[str, Any]:
    return {"contents": len(text_storage_ids), "text_storage_ids": list(text_storage_ids[:NAMED])}
