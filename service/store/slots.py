"""Slots, and content that found none."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from psycopg import AsyncConnection

from service.domain.contract import ExcessReason
from service.domain.decisions import Assign, Slot
from service.domain.events import ContentProvisioned, Upload, WaitingFailure
from service.domain.failure_events import FailedSlot
from service.postgres import queries
from service.postgres.arrays import Integers, Texts
from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows, stream_rows
from service.postgres.statements import STATEMENTS
from service.store.columns import content_columns

DETAILED_PAGE = 20
"""Rows of a page that may weigh a mebibyte each."""


async def insert_slots(conn: AsyncConnection[Any], slots: Iterable[tuple[Slot, ContentProvisioned | None]]) -> None:
    """Create slots, filled where content waited."""
    rows = iter(slots)
    while page := list(islice(rows, queries.PAGE)):
        await conn.execute(
            STATEMENTS["insert_slots"],
            {"positions": Integers([slot.position for slot, _ in page]), **_slot_columns(page)},
        )


async def find_known_content(
    conn: AsyncConnection[Any], contents: Sequence[ContentProvisioned]
) -> set[tuple[str, str]]:
    """Those of the contents, as (batch_id, text_storage_id), that are in a slot, excess or removed."""
    rows = await fetch_rows(
        conn,
        "find_known_content",
        batch_ids=Texts([content.batch_id for content in contents]),
        text_storage_ids=Texts([content.text_storage_id for content in contents]),
    )
    known = (contents[ordinal - 1] for (ordinal,) in rows)
    return {(content.batch_id, content.text_storage_id) for content in known}


async def claim_slots(conn: AsyncConnection[Any], wanted: Mapping[str, int]) -> list[Slot]:
    """The first open slots of each batch, as many as wanted and as nobody else holds."""
    rows = await fetch_rows(conn, "claim_slots", batch_ids=Texts(list(wanted)), counts=Integers(list(wanted.values())))
    return [Slot(*row) for row in rows]


async def await_slots(conn: AsyncConnection[Any], batch_id: str, count: int) -> None:
    """Hold the first open slots of one batch, waiting for those that others hold."""
    await conn.execute(STATEMENTS["await_slots"], {"batch_id": batch_id, "count": count})


async def fill_slots(conn: AsyncConnection[Any], assigned: Sequence[Assign]) -> None:
    """Put content and failures into claimed slots.

    In the order of the contents' keys: a content that another transaction is putting into a slot is waited
    for, and two transactions with the same contents must wait in one direction only.
    """
    rows = sorted(assigned, key=_identity)
    await conn.execute(STATEMENTS["fill_slots"], _slot_columns(rows))


async def read_assigned_slots(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """(essay_id, text_storage_id) of every assigned slot of small batches, in slot order."""
    slots: dict[str, list[tuple[str, str]]] = {batch_id: [] for batch_id in batch_ids}
    for batch_id, *essay in await fetch_rows(conn, "read_assigned_slots", batch_ids=Texts(batch_ids)):
        slots[batch_id].append(tuple(essay))
    return slots


async def assigned_pages(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """The same of one batch of any size, in pages."""
    async for page in stream_rows(conn, "read_assigned_slots", batch_ids=Texts([batch_id])):
        yield [(essay_id, text_storage_id) for _, essay_id, text_storage_id in page]


async def failed_pages(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[Sequence[FailedSlot]]:
    """Every failed slot of a batch with its failure, in slot order, in pages."""
    async for page in stream_rows(conn, "read_failed_slots", DETAILED_PAGE, batch_id=batch_id):
        yield [FailedSlot(*row) for row in page]


async def insert_excess_content(
    conn: AsyncConnection[Any], excess: Sequence[tuple[ContentProvisioned, ExcessReason]]
) -> None:
    """Content beyond the slots of its batch, with the reason."""
    contents = [content for content, _ in excess]
    columns = content_columns(contents)
    columns["batch_ids"] = Texts([content.batch_id for content in contents])
    columns["reasons"] = Texts([reason for _, reason in excess])
    await conn.execute(STATEMENTS["insert_excess_content"], columns)


def _identity(row: tuple[Slot, Any]) -> tuple[str, str, str]:
    slot, upload = row
    return slot.batch_id, getattr(upload, "text_storage_id", ""), upload.file_upload_id


def _slot_columns(
    rows: Sequence[tuple[Slot, Upload | WaitingFailure | None]],
) -> dict[str, object]:
    """Slots as arrays; nulls where nothing (or, but for its name, a failure) takes one."""
    columns = content_columns([upload for _, upload in rows])
    columns["batch_ids"] = Texts([slot.batch_id for slot, _ in rows])
    columns["essay_ids"] = Texts([slot.essay_id for slot, _ in rows])
    return columns


async def list_slots(conn: AsyncConnection[Any], batch_id: str, *, page: int, after: int = 0) -> list[NamedRow]:
    """A page of the slots of a batch, behind the position `after`."""
    return await fetch_named_rows(conn, "list_slots", batch_id=batch_id, after=after, page=page)


async def open_pages(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[list[str]]:
    """The essays that a batch of any size still waits for, in slot order, in pages."""
    async for page in stream_rows(conn, "read_open_slots", batch_id=batch_id):
        yield [essay_id for (essay_id,) in page]
