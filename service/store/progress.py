"""Reads and writes how far the input topics are applied, and whether the database is behind them.

Each function runs in the caller's transaction. Each raises psycopg.Error; a statement that finds that the
database must not be written raises one with a SQLSTATE of `postgres.errors.Refusal`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from psycopg import AsyncConnection

from service.postgres.arrays import Blobs, Integers, Texts, Times
from service.postgres.pool import Database
from service.postgres.queries import fetch_rows, send_query
from service.postgres.statements import STATEMENTS

_LAST_SECOND = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


class LastRecord(NamedTuple):
    """The last record that was delivered below an offset: its offset, its time (None: impossible), its fingerprint."""

    offset: int
    at: datetime | None
    digest: bytes


class ProgressRow(NamedTuple):
    """The row of a partition."""

    epoch: int
    next_offset: int
    """Every record below it is dealt with."""
    record: LastRecord | None = None
    previous_release: bool = False
    """Whether a pod of a release that writes no rows has owned the partition since the row was written."""


class Step(NamedTuple):
    """How far a transaction moves a partition."""

    partition: TopicPartition
    epoch: int
    seen: int
    """The offset that this pod last saw committed in the row."""
    next_offset: int
    record: LastRecord | None
    """None where the last record below `next_offset` is not known."""


class LostInputs(NamedTuple):
    """A range of offsets whose records a topic has no more. `cause` is deleted, truncated or replaced."""

    partition: TopicPartition
    first_offset: int
    next_offset: int
    cause: str


class AnnouncedEvent(NamedTuple):
    """An event that an output topic contains. `kind` is slot, excess, completed, expired or timeout."""

    kind: str
    batch_id: str
    text_storage_id: str | None
    essay_id: str | None
    seq: int
    """The number of its row of the outbox."""
    published_at: int
    """The time of its record, in milliseconds."""


@dataclass(frozen=True, slots=True)
class DatabaseState:
    """Whether this database may be written, and which server it is on."""

    state: str | None
    """None, or behind or recovering; `why` says why."""
    why: str | None
    identity: str
    known_identity: str | None
    """The server that was compared with the topics last; None before the first comparison."""
    has_batches: bool
    slice_error: str | None = None
    """Why this process must not change the database: it holds another slice of the batches."""

    @property
    def error(self) -> str | None:
        """Why nothing may be applied, in one line; None where it may."""
        match self.state:
            case _ if self.slice_error:
                return self.slice_error
            case None:
                return None
            case "behind":
                return f"the database is behind its topics: {self.why}; run `recover`"
            case _:
                return f"recovery: {self.why}"


def time_of(milliseconds: int) -> datetime | None:
    """Convert the timestamp of a record; None where it is no time: a producer may send any number."""
    if not 0 <= milliseconds < _LAST_SECOND * 1000:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


async def record_progress(conn: AsyncConnection[Any], steps: Sequence[Step]) -> None:
    """Move the rows forward; send it last in a transaction. Refuses where this pod must not write."""
    records = [step.record for step in steps]
    await send_query(
        conn,
        "record_progress",
        list,
        **_partitions([step.partition for step in steps]),
        epochs=Integers([step.epoch for step in steps]),
        seen=Integers([step.seen for step in steps]),
        next_offsets=Integers([step.next_offset for step in steps]),
        record_offsets=Integers([record and record.offset for record in records]),
        record_times=Times([record and record.at for record in records]),
        record_digests=Blobs([record and record.digest for record in records]),
    )


async def read_clock(conn: AsyncConnection[Any]) -> datetime:
    """Read the time of the database."""
    ((now,),) = await fetch_rows(conn, "read_clock")
    return now  # type: ignore[no-any-return]


async def note_open_transactions(conn: AsyncConnection[Any], are_open: Mapping[TopicPartition, bool]) -> None:
    """Note whether a producer's transaction has been open in these partitions for long. Raises psycopg.Error."""
    parameters = {**_partitions(list(are_open)), "are_open": list(are_open.values())}
    await conn.execute(STATEMENTS["note_open_transactions"], parameters)


async def note_input_topics(conn: AsyncConnection[Any], partitions: Mapping[str, int], at: datetime) -> None:
    """Note how many partitions the input topics had at this time of the database. Raises psycopg.Error."""
    await conn.execute(
        STATEMENTS["note_input_topics"],
        {"topics": Texts(list(partitions)), "partitions": Integers(list(partitions.values())), "at": at},
    )


async def mark_applied(conn: AsyncConnection[Any], ends: Mapping[TopicPartition, tuple[int, int, datetime]]) -> None:
    """Note up to which time partitions are applied, by (epoch, end, time). Their rows have reached these ends.

    Raises psycopg.Error, also where a row has lost what was seen committed.
    """
    given = list(ends.values())
    await conn.execute(
        STATEMENTS["mark_applied"],
        {
            **_partitions(list(ends)),
            "epochs": Integers([epoch for epoch, _, _ in given]),
            "ends": Integers([end for _, end, _ in given]),
            "times": Times([at for _, _, at in given]),
        },
    )


