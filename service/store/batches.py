"""What a poll does to the database, a statement a function.

Every function takes the connection first and never commits: the caller's transaction decides. Which locks a
statement takes and which index serves it is said in its file under sql/queries.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import count, groupby, islice
from typing import Any, NamedTuple, TypeVar

import orjson
from psycopg import AsyncConnection
from psycopg.errors import SerializationFailure

from service.domain.decisions import BatchFacts, Seat, Slot
from service.domain.incoming import BatchRegistered, ContentProvisioned, CourseCode, Upload, ValidationFailed
from service.domain.outgoing import ExcessReason, FailedSlot, Outgoing
from service.postgres.pipeline import Answer
from service.postgres.statements import STATEMENTS, Blobs, Encoded, Integers, Texts, Times, Uuids

_T = TypeVar("_T")

PAGE = 2_000
"""Rows read or written at a time where there may be a hundred thousand."""

WAITING_PAGE = 1_000
"""What waits is read in shorter pages: each becomes slots and events that are in memory with it."""

PAGE_BYTES = 4 * 1024 * 1024
"""A page of what may be long is shorter."""

LARGE_EVENT = 1024 * 1024
"""Bytes of an event that is not copied once more for being written together with others."""

DETAILED_PAGE = 20
"""Rows of a page that may weigh a mebibyte each."""

_CURSORS = count(1)
"""A reader that stops early leaves its cursor open until the transaction ends: each has a name of its own."""


class BatchRow(NamedTuple):
    """What the first registration of a batch said, and how the batch stands."""

    batch_id: str
    expected: int
    assigned: int
    failed: int
    course_code: CourseCode
    user_id: str
    essay_instructions: str
    class_id: str | None
    org_id: str | None
    correlation_id: Any
    traceparent: str | None
    tracestate: str | None
    registered_at: datetime
    completed_at: datetime | None


class Count(NamedTuple):
    """How a batch stands after this transaction's slots were added."""

    expected: int
    assigned: int
    failed: int

    @property
    def full(self) -> bool:
        return self.assigned + self.failed == self.expected


Look = tuple[datetime, dict[str, BatchFacts]]
"""The transaction's time, and what is committed about those of the batches that are registered."""


async def ask_about_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> Answer[Look]:
    """How these batches stand; at least one."""

    def look(rows: list[Any]) -> Look:
        return rows[0][1], {row[0]: BatchFacts(*row[2:]) for row in rows if row[2] is not None}

    return await _ask(conn, "look_at_batches", look, batch_ids=Texts(batch_ids))


async def look_at_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> Look:
    """The same, waited for."""
    return await (await ask_about_batches(conn, batch_ids))


async def try_lock_batches(conn: AsyncConnection[Any], *, alone: Sequence[str], shared: Sequence[str]) -> set[str]:
    """Lock what is free, until the transaction ends; returns the batches that are not."""
    rows = await _rows(conn, "try_lock_batches", alone=Texts(alone), shared=Texts(shared))
    return {batch_id for batch_id, taken in rows if not taken}


async def lock_batch(conn: AsyncConnection[Any], batch_id: str, *, alone: bool) -> None:
    """Lock one batch, waiting for it."""
    await conn.execute(STATEMENTS["lock_batch"], {"batch_id": batch_id, "alone": alone})


async def count_waiting(conn: AsyncConnection[Any], batch_ids: Sequence[str], bound: int) -> dict[str, int]:
    """How many contents and failures wait for each batch; no more than `bound` of each are counted."""
    rows = await _rows(conn, "count_waiting", batch_ids=Texts(batch_ids), bound=bound)
    return dict(rows)


async def insert_batches(conn: AsyncConnection[Any], registrations: Sequence[tuple[BatchRegistered, bytes]]) -> None:
    """Register batches, each with its essay_set; no slot is taken."""
    batches = [registration for registration, _ in registrations]
    await conn.execute(
        STATEMENTS["insert_batches"],
        {
            "batch_ids": Texts([batch.batch_id for batch in batches]),
            "expected": Integers([len(batch.essay_ids) for batch in batches]),
            "essay_sets": Blobs([essay_set for _, essay_set in registrations]),
            "course_codes": Texts([batch.course_code for batch in batches]),
            "user_ids": Texts([batch.user_id for batch in batches]),
            "essay_instructions": Texts([batch.essay_instructions for batch in batches]),
            "class_ids": Texts([batch.class_id for batch in batches]),
            "org_ids": Texts([batch.org_id for batch in batches]),
            **_origins(batches),
        },
    )


