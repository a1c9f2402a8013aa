"""Reads of the whole for gauges and for `top`: small statements on the head of what waits, never on history.

Each function runs one statement in the caller's transaction. Each raises psycopg.Error.
"""

from typing import Any, Literal

from psycopg import AsyncConnection

from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows
from service.postgres.statements import STATEMENTS

GaugeStatement = Literal["read_health", "count_violations"]


async def prepare_monitoring(conn: AsyncConnection[Any]) -> None:
    """Bound the time and the plans of this transaction's statements."""
    await conn.execute(STATEMENTS["prepare_monitoring"])


async def read_gauges(conn: AsyncConnection[Any], statement: GaugeStatement) -> list[float]:
    """The numbers of `read_health` or `count_violations`, in the order of the statement's columns."""
    (row,) = await fetch_rows(conn, statement)
    return [float(value) for value in row]


async def watch_health(conn: AsyncConnection[Any]) -> NamedRow:
    """ops.health and the statistics of the tables, in one row."""
    (row,) = await fetch_named_rows(conn, "watch_health")
    return row


async def watch_events(conn: AsyncConnection[Any], page: int) -> list[NamedRow]:
    """What happened last, the newest first."""
    return await fetch_named_rows(conn, "watch_events", page=page)
