"""Reads the state of the service for gauges and for `top`.

The statements are cheap: they read the first of the rows that wait, never history. Each function runs one
statement in the caller's transaction, and raises psycopg.Error.
"""

from typing import Any, Literal

from psycopg import AsyncConnection

from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows
from service.postgres.statements import STATEMENTS

GaugeStatement = Literal["read_health", "count_violations"]


async def prepare_monitoring(conn: AsyncConnection[Any]) -> None:
    """Limit the time of this transaction's statements."""
    await conn.execute(STATEMENTS["prepare_monitoring"])


async def read_gauges(conn: AsyncConnection[Any], statement: GaugeStatement) -> list[float]:
    """Run `read_health` or `count_violations`. Returns its numbers in the order of the statement's columns."""
    (row,) = await fetch_rows(conn, statement)
    return [float(value) for value in row]


async def find_table_lock(conn: AsyncConnection[Any]) -> NamedRow | None:
    """Find a lock on a whole table that keeps the service from writing: mode, table, pid, login and application."""
    rows = await fetch_named_rows(conn, "find_table_lock")
    return rows[0] if rows else None


async def watch_health(conn: AsyncConnection[Any]) -> NamedRow:
    """Read ops.health and the statistics of the outbox, in one row."""
    (row,) = await fetch_named_rows(conn, "watch_health")
    return row


async def watch_events(conn: AsyncConnection[Any], page: int) -> list[NamedRow]:
    """Read the latest events of all kinds, the newest first; at most `page`."""
    return await fetch_named_rows(conn, "watch_events", page=page)
