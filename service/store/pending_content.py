"""Stores, reads and removes content that waits for the registration of its batch.

Each function runs in the caller's transaction, and raises psycopg.Error. Before it removes or restores content, the
caller takes the exclusive lock of the batch (batches.lock_batch) and then reads that the batch is not registered: a
registered batch has no content that waits.
"""

from collections.abc import AsyncIterator, Collection, Sequence
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
    """Which contents and validation failures to read or change. All given conditions must hold.

    Ages are seconds since they were stored; for a restore, since they expired.
    """

    batch_id: str | None = None
    ids: Sequence[str] | None = None
    """Text storage ids of contents, and file upload ids of failures."""
    contains: str | None = None
    """A part of the file's name, in either case."""
    older_than: float | None = None
    newer_than: float | None = None


class PendingContentRow(NamedTuple):
    """A content that is pending, expired or removed, with the columns that operators see in a list."""

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


class ExpiredUpload(NamedTuple):
    """A content or a validation failure that expired."""

    batch_id: str
    is_failure: bool
    upload: str
    """The text storage id of a content, the file upload id of a failure."""


async def list_pending_content(
    conn: AsyncConnection[Any],
    condition: PendingFilter,
    *,
    page: int,
    state: str = "pending",
    after: tuple[datetime, int] | None = None,
) -> list[PendingContentRow]:
    """Read a page of content in one state, the longest waiting first.

    Give (waiting_since, arrival) of the last row as `after` for the next page.
    """
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
    return [PendingContentRow(*row) async for row in cursor]


async def show_pending_content(
    conn: AsyncConnection[Any], batch_id: str, text_storage_id: str
) -> dict[str, Any] | None:
    """Read one content that is pending, expired or removed, each column by its name; None where there is none."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS["show_pending_content"], {"batch_id": batch_id, "text_storage_id": text_storage_id})
    return await cursor.fetchone()


async def count_removable(conn: AsyncConnection[Any], condition: PendingFilter) -> tuple[int, int]:
    """Count the contents and failures that `remove_pending_content` and `remove_failures` would remove now."""
    ((contents, failures),) = await fetch_rows(conn, "count_removable", **condition_parameters(condition))
    return contents, failures


async def remove_pending_content(conn: AsyncConnection[Any], condition: PendingFilter) -> list[str]:
    """Remove the contents of a batch that match the condition, expired ones included.

    Returns their text storage ids.
    """
    cursor = await conn.execute(STATEMENTS["remove_pending_content"], condition_parameters(condition))
    return [text_storage_id async for (text_storage_id,) in cursor]


async def restore_pending_content(
    conn: AsyncConnection[Any], batch_id: str, text_storage_ids: Sequence[str] | None
) -> list[str]:
    """Make expired content of a batch pending again (None: all of it). Returns the text storage ids."""
    cursor = await conn.execute(
        STATEMENTS["restore_pending_content"],
        {"batch_id": batch_id, "text_storage_ids": _texts(text_storage_ids)},
    )
    return [text_storage_id async for (text_storage_id,) in cursor]


async def find_expired(
    conn: AsyncConnection[Any], condition: PendingFilter, *, at: datetime | None, skipped: Collection[str], page: int
) -> list[ExpiredUpload]:
    """Find a page of expired content and failures, those that expired first before the rest.

    Leaves out what is of a skipped batch, and what expired after `at` (None: now), from which the ages count.
    """
    parameters = condition_parameters(condition) | {"at": at, "skipped": Texts(sorted(skipped)), "page": page}
    return [ExpiredUpload(*row) for row in await fetch_rows(conn, "find_expired", **parameters)]


async def count_expired(conn: AsyncConnection[Any], condition: PendingFilter) -> tuple[int, int]:
    """Count the expired contents and failures that match."""
    ((contents, failures),) = await fetch_rows(conn, "count_expired", **condition_parameters(condition))
    return contents, failures


def condition_parameters(condition: PendingFilter) -> dict[str, object]:
    """Return the parameters of the statements that read or change what matches a condition."""
    return {
        "batch_id": condition.batch_id,
        "ids": _texts(condition.ids),
        "contains": condition.contains,
        "older_than": condition.older_than,
        "newer_than": condition.newer_than,
    }


def _texts(values: Sequence[str] | None) -> Texts | None:
    return None if values is None else Texts(values)


WAITING_PAGE = 1_000
"""Rows of a page. Shorter than other pages, since the slots and events of each are in memory with it."""

PAGE_BYTES = 4 * 1024 * 1024
"""Bytes of file names in a page; file names may be long."""


async def count_waiting(conn: AsyncConnection[Any], batch_ids: Sequence[str], bound: int) -> dict[str, int]:
    """Count the contents and failures that wait for each batch; no more than `bound` of each kind are counted."""
    rows = await fetch_rows(conn, "count_waiting", batch_ids=Texts(batch_ids), bound=bound)
    return dict(rows)


async def read_pending_content(
    conn: AsyncConnection[Any], batch_ids: Sequence[str]
) -> AsyncIterator[list[tuple[ContentProvisioned, datetime]]]:
    """Read the content that waits for batches, in pages, each content with the time when it was stored.

    Contents come in the order in which they were stored.
    """

    async def page_after(batch_id: str, arrival: int) -> PendingResult[list[Any]]:
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

    page = await page_after("", 0)
    while rows := await page:
        # Sent before this page is handled: the server reads the next one meanwhile.
        page = await page_after(rows[-1][0], rows[-1][10])
        yield [(ContentProvisioned(*row[:10]), row[11]) for row in rows]


async def delete_pending_content(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """Delete the content that waited for the batches: it has slots, or is excess."""
    await conn.execute(STATEMENTS["delete_pending_content"], {"batch_ids": Texts(batch_ids)})


async def store_pending_content(
    conn: AsyncConnection[Any], contents: Sequence[ContentProvisioned]
) -> set[tuple[str, str]]:
    """Store content of unregistered batches. Returns what was new, as (batch_id, text_storage_id)."""
    columns = content_columns(contents)
    columns["batch_ids"] = Texts([content.batch_id for content in contents])
    return set(await fetch_rows(conn, "store_pending_content", **columns))