async def pending_pages(
    conn: AsyncConnection[Any], batch_ids: Sequence[str]
) -> AsyncIterator[list[tuple[ContentProvisioned, datetime]]]:
    """What waits for the batches, in the order in which it was stored, with the time when it was, in pages."""

    async def behind(batch_id: str, arrival: int) -> Answer[list[Any]]:
        return await _ask(
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
        # Asked for now: the server writes what is made of this page while the next is made.
        page = await behind(rows[-1][0], rows[-1][10])
        yield [(ContentProvisioned(*row[:10]), row[11]) for row in rows]


async def delete_pending_content(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """What waited for the batches waits no more."""
    await conn.execute(STATEMENTS["delete_pending_content"], {"batch_ids": Texts(batch_ids)})


async def insert_slots(conn: AsyncConnection[Any], slots: Iterable[tuple[Slot, ContentProvisioned | None]]) -> None:
    """Create slots, filled where content waited."""
    rows = iter(slots)
    while page := list(islice(rows, PAGE)):
        await conn.execute(
            STATEMENTS["insert_slots"],
            {"positions": Integers([slot.position for slot, _ in page]), **_slot_columns(page)},
        )


async def find_known_content(
    conn: AsyncConnection[Any], contents: Sequence[ContentProvisioned]
) -> set[tuple[str, str]]:
    """Those of the contents, as (batch_id, text_storage_id), that are in a slot, excess or removed."""
    rows = await _rows(
        conn,
        "find_known_content",
        batch_ids=Texts([content.batch_id for content in contents]),
        text_storage_ids=Texts([content.text_storage_id for content in contents]),
    )
    known = (contents[ordinal - 1] for (ordinal,) in rows)
    return {(content.batch_id, content.text_storage_id) for content in known}


async def find_known_failures(conn: AsyncConnection[Any], failures: Sequence[ValidationFailed]) -> set[tuple[str, str]]:
    """Those of the failures, as (batch_id, file_upload_id), that are recorded."""
    rows = await _rows(
        conn,
        "find_known_failures",
        batch_ids=Texts([failure.batch_id for failure in failures]),
        file_upload_ids=Texts([failure.file_upload_id for failure in failures]),
    )
    known = (failures[ordinal - 1] for (ordinal,) in rows)
    return {(failure.batch_id, failure.file_upload_id) for failure in known}


async def claim_slots(conn: AsyncConnection[Any], wanted: Mapping[str, int]) -> list[Slot]:
    """The first open slots of each batch, as many as wanted and as nobody else holds."""
    rows = await _rows(conn, "claim_slots", batch_ids=Texts(list(wanted)), counts=Integers(list(wanted.values())))
    return [Slot(*row) for row in rows]


async def await_slots(conn: AsyncConnection[Any], batch_id: str, count: int) -> None:
    """Hold the first open slots of one batch, waiting for those that others hold."""
    await conn.execute(STATEMENTS["await_slots"], {"batch_id": batch_id, "count": count})


async def fill_slots(conn: AsyncConnection[Any], seats: Sequence[Seat]) -> None:
    """Put content and failures into claimed slots.

    In the order of the contents' keys: a content that another transaction is putting into a slot is waited
    for, and two transactions with the same contents must wait in one direction only.
    """
    rows = sorted(((each.slot, each.upload) for each in seats), key=_identity)
    await conn.execute(STATEMENTS["fill_slots"], _slot_columns(rows))


async def count_taken(conn: AsyncConnection[Any], taken: Mapping[str, tuple[int, int]]) -> Answer[dict[str, Count]]:
    """Add (assigned, failed) to the batches' counters and hold them until the transaction ends.

    The answer raises SerializationFailure where one was deleted meanwhile, at the end of its retention.
    """

    def counts(rows: list[Any]) -> dict[str, Count]:
        if len(rows) < len(taken):
            raise SerializationFailure("a batch is not there any more")
        return {row[0]: Count(*row[1:]) for row in rows}

    return await _ask(
        conn,
        "count_taken",
        counts,
        batch_ids=Texts(list(taken)),
        assigned=Integers([assigned for assigned, _ in taken.values()]),
        failed=Integers([failed for _, failed in taken.values()]),
    )


async def find_held_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> set[str]:
    """Those of the batches whose deciding row somebody else holds."""
    return {batch_id for (batch_id,) in await _rows(conn, "find_held_batches", batch_ids=Texts(batch_ids))}


async def read_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, BatchRow]:
    """What the registrations of the batches said, each named once.

    Raises SerializationFailure where one was deleted meanwhile, at the end of its retention.
    """
    rows = await _rows(conn, "read_batches", batch_ids=Texts(batch_ids))
    if len(rows) < len(batch_ids):
        raise SerializationFailure("a batch is not there any more")
    return {row[0]: BatchRow(*row) for row in rows}


async def read_essay_ids(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The essays of each batch in slot order."""
    essay_ids: dict[str, list[str]] = {batch_id: [] for batch_id in batch_ids}
    for batch_id, essay_id in await _rows(conn, "read_essay_ids", batch_ids=Texts(batch_ids)):
        essay_ids[batch_id].append(essay_id)
    return {batch_id: tuple(ids) for batch_id, ids in essay_ids.items()}


async def read_assigned_slots(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """(essay_id, text_storage_id) of every assigned slot of small batches, in slot order."""
    slots: dict[str, list[tuple[str, str]]] = {batch_id: [] for batch_id in batch_ids}
    for batch_id, *essay in await _rows(conn, "read_assigned_slots", batch_ids=Texts(batch_ids)):
        slots[batch_id].append(tuple(essay))
    return slots


async def assigned_pages(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[Sequence[tuple[str, str]]]:
    """The same of one batch of any size, in pages."""
    async for page in stream(conn, "read_assigned_slots", batch_ids=Texts([batch_id])):
        yield [(essay_id, text_storage_id) for _, essay_id, text_storage_id in page]


async def failed_pages(conn: AsyncConnection[Any], batch_id: str) -> AsyncIterator[Sequence[FailedSlot]]:
    """Every failed slot of a batch with its failure, in slot order, in pages."""
    async for page in stream(conn, "read_failed_slots", DETAILED_PAGE, batch_id=batch_id):
        yield [FailedSlot(*row) for row in page]


async def insert_excess_content(
    conn: AsyncConnection[Any], excess: Sequence[tuple[ContentProvisioned, ExcessReason]]
) -> None:
    """Content beyond the slots of its batch, with the reason."""
    contents = [content for content, _ in excess]
    columns = _content_columns(contents)
    columns["batch_ids"] = Texts([content.batch_id for content in contents])
    columns["reasons"] = Texts([reason for _, reason in excess])
    await conn.execute(STATEMENTS["insert_excess_content"], columns)


async def store_pending_content(
    conn: AsyncConnection[Any], contents: Sequence[ContentProvisioned]
) -> set[tuple[str, str]]:
    """Keep content of unregistered batches; returns, as (batch_id, text_storage_id), what was new."""
    columns = _content_columns(contents)
    columns["batch_ids"] = Texts([content.batch_id for content in contents])
    return set(await _rows(conn, "store_pending_content", **columns))


async def store_failures(
    conn: AsyncConnection[Any], failures: Sequence[tuple[ValidationFailed, str]]
) -> set[tuple[str, str]]:
    """Record failures with their state (pending, slot, surplus); returns what was new."""
    events = [failure for failure, _ in failures]
    return set(
        await _rows(
            conn,
            "store_failures",
            batch_ids=Texts([event.batch_id for event in events]),
            file_upload_ids=Texts([event.file_upload_id for event in events]),
            states=Texts([state for _, state in failures]),
            original_file_names=Texts([event.original_file_name for event in events]),
            raw_file_storage_ids=Texts([event.raw_file_storage_id for event in events]),
            validation_error_codes=Texts([event.validation_error_code for event in events]),
            error_details=Texts([orjson.dumps(event.error_detail) for event in events]),
            file_sizes_bytes=Integers([event.file_size_bytes for event in events]),
            failed_at=Times([event.failed_at for event in events]),
            **_origins(events),
        )
    )


FAILURES_PAGE = 100


class WaitingFailure(NamedTuple):
    """A failure that waits for its batch."""

    batch_id: str
    file_upload_id: str
    original_file_name: str
    correlation_id: Any


async def read_waiting_failures(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> list[WaitingFailure]:
    """The first page of failures that wait for the batches; settle them to come to the next."""
    rows = await _rows(conn, "read_waiting_failures", batch_ids=Texts(batch_ids), page=FAILURES_PAGE)
    return [WaitingFailure(*row) for row in rows]


async def settle_failures(conn: AsyncConnection[Any], settled: Sequence[tuple[WaitingFailure, str]]) -> None:
    """Failures that waited took a slot (`slot`) or found none (`surplus`)."""
    await conn.execute(
        STATEMENTS["settle_failures"],
        {
            "batch_ids": Texts([failure.batch_id for failure, _ in settled]),
            "file_upload_ids": Texts([failure.file_upload_id for failure, _ in settled]),
            "states": Texts([state for _, state in settled]),
        },
    )


async def insert_outbox(conn: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    """What must be published, in this order within a batch."""
    for weighs_much, some in groupby(events, lambda event: len(event.payload) > LARGE_EVENT):
        if not weighs_much:
            await _insert_events(conn, list(some))
            continue
        for event in some:
            large = event._asdict() | {"id": event.event_id, "payload": Encoded(event.payload)}
            await conn.execute(STATEMENTS["insert_large_event"], large)


async def _insert_events(conn: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    await conn.execute(
        STATEMENTS["insert_outbox"],
        {
            "ids": Uuids([event.event_id for event in events]),
            "batch_ids": Texts([event.batch_id for event in events]),
            "topics": Texts([event.topic for event in events]),
            "payloads": Texts([event.payload for event in events]),
            **_origins(events),
        },
    )


def _identity(row: tuple[Slot, Any]) -> tuple[str, str, str]:
    slot, upload = row
    return slot.batch_id, getattr(upload, "text_storage_id", ""), upload.file_upload_id


def _slot_columns(
    rows: Sequence[tuple[Slot, Upload | WaitingFailure | None]],
) -> dict[str, object]:
    """Slots as arrays; nulls where nothing (or, but for its name, a failure) takes one."""
    columns = _content_columns([upload for _, upload in rows])
    columns["batch_ids"] = Texts([slot.batch_id for slot, _ in rows])
    columns["essay_ids"] = Texts([slot.essay_id for slot, _ in rows])
    return columns


def _content_columns(uploads: Sequence[Any]) -> dict[str, object]:
    return {
        "text_storage_ids": Texts([getattr(each, "text_storage_id", None) for each in uploads]),
        "file_upload_ids": Texts([getattr(each, "file_upload_id", None) for each in uploads]),
        "original_file_names": Texts([getattr(each, "original_file_name", None) for each in uploads]),
        "raw_file_storage_ids": Texts([getattr(each, "raw_file_storage_id", None) for each in uploads]),
        "file_sizes_bytes": Integers([getattr(each, "file_size_bytes", None) for each in uploads]),
        "content_md5_hashes": Texts([getattr(each, "content_md5_hash", None) for each in uploads]),
        **_origins(uploads),
    }


def _origins(events: Sequence[Any]) -> dict[str, object]:
    """Where each came from: its correlation and its trace."""
    return {
        "correlation_ids": Uuids([getattr(event, "correlation_id", None) for event in events]),
        "traceparents": Texts([getattr(event, "traceparent", None) for event in events]),
        "tracestates": Texts([getattr(event, "tracestate", None) for event in events]),
    }


async def _rows(conn: AsyncConnection[Any], name: str, **parameters: object) -> list[Any]:
    return await (await _ask(conn, name, list, **parameters))


async def _ask(
    conn: AsyncConnection[Any], name: str, read: Callable[[list[Any]], _T], **parameters: object
) -> Answer[_T]:
    return Answer(await conn.execute(STATEMENTS[name], parameters, binary=True), read)


async def stream(conn: AsyncConnection[Any], name: str, size: int = PAGE, **parameters: object) -> AsyncIterator[Any]:
    """The rows of a statement in pages, read through a cursor of the transaction: memory holds one page.

    The driver's own server-side cursors are not for pipelines.
    """
    cursor = f"{name}_{next(_CURSORS)}"
    await conn.execute(f"declare {cursor} no scroll cursor for {STATEMENTS[name]}", parameters, prepare=False)
    while page := await (
        await conn.execute(f"fetch forward {size:d} from {cursor}", binary=True, prepare=False)
    ).fetchall():
        yield page
    await conn.execute(f"close {cursor}", prepare=False)
