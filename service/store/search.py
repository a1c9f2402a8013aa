"""Finds batches and what happened to them, by any id or part of a file's name.

Each function runs in the caller's transaction. Each raises psycopg.Error.
"""

from typing import Any

from psycopg import AsyncConnection

from service.postgres.queries import NamedRow, fetch_named_rows


async def read_timeline(conn: AsyncConnection[Any], batch_id: str, page: int) -> list[NamedRow]:
    """Read the newest `page` things that happened to a batch, in their order."""
    return await fetch_named_rows(conn, "read_timeline", batch_id=batch_id, page=page)
