"""Reads and writes whole batches for a recovery, and the state of the recovery itself.

Each function runs in the caller's transaction, and raises psycopg.Error.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from aiokafka import TopicPartition
from psycopg import AsyncConnection

from service.domain.decisions import Register
from service.domain.events import ValidationFailed
from service.postgres import queries
from service.postgres.arrays import Blobs, Integers, Texts, Times
from service.postgres.queries import fetch_rows, send_query
from service.postgres.statements import STATEMENTS
from service.store.batches import registration_columns
from service.store.columns import content_columns, origin_columns
from service.store.progress import LastRecord, ProgressRow


class Content(NamedTuple):
    """A content as it is stored. What is not known is None: then only an output topic reports the content."""

    text_storage_id: str
    file_upload_id: str | None = None
    original_file_name: str | None = None
    raw_file_storage_id: str | None = None
    file_size_bytes: int | None = None
    content_md5_hash: str | None = None
    correlation_id: UUID | None = None
    traceparent: str | None = None
    tracestate: str | None = None


class StoredSlot(NamedTuple):
    """A slot. A failed one has an upload; an assigned one has content; an open one has neither."""

    essay_id: str
    position: int
    state: str
    content: Content | None = None
    file_upload_id: str | None = None
    taken_at: datetime | None = None
    is_only_listed: bool = False
    """Whether only a list announces it, so that its own announcement, which was earlier, is not known."""


class StoredContent(NamedTuple):
    """Content in no slot. `state` is pending, expired, removed or excess; `stored_at` says since when excess is."""

    state: str
    reason: str | None
    stored_at: datetime
    closed_at: datetime | None
    content: Content
    waiting_since: datetime | None = None
    """Since when it has waited, after a restore by an operator."""


class StoredFailure(NamedTuple):
    """A validation failure. `state` is pending, expired, removed, slot or surplus."""

    state: str
    failure: ValidationFailed


class AnnouncedTimes(NamedTuple):
    """What announcements state of a batch: when it became complete, was reported late, became ready, was cancelled.

    `ready_at` is None where a release has announced that which announced nothing else of a completion. `cancelled_at`
    is also that of a batch that is cancelled in the database, and stays so.
    """

    completed_at: datetime | None
    timed_out_at: datetime | None
    ready_at: datetime | None
    is_ready: bool
    cancelled_at: datetime | None = None
    cancel_reason: str | None = None


class StoredBatch(NamedTuple):
    """A registered batch."""

    essay_set: bytes
    completed_at: datetime | None
    timed_out_at: datetime | None
    assigned: int
    failed: int
    expected: int
    state: str
    ready_announced_at: datetime | None
    cancelled_at: datetime | None = None
    cancel_reason: str | None = None


@dataclass(slots=True)
class Stored:
    """All rows of one batch id."""

    batch: StoredBatch | None = None
    slots: list[StoredSlot] = field(default_factory=list)
    contents: list[StoredContent] = field(default_factory=list)
    failures: list[StoredFailure] = field(default_factory=list)


class RecoveryState(NamedTuple):
    """The state of a recovery. `known_until`: all that was committed until then is in the database; None: unknown."""

    since: datetime
    why: str
    known_until: datetime | None


async def begin_recovery(conn: AsyncConnection[Any], run: UUID, why: str) -> RecoveryState:
    """Note that this run recovers the database, instead of another one."""
    (row,) = await fetch_rows(conn, "begin_recovery", run=run, why=why)
    return RecoveryState(*row)


async def hold_recovery(conn: AsyncConnection[Any], run: UUID) -> None:
    """Keep the state of the recovery until the transaction ends. Refuses where it is not that of this run any more."""
    await send_query(conn, "hold_recovery", list, run=run)


async def read_relays(conn: AsyncConnection[Any]) -> tuple[int, bool]:
    """Read how many shards of the outbox living relays hold, and whether a relay has lived in the last minute."""
    ((held, has_lived),) = await fetch_rows(conn, "read_relays")
    return held, has_lived


async def read_stored(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, Stored]:
    """Read all rows of these batches."""
    found = {batch_id: Stored() for batch_id in batch_ids}
    asked = {"batch_ids": Texts(batch_ids)}
    for batch_id, *batch in await fetch_rows(conn, "read_stored_batches", **asked):
        found[batch_id].batch = StoredBatch(*batch)
    for batch_id, essay_id, position, state, text, *file, taken_at in await fetch_rows(
        conn, "read_stored_slots", **asked
    ):
        content = Content(text, *file) if state == "assigned" else None
        upload = file[0] if state == "failed" else None
        found[batch_id].slots.append(StoredSlot(essay_id, position, state, content, upload, taken_at))
    for batch_id, state, reason, stored_at, closed_at, waiting_since, *values, _ in await fetch_rows(
        conn, "read_stored_content", **asked
    ):
        stored = StoredContent(state, reason, stored_at, closed_at, Content(*values), waiting_since)
        found[batch_id].contents.append(stored)
    for batch_id, state, *failure in await fetch_rows(conn, "read_stored_failures", **asked):
        found[batch_id].failures.append(StoredFailure(state, ValidationFailed(batch_id, *failure)))
    return found


async def delete_announced_events(conn: AsyncConnection[Any], events: Sequence[tuple[str, str]]) -> int:
    """Delete events from the outbox: (batch id, event id). Returns how many there were."""
    rows = await fetch_rows(
        conn,
        "delete_announced_events",
        batch_ids=Texts([batch_id for batch_id, _ in events]),
        event_ids=Texts([event_id for _, event_id in events]),
    )
    if kept := [row for row in rows if row[1] is not None]:
        _, seqs, batch_ids, topics, texts, times = zip(*kept, strict=True)
        await conn.execute(
            STATEMENTS["keep_other_events"],
            {
                "seqs": Integers(seqs),
                "batch_ids": Texts(batch_ids),
                "topics": Texts(topics),
                "events": Texts(texts),
                "times": Times(times),
            },
        )
    return int(rows[0][0])


async def clear_batches(conn: AsyncConnection[Any], cleared: Sequence[tuple[str, str, str]]) -> None:
    """Take out what is written anew: (batch id, kind, key), see the statement."""
    batch_ids, kinds, keys = zip(*cleared, strict=True)
    await conn.execute(
        STATEMENTS["clear_batches"], {"batch_ids": Texts(batch_ids), "kinds": Texts(kinds), "keys": Texts(keys)}
    )


async def insert_recovered_batches(conn: AsyncConnection[Any], registered: Sequence[tuple[Register, datetime]]) -> None:
    """Insert batches, each with the time of its registration."""
    await conn.execute(
        STATEMENTS["insert_recovered_batches"],
        registration_columns([register for register, _ in registered])
        | {"registered_at": Times([at for _, at in registered])},
    )


async def write_slots(conn: AsyncConnection[Any], slots: Iterable[tuple[str, StoredSlot]]) -> None:
    """Write slots: (batch id, slot)."""
    rows = iter(slots)
    while page := list(islice(rows, queries.PAGE)):
        columns = content_columns([slot.content or slot for _, slot in page]) | {
            "batch_ids": Texts([batch_id for batch_id, _ in page]),
            "essay_ids": Texts([slot.essay_id for _, slot in page]),
            "positions": Integers([slot.position for _, slot in page]),
            "states": Texts([slot.state for _, slot in page]),
            "times": Times([slot.taken_at for _, slot in page]),
            "only_listed": [slot.is_only_listed for _, slot in page],
        }
        await conn.execute(STATEMENTS["write_recovered_slots"], columns)


async def write_excess(conn: AsyncConnection[Any], excess: Sequence[tuple[str, StoredContent]]) -> None:
    """Write content that was announced as excess: (batch id, content)."""
    reasons = Texts([each.reason for _, each in excess])
    await conn.execute(STATEMENTS["write_recovered_excess"], _stored_columns(excess) | {"reasons": reasons})


async def write_expired(conn: AsyncConnection[Any], expired: Sequence[tuple[str, StoredContent]]) -> None:
    """Write content whose expiry was announced: (batch id, content)."""
    columns = _stored_columns(expired)
    columns["stored_at"], columns["times"] = columns["times"], Times([each.closed_at for _, each in expired])
    await conn.execute(STATEMENTS["write_recovered_expired"], columns)


async def write_removed(conn: AsyncConnection[Any], removed: Sequence[tuple[str, StoredContent]]) -> None:
    """Write content that operators have removed, unless it is recorded: (batch id, content)."""
    columns = _stored_columns(removed)
    columns["closed_at"] = Times([each.closed_at for _, each in removed])
    await conn.execute(STATEMENTS["write_removed_content"], columns)


def _stored_columns(rows: Sequence[tuple[str, StoredContent]]) -> dict[str, object]:
    return content_columns([each.content for _, each in rows]) | {
        "batch_ids": Texts([batch_id for batch_id, _ in rows]),
        "times": Times([each.stored_at for _, each in rows]),
    }


async def write_failures(conn: AsyncConnection[Any], stored: Sequence[StoredFailure]) -> None:
    """Write validation failures."""
    failures = [each.failure for each in stored]
    await conn.execute(
        STATEMENTS["write_recovered_failures"],
        {
            "batch_ids": Texts([failure.batch_id for failure in failures]),
            "file_upload_ids": Texts([failure.file_upload_id for failure in failures]),
            "states": Texts([each.state for each in stored]),
            "original_file_names": Texts([failure.original_file_name for failure in failures]),
            "raw_file_storage_ids": Texts([failure.raw_file_storage_id for failure in failures]),
            "codes": Texts([failure.validation_error_code for failure in failures]),
            "error_details": Texts([orjson.dumps(failure.error_detail) for failure in failures]),
            "file_sizes_bytes": Integers([failure.file_size_bytes for failure in failures]),
            "failed_at": Times([failure.failed_at for failure in failures]),
            **origin_columns(failures),
        },
    )


async def write_incomplete_batches(conn: AsyncConnection[Any], incomplete: Mapping[str, Sequence[object]]) -> None:
    """Note batches whose registration is in no topic, with their announcements, which are JSON."""
    parameters = {
        "batch_ids": Texts(list(incomplete)),
        "announcements": Texts([orjson.dumps(announcements) for announcements in incomplete.values()]),
    }
    await conn.execute(STATEMENTS["write_incomplete_batches"], parameters)


async def read_incomplete_batches(conn: AsyncConnection[Any]) -> list[tuple[str, list[Any]]]:
    """Read the batches whose registration is in no topic, with their announcements."""
    return [(batch_id, announcements) for batch_id, announcements in await fetch_rows(conn, "read_incomplete_batches")]


async def read_incomplete_batch(conn: AsyncConnection[Any], batch_id: str) -> list[list[Any]]:
    """Read the announcements of a batch whose registration is in no topic. Returns one list, or none."""
    return [announcements for (announcements,) in await fetch_rows(conn, "read_incomplete_batch", batch_id=batch_id)]


async def complete_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """Forget that batches were incomplete."""
    await conn.execute(STATEMENTS["complete_batches"], {"batch_ids": Texts(batch_ids)})


async def count_recovered(
    conn: AsyncConnection[Any], times: Mapping[str, AnnouncedTimes], *, waits: bool
) -> dict[str, datetime | None]:
    """Set the counters of batches by their slots, and the times. Returns when each is complete.

    With `waits`, a batch with a class is ready only when it is confirmed.
    """
    rows = await fetch_rows(
        conn,
        "count_recovered",
        batch_ids=Texts(list(times)),
        completed_at=Times([each.completed_at for each in times.values()]),
        timed_out_at=Times([each.timed_out_at for each in times.values()]),
        ready_at=Times([each.ready_at for each in times.values()]),
        is_ready=[each.is_ready for each in times.values()],
        cancelled_at=Times([each.cancelled_at for each in times.values()]),
        cancel_reasons=Texts([each.cancel_reason for each in times.values()]),
        waits=waits,
    )
    return dict(rows)


async def advance_outbox(conn: AsyncConnection[Any], seq: int) -> None:
    """Make the next row of the outbox have a higher number than this."""
    await conn.execute(STATEMENTS["advance_outbox"], {"seq": seq})


async def write_progress(conn: AsyncConnection[Any], rows: Mapping[TopicPartition, ProgressRow]) -> None:
    """Write how far partitions are applied."""
    records: list[LastRecord | None] = [row.record for row in rows.values()]
    await conn.execute(
        STATEMENTS["write_progress"],
        {
            "topics": Texts([tp.topic for tp in rows]),
            "partitions": Integers([tp.partition for tp in rows]),
            "epochs": Integers([row.epoch for row in rows.values()]),
            "next_offsets": Integers([row.next_offset for row in rows.values()]),
            "record_offsets": Integers([record and record.offset for record in records]),
            "record_times": Times([record and record.at for record in records]),
            "record_digests": Blobs([record and record.digest for record in records]),
        },
    )