async def read_progress(conn: AsyncConnection[Any]) -> dict[TopicPartition, ProgressRow]:
    """Read the rows of all partitions."""
    rows = {}
    for topic, partition, epoch, offset, *record, previous_release in await fetch_rows(conn, "read_progress"):
        last = None if record[0] is None else LastRecord(*record)
        rows[TopicPartition(topic, partition)] = ProgressRow(epoch, offset, last, previous_release)
    return rows


async def read_database_state(conn: AsyncConnection[Any]) -> DatabaseState:
    """Read whether this database may be written, and which server it is on."""
    (row,) = await fetch_rows(conn, "read_database_state")
    return DatabaseState(*row)


async def behind_error(database: Database) -> str | None:
    """Say in one line why nothing may be applied to the database; None where it may. Raises psycopg.Error."""
    async with database.transaction() as conn:
        return (await read_database_state(conn)).error


async def previous_release_warning(database: Database) -> str | None:
    """Say in one line that pods of the previous release have owned partitions last; None where none has."""
    async with database.transaction() as conn:
        owned = sum(row.previous_release for row in (await read_progress(conn)).values())
    if not owned:
        return None
    return (
        f"pods of the previous release have owned {owned} partitions last: until a pod of this release owns them,"
        " a loss of data is not noticed there"
    )


async def count_unknown_events(conn: AsyncConnection[Any], events: Sequence[AnnouncedEvent]) -> int:
    """Count the events that the tables do not contain."""
    ((count,),) = await fetch_rows(
        conn,
        "count_unknown_events",
        kinds=Texts([event.kind for event in events]),
        batch_ids=Texts([event.batch_id for event in events]),
        texts=Texts([event.text_storage_id for event in events]),
        essay_ids=Texts([event.essay_id for event in events]),
        seqs=Integers([event.seq for event in events]),
        milliseconds=Integers([event.published_at for event in events]),
    )
    return int(count)


async def resume_progress(
    conn: AsyncConnection[Any], resumed: Sequence[tuple[TopicPartition, int, int]]
) -> set[TopicPartition]:
    """Write (partition, epoch, next offset) where a pod continues. Returns the partitions that were written."""
    rows = await fetch_rows(
        conn,
        "resume_progress",
        **_partitions([partition for partition, _, _ in resumed]),
        epochs=Integers([epoch for _, epoch, _ in resumed]),
        next_offsets=Integers([offset for _, _, offset in resumed]),
    )
    return {TopicPartition(*row) for row in rows}


async def insert_lost_inputs(conn: AsyncConnection[Any], lost: Collection[LostInputs]) -> None:
    """Note inputs that a topic has no more."""
    parameters = _partitions([each.partition for each in lost]) | {
        "first_offsets": Integers([each.first_offset for each in lost]),
        "next_offsets": Integers([each.next_offset for each in lost]),
        "causes": Texts([each.cause for each in lost]),
    }
    await conn.execute(STATEMENTS["insert_lost_inputs"], parameters)


async def report_behind(conn: AsyncConnection[Any], why: str, records: int | None) -> None:
    """Note that the database is behind its topics, if nothing is noted yet."""
    await conn.execute(STATEMENTS["report_behind"], {"why": why, "records": records})


async def adopt_server(conn: AsyncConnection[Any], state: DatabaseState) -> bool:
    """Note that the server of `state` was compared with the topics. Returns whether it is still that server."""
    rows = await fetch_rows(conn, "adopt_server", identity=state.identity, known_identity=state.known_identity)
    return bool(rows)


async def end_recovery(conn: AsyncConnection[Any], state: DatabaseState) -> None:
    """Note that the database is not behind its topics any more, and that its server counts as compared from now on."""
    await conn.execute(STATEMENTS["end_recovery"])
    await conn.execute(STATEMENTS["forget_server"])
    await adopt_server(conn, replace(state, known_identity=None))


async def abandon_recovery(conn: AsyncConnection[Any]) -> None:
    """Note that the database must be compared with its topics again."""
    await conn.execute(STATEMENTS["end_recovery"])
    await conn.execute(STATEMENTS["forget_server"])


async def acknowledge_lost_inputs(conn: AsyncConnection[Any], ids: Sequence[int] | None) -> list[tuple[int, str]]:
    """Mark losses of inputs (None: all) as seen. Returns the id and the topic of each."""
    given = None if ids is None else Integers(ids)
    return [(id_, topic) for id_, topic in await fetch_rows(conn, "acknowledge_lost_inputs", ids=given)]


async def check_server(conn: AsyncConnection[Any]) -> None:
    """Refuse where the database is behind, in recovery, or another server than the one compared with the topics."""
    await send_query(conn, "check_server", list)


def _partitions(partitions: Sequence[TopicPartition]) -> dict[str, object]:
    return {
        "topics": Texts([partition.topic for partition in partitions]),
        "partitions": Integers([partition.partition for partition in partitions]),
    }
