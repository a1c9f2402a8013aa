"""What waits for a registration, as operators look at it and change it.

Statements as in store.py: the connection first, no commit. Those that change have the batch alone (lock_batch)
and have looked since that it is not registered: a registered batch has nothing that waits.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from service.domain.events import ContentProvisioned
from service.postgres.arrays import Texts
from service.postgres.pipeline import PendingResult
from service.postgres.queries import fetch_rows, send_query
from service.postgres.statements import STATEMENTS
from service.store.columns import content_columns


@dataclass(frozen=True, slots=True)
class PendingFilter:
    """Which contents: every condition that is given must hold. Ages are seconds since a content was stored."""

    batch_id: str | None = None
    text_storage_ids: Sequence[str] | None = None
    contains: str | None = None
    """A part of the file's name, in either case."""
    older_than: float | None = None
    newer_than: float | None = None


class PendingRow(NamedTuple):
    """A content that waits, as operators see it in a list."""

    batch_id: str
    text_storage_id: str
    state: str
    original_file_name: str
    file_size_bytes: int
    correlation_id: UUID
    stored_at: datetime
    waiting_since: datetime
    closed_at: datetime | None
    arrival: int


async def list_pending_content(
    conn: AsyncConnection[Any],
    condition: PendingFilter,
    *,
    page: int,
    state: str = "pending",
    after: tuple[datetime, int] | None = None,
) -> list[PendingRow]:
    """The longest waiting; the next page is what comes `after` (waiting_since, arrival) of the last of this one."""
    after_time, after_arrival = after or (None, None)
    cursor = await conn.execute(
        STATEMENTS["list_pending_content"],
        {
            "batch_id": condition.batch_id,
            "contains": condition.contains,
            "older_than": condition.older_than,
            "newer_than": condition.newer_than,
            "state": state,
            "after_time": after_time,
            "after_arrival": after_arrival,
            "page": page,
        },
    )
    return [PendingRow(*row) async for row in cursor]


async def show_pending_content(
    conn: AsyncConnection[Any], batch_id: str, text_storage_id: str
) -> dict[str, Any] | None:
    """One content that waits, is expired or was removed, every column by its name; None where there is none."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS["show_pending_content"], {"batch_id": batch_id, "text_storage_id": text_storage_id})
    return await cursor.fetchone()


async def count_removable_content(conn: AsyncConnection[Any], condition: PendingFilter) -> int:
    """How much `remove_pending_content` would take as things stand."""
    cursor = await conn.execute(STATEMENTS["count_removable_content"], _of_a_batch(condition))
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def remove_pending_content(conn: AsyncConnection[Any], condition: PendingFilter) -> list[str]:
    """Close what is condition of a batch, expired content included; returns the text storage ids."""
    cursor = await conn.execute(STATEMENTS["remove_pending_content"], _of_a_batch(condition))
    return [text_storage_id async for (text_storage_id,) in cursor]


async def restore_pending_content(
    conn: AsyncConnection[Any], batch_id: str, text_storage_ids: Sequence[str] | None
) -> list[str]:
    """Expired content of a batch (None: all of it) waits again; returns the text storage ids."""
    cursor = await conn.execute(
        STATEMENTS["restore_pending_content"],
        {"batch_id": batch_id, "text_storage_ids": _texts(text_storage_ids)},
    )
    return [text_storage_id async for (text_storage_id,) in cursor]


def _of_a_batch(condition: PendingFilter) -> dict[str, object]:
    return {
        "batch_id": condition.batch_id,
        "text_storage_ids": _texts(condition.text_storage_ids),
        "contains": condition.contains,
        "older_than": condition.older_than,
        "newer_than": condition.newer_than,
    }


def _texts(values: Sequence[str] | None) -> Texts | None:
    return None if values is None else Texts(values)


WAITING_PAGE = 1_000
"""What waits is read in shorter pages: each becomes slots and events that are in memory with it."""

PAGE_BYTES = 4 * 1024 * 1024
"""A page of what may be long is shorter."""


async def count_waiting(conn: AsyncConnection[Any], batch_ids: Sequence[str], bound: int) -> dict[str, int]:
    """How many contents and failures wait for each batch; no more than `bound` of each are counted."""
    rows = await fetch_rows(conn, "count_waiting", batch_ids=Texts(batch_ids), bound=bound)
    return dict(rows)


async def pending_pages(
    conn: AsyncConnection[Any], batch_ids: Sequence[str]
) -> AsyncIterator[list[tuple[ContentProvisioned, datetime]]]:
    """What waits for the batches, in the order in which it was stored, with the time when it was, in pages."""

    async def behind(batch_id: str, arrival: int) -> PendingResult[list[Any]]:
        return await send_query(
            conn,
            "read_pending_content",
            list,
            batch_ids=Texts(batch_ids),
            after_batch_id=batch_id,
            after_arrival=arrival,
            page=WAITING_PAGE,
            bytes=PAGE_BYTES,
        )

    page = await behind("", 0)
    while rows := await page:
        # RequestModel for now: the server writes what is made of this page while the next is made.
        page = await behind(rows[-1][0], rows[-1][10])
        yield [(ContentProvisioned(*row[:10]), row[11]) for row in rows]


async def delete_pending_content(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """What waited for the batches waits no more."""
    await conn.execute(STATEMENTS["delete_pending_content"], {"batch_ids": Texts(batch_ids)})


async def store_pending_content(
    conn: AsyncConnection[Any], contents: Sequence[ContentProvisioned]
) -> set[tuple[str, str]]:
    """Keep content of unregistered batches; returns, as (batch_id, text_storage_id), what was new."""
    columns = content_columns(contents)
    columns["batch_ids"] = Texts([content.batch_id for content in contents])
    return set(await fetch_rows(conn, "store_pending_content", **columns))
