"""Registered batches, as operators look at them.

Statements as in store.py: the connection first, no commit; these change nothing.
"""

from collections.abc import Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from service.postgres.statements import STATEMENTS

Row = dict[str, Any]
"""Every column by its name."""


async def list_batches(
    conn: AsyncConnection[Any],
    *,
    page: int,
    state: str | None = None,
    user_id: str | None = None,
    older_than: float | None = None,
    newer_than: float | None = None,
    after: str | None = None,
) -> list[Row]:
    """A page by batch id; the next is what comes `after` the last. Ages are seconds since the registration."""
    chosen = {"state": state, "user_id": user_id, "older_than": older_than, "newer_than": newer_than}
    return await _rows(conn, "list_batches", {**chosen, "after": after, "page": page})


async def show_batch(conn: AsyncConnection[Any], batch_id: str) -> Row | None:
    """One batch; None where it is not registered."""
    rows = await _rows(conn, "show_batch", {"batch_id": batch_id})
    return rows[0] if rows else None


async def list_slots(conn: AsyncConnection[Any], batch_id: str, *, page: int, after: int = 0) -> list[Row]:
    """A page of the slots of a batch, behind the position `after`."""
    return await _rows(conn, "list_slots", {"batch_id": batch_id, "after": after, "page": page})


async def _rows(conn: AsyncConnection[Any], name: str, parameters: Mapping[str, object]) -> list[Row]:
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS[name], parameters)
    return await cursor.fetchall()
