"""Runs a statement of sql/queries, and returns its rows: all, later, or in pages from a cursor."""

from collections.abc import AsyncIterator, Callable
from itertools import count
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from service.postgres.pipeline import PendingResult
from service.postgres.statements import STATEMENTS

_T = TypeVar("_T")

PAGE = 2_000
"""Rows that are read or written at a time where there may be a hundred thousand."""

NamedRow = dict[str, Any]
"""A row, with each column by its name."""

_CURSORS = count(1)
"""Numbers for the names of cursors: a reader that stops early leaves its cursor open until the transaction ends."""


async def fetch_rows(conn: AsyncConnection[Any], name: str, **parameters: object) -> list[Any]:
    """Run a statement of sql/queries and return all its rows as tuples. Raises psycopg.Error."""
    return await (await send_query(conn, name, list, **parameters))


async def send_query(
    conn: AsyncConnection[Any], name: str, read: Callable[[list[Any]], _T], **parameters: object
) -> PendingResult[_T]:
    """Send a statement. The result can be awaited later; `read` converts the rows. Raises psycopg.Error."""
    return PendingResult(await conn.execute(STATEMENTS[name], parameters, binary=True), read)


async def stream_rows(
    conn: AsyncConnection[Any], name: str, size: int = PAGE, **parameters: object
) -> AsyncIterator[Any]:
    """Read the rows of a statement in pages, through a cursor of the transaction. Memory holds one page.

    Does not use the driver's server-side cursors, since they do not work in pipelines. Raises psycopg.Error.
    """
    cursor = f"{name}_{next(_CURSORS)}"
    await conn.execute(f"declare {cursor} no scroll cursor for {STATEMENTS[name]}", parameters, prepare=False)
    while page := await (
        await conn.execute(f"fetch forward {size:d} from {cursor}", binary=True, prepare=False)
    ).fetchall():
        yield page
    await conn.execute(f"close {cursor}", prepare=False)


async def fetch_named_rows(conn: AsyncConnection[Any], name: str, **parameters: object) -> list[NamedRow]:
    """Run a statement and return all its rows, with each column by its name. Raises psycopg.Error."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS[name], parameters)
    return await cursor.fetchall()
