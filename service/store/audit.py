"""Reads whole tables for the audit, in one snapshot and in pages.

`audit_pages` runs all statements of the folder but `begin_audit`. Each function runs in the caller's transaction, and
raises psycopg.Error.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, Literal

from psycopg import AsyncConnection

from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS

AuditStatement = Literal[
    "audit_batches",
    "audit_excess_content",
    "audit_operator_inputs",
    "audit_outbox",
    "audit_pending_content",
    "audit_quarantine",
    "audit_slots",
    "audit_validation_failures",
    "audit_confirmations",
]

AUDIT_PAGE: Final = 5_000
"""Rows that are read from the cursor at a time."""

VALUES_PAGE: Final = 10
"""Rows that hold whole values, of up to 16 MiB."""


async def begin_audit(conn: AsyncConnection[Any]) -> tuple[datetime, datetime | None]:
    """Begin the snapshot of the transaction and make it read-only.

    Returns its time, by the database's clock, and that of a split whose history of the other half is not deleted yet.
    """
    await conn.execute("set transaction isolation level repeatable read, read only")
    ((began_at, split_at),) = await fetch_rows(conn, "begin_audit")
    return began_at, split_at


async def audit_pages(
    conn: AsyncConnection[Any], statement: AuditStatement, page_size: int = AUDIT_PAGE
) -> AsyncIterator[list[Any]]:
    """Read all rows of a table, in pages."""
    async with conn.cursor(name=statement) as cursor:
        await cursor.execute(STATEMENTS[statement])
        while page := await cursor.fetchmany(page_size):
            yield page
