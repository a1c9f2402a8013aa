"""What waits for a registration, as operators look at it and change it.

Statements as in store.py: the connection first, no commit. Those that change have the batch alone (lock_batch)
and have looked since that it is not registered: a registered batch has nothing that waits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from service.postgres.statements import STATEMENTS, Texts


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which contents: every condition that is given must hold. Ages are seconds since a content was stored."""

    batch_id: str | None = None
    text_storage_ids: Sequence[str] | None = None
    contains: str | None = None
    """A part of the file's name, in either case."""
    older_than: float | None = None
    newer_than: float | None = None


class Waiting(NamedTuple):
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
    chosen: Chosen,
    *,
    page: int,
    state: str = "pending",
    after: tuple[datetime, int] | None = None,
) -> list[Waiting]:
    """The longest waiting; the next page is what comes `after` (waiting_since, arrival) of the last of this one."""
    after_time, after_arrival = after or (None, None)
    cursor = await conn.execute(
        STATEMENTS["list_pending_content"],
        {
            "batch_id": chosen.batch_id,
            "contains": chosen.contains,
            "older_than": chosen.older_than,
            "newer_than": chosen.newer_than,
            "state": state,
            "after_time": after_time,
            "after_arrival": after_arrival,
            "page": page,
        },
    )
    return [Waiting(*row) async for row in cursor]


async def show_pending_content(
    conn: AsyncConnection[Any], batch_id: str, text_storage_id: str
) -> dict[str, Any] | None:
    """One content that waits, is expired or was removed, every column by its name; None where there is none."""
    cursor = conn.cursor(row_factory=dict_row)
    await cursor.execute(STATEMENTS["show_pending_content"], {"batch_id": batch_id, "text_storage_id": text_storage_id})
    return await cursor.fetchone()


async def count_removable_content(conn: AsyncConnection[Any], chosen: Chosen) -> int:
    """How much `remove_pending_content` would take as things stand."""
    cursor = await conn.execute(STATEMENTS["count_removable_content"], _of_a_batch(chosen))
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def remove_pending_content(conn: AsyncConnection[Any], chosen: Chosen) -> list[str]:
    """Close what is chosen of a batch, expired content included; returns the text storage ids."""
    cursor = await conn.execute(STATEMENTS["remove_pending_content"], _of_a_batch(chosen))
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


def _of_a_batch(chosen: Chosen) -> dict[str, object]:
    return {
        "batch_id": chosen.batch_id,
        "text_storage_ids": _texts(chosen.text_storage_ids),
        "contains": chosen.contains,
        "older_than": chosen.older_than,
        "newer_than": chosen.newer_than,
    }


def _texts(values: Sequence[str] | None) -> Texts | None:
    return None if values is None else Texts(values)
