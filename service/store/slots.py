"""Inserts, locks, fills and reads slots, and inserts content that found none (excess).

Each function runs in the caller's transaction, and raises psycopg.Error.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from psycopg import AsyncConnection

from service.domain.contract import ExcessReason
from service.domain.decisions import (
    Assign,
    Slot,
)
from service.domain.events import ContentProvisioned, Upload, WaitingFailure
from service.domain.failure_events import FailedSlot
from service.domain.repeats import KnownFile
from service.postgres import queries
from service.postgres.arrays import Integers, Texts
from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows, stream_rows
from service.postgres.statements import STATEMENTS
from service.store.columns import content_columns

DETAILED_PAGE = 20
"""Rows of a page where each may have a mebibyte."""


async def insert_open_slots(conn: AsyncConnection[Any], slots: Iterable[Slot]) -> None:
    """Insert open slots of new batches."""
    rows = iter(slots)
    while page := list(islice(rows, queries.PAGE)):
        await conn.execute(STATEMENTS["insert_open_slots"], _new_slots(page))


async def insert_reconciled_slots(
    conn: AsyncConnection[Any], filled: Sequence[tuple[Slot, ContentProvisioned]]
) -> None:
    """Insert slots of new batches, each with content that is pending or expired until then."""
    texts = Texts([content.text_storage_id for _, content in filled])
    columns = _new_slots([slot for slot, _ in filled]) | {"text_storage_ids": texts}
    await conn.execute(STATEMENTS["insert_reconciled_slots"], columns)


async def insert_reconciled_excess(
    conn: AsyncConnection[Any], excess: Sequence[tuple[ContentProvisioned, ExcessReason]]
) -> None:
    """Insert content of new batches that is pending or expired until then, and found no slot, with the reason."""
    await conn.execute(
        STATEMENTS["insert_reconciled_excess"],
        {
            "batch_ids": Texts([content.batch_id for content, _ in excess]),
            "text_storage_ids": Texts([content.text_storage_id for content, _ in excess]),
            "reasons": Texts([reason for _, reason in excess]),
        },
    )


async def find_known_content(
    conn: AsyncConnection[Any], contents: Sequence[ContentProvisioned]
) -> dict[tuple[str, str], KnownFile]:
    """Find the contents that are recorded, with their files, by (batch_id, text_storage_id)."""
    rows = await fetch_rows(
        conn,
        "find_known_content",
        batch_ids=Texts([content.batch_id for content in contents]),
        text_storage_ids=Texts([content.text_storage_id for content in contents]),
    )
    known = ((contents[ordinal - 1], KnownFile(*file)) for ordinal, *file in rows)
    return {(content.batch_id, content.text_storage_id): file for content, file in known}


async def claim_slots(conn: AsyncConnection[Any], wanted: Mapping[str, int]) -> list[Slot]:
    """Lock the first open slots of each batch: as many as wanted, of those that no other transaction holds."""
    rows = await fetch_rows(conn, "claim_slots", batch_ids=Texts(list(wanted)), counts=Integers(list(wanted.values())))
    return [Slot(*row) for row in rows]


async def await_slots(conn: AsyncConnection[Any], batch_id: str, count: int) -> None:
    """Lock the first open slots of one batch, and wait for those that other transactions hold."""
    await conn.execute(STATEMENTS["await_slots"], {"batch_id": batch_id, "count": count})


async def lock_open_slots(conn: AsyncConnection[Any], batch_id: str) -> int:
    """Lock all open slots of one batch, and wait for those that other transactions hold. Returns how many."""
    ((count,),) = await fetch_rows(conn, "lock_open_slots", batch_id=batch_id)
    return int(count)


async def withdraw_slots(conn: AsyncConnection[Any], batch_id: str, *, most: int) -> list[str]:
    """Withdraw the open slots of one batch, which are locked. Returns the essays of the first, at most so many."""
    return [essay_id for (essay_id,) in await fetch_rows(conn, "withdraw_slots", batch_id=batch_id, most=most)]


async def fill_slots(conn: AsyncConnection[Any], assigned: Sequence[Assign]) -> None:
    """Assign contents and failures to claimed slots.

    Rows are written in the order of the contents' keys: a transaction waits for another that writes the same content,
    and two with the same contents must wait in one direction only.
    """
    rows = sorted(assigned, key=_identity)
    await conn.execute(STATEMENTS["fill_slots"], _slot_columns(rows))


async def read_assigned_slots(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Read (essay_id, text_storage_id) of every assigned slot of small batches, in slot order."""
    slots: dict[str, list[tuple[str, str]]] = {batch_id: [] for batch_id in batch_ids}
    for batch_id, *essay in await fetch_rows(conn, "read_assigned_slots", batch_ids=Texts(batch_ids)):
        slots[batch_id].append(tuple(essay))
    return slots


