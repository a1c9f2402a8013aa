"""Reads what waits for a registration, what expired, and the batches that are not finished."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.console.pages.reads import ROWS, ConsolePage, Query, Reads
from service.store import console
from service.store.pending_content import PendingFilter


async def _waiting(reads: Reads, query: Query) -> Mapping[str, Any]:
    batch, file = query.text("batch"), query.text("file")
    health = await reads.health()
    if batch or file:
        found = await reads.operations.pending.list(PendingFilter(batch, None, file), page=ROWS)
        return {"health": health, "batch": batch, "file": file, "contents": found.rows, "more": found.next is not None}
    async with reads.tables() as conn:
        return {
            "health": health,
            "batch": None,
            "file": None,
            "contents": None,
            "waiting": await console.list_waiting_batches(conn, ROWS),
            "expired": await console.list_expired_batches(conn, ROWS),
        }


async def _late(reads: Reads, _: Query) -> Mapping[str, Any]:
    async with reads.tables() as conn:
        rows = await console.list_late_batches(conn, ROWS)
    return {kind: [row for row in rows if row["kind"] == kind] for kind in ("late", "unconfirmed", "open")}


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage("waiting", "Waiting", "waiting.html", _waiting),
        ConsolePage("late", "Late", "late.html", _late),
    )