async def stream_assigned_slots(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """Read the same of one batch of any size, in pages."""
    async for page in stream_rows(conn, "read_assigned_slots", batch_ids=Texts([batch_id])):
        yield [(essay_id, text_storage_id) for _, essay_id, text_storage_id in page]


async def read_failed_slots(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[Sequence[FailedSlot]]:
    """Read every failed slot of a batch with its failure, in slot order, in pages."""
    async for page in stream_rows(conn, "read_failed_slots", DETAILED_PAGE, batch_id=batch_id):
        yield [FailedSlot(*row) for row in page]


async def insert_excess_content(
    conn: AsyncConnection[Any], excess: Sequence[tuple[ContentProvisioned, ExcessReason]]
) -> None:
    """Insert content that found no open slot, with the reason."""
    contents = [content for content, _ in excess]
    columns = content_columns(contents)
    columns["batch_ids"] = Texts([content.batch_id for content in contents])
    columns["reasons"] = Texts([reason for _, reason in excess])
    await conn.execute(STATEMENTS["insert_excess_content"], columns)


def _new_slots(slots: Sequence[Slot]) -> dict[str, object]:
    """Build the columns of slots that are new."""
    return {
        "batch_ids": Texts([slot.batch_id for slot in slots]),
        "essay_ids": Texts([slot.essay_id for slot in slots]),
        "positions": Integers([slot.position for slot in slots]),
    }


def _identity(row: tuple[Slot, Any]) -> tuple[str, str, str]:
    slot, upload = row
    return slot.batch_id, getattr(upload, "text_storage_id", ""), upload.file_upload_id


def _slot_columns(rows: Sequence[tuple[Slot, Upload | WaitingFailure]]) -> dict[str, object]:
    """Build the columns of slots that are filled; nulls where a failure lacks the attribute."""
    columns = content_columns([upload for _, upload in rows])
    columns["batch_ids"] = Texts([slot.batch_id for slot, _ in rows])
    columns["essay_ids"] = Texts([slot.essay_id for slot, _ in rows])
    return columns


async def list_slots(conn: AsyncConnection[Any], batch_id: str, *, page: int, after: int = 0) -> list[NamedRow]:
    """Read a page of the slots of a batch, after the position `after`."""
    return await fetch_named_rows(conn, "list_slots", batch_id=batch_id, after=after, page=page)


async def read_open_slots(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[list[str]]:
    """Read the essay ids of the open slots of a batch of any size, in slot order, in pages."""
    async for page in stream_rows(conn, "read_open_slots", batch_id=batch_id):
        yield [essay_id for (essay_id,) in page]


async def read_slot_announcements(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[list[Any]]:
    """Read what was announced of each assigned slot of a batch, in slot order, in pages: see the statement."""
    async for page in stream_rows(conn, "read_slot_announcements", batch_id=batch_id):
        yield page


async def read_excess_announcements(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[list[Any]]:
    """Read what was announced of each excess content of a batch, in pages: see the statement."""
    async for page in stream_rows(conn, "read_excess_announcements", batch_id=batch_id):
        yield page
