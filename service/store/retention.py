"""Finds, expires, reports and deletes what has passed its time limit, for the purge.

`find_due`, `end` and `clear` each run a family of statements with the same parameters; every other function runs the
statement of its name. Each runs in the caller's transaction, and raises psycopg.Error. A find_… only reads: the
statements that change what was found check it again, under the locks of the batches. Rows whose time began at `due` or
before have passed their limit.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection

from service.domain.topics import BATCH_REGISTERED, INCOMING_TOPICS
from service.postgres.arrays import Texts
from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS

UploadKey = tuple[str, str]
"""(batch_id, text_storage_id) of a content, (batch_id, file_upload_id) of a failure."""

DueStatement = Literal["find_due_content", "find_due_failures", "find_old_expired_content", "find_old_expired_failures"]
EndingStatement = Literal["expire_failures", "delete_expired_content", "delete_expired_failures"]
ClearingStatement = Literal[
    "delete_removed_content",
    "delete_removed_failures",
    "delete_closed_quarantine",
    "delete_operator_actions",
    "delete_old_confirmations",
    "delete_old_erasures",
]


class ExpiredContent(NamedTuple):
    """A content whose registration did not come in time."""

    batch_id: str
    text_storage_id: str
    file_upload_id: str
    original_file_name: str
    stored_at: datetime
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


class LateBatch(NamedTuple):
    """A batch that is incomplete after its timeout."""

    batch_id: str
    expected: int
    assigned: int
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


class SizedBatch(NamedTuple):
    """A batch with its number of slots."""

    batch_id: str
    expected: int


class PurgeTurn(NamedTuple):
    """The right to purge, and what the purge goes by."""

    taken: bool
    now: datetime
    registrations_until: datetime | None
    """Every registration that was in its topic at this time is applied; None: that is not known of any time."""
    inputs_until: datetime | None
    """Likewise for all inputs."""


async def try_purge(conn: AsyncConnection[Any]) -> PurgeTurn:
    """Try to get the right to purge for this transaction."""
    (row,) = await fetch_rows(conn, "try_purge", topics=Texts(INCOMING_TOPICS), registrations=BATCH_REGISTERED)
    return PurgeTurn(*row)


async def note_purge_round(conn: AsyncConnection[Any]) -> None:
    """Note that a round has ended."""
    await conn.execute(STATEMENTS["note_purge_round"])


async def read_purge_hold(conn: AsyncConnection[Any]) -> tuple[datetime, bool, bool]:
    """Read the time of the database, whether it is noted that clocks do not agree, and whether that holds the purge."""
    (row,) = await fetch_rows(conn, "read_purge_hold")
    return row  # type: ignore[no-any-return]


async def hold_purge(conn: AsyncConnection[Any], why: str, seconds_apart: float, tolerance: float) -> None:
    """Note that the clocks of the database and of this pod do not agree."""
    parameters = {"why": why, "seconds_apart": seconds_apart, "tolerance": tolerance}
    await conn.execute(STATEMENTS["hold_purge"], parameters)


async def agree_on_time(conn: AsyncConnection[Any], rounds: int) -> None:
    """Note that the clocks agreed in a round; after so many rounds the hold ends."""
    await conn.execute(STATEMENTS["agree_on_time"], {"rounds": rounds})


async def acknowledge_purge_hold(conn: AsyncConnection[Any]) -> str | None:
    """Let the purge go on although clocks did not agree. Returns why it was held; None where it was not."""
    rows = await fetch_rows(conn, "acknowledge_purge_hold")
    return rows[0][0] if rows else None


async def count_due(
    conn: AsyncConnection[Any],
    *,
    pending: datetime | None,
    late: datetime | None,
    expired: datetime,
    ended: datetime,
    closed: datetime,
    actions: datetime,
    confirmations: datetime | None,
    erasures: datetime,
    waits: bool,
) -> dict[str, int]:
    """Count what has passed its time limit, by the names of PurgeReport. A time of None means that nothing is due."""
    cursor = await conn.execute(
        STATEMENTS["count_due"],
        {"pending_due": pending, "late_due": late, "expired_due": expired, "ended_due": ended, "closed_due": closed}
        | {"actions_due": actions, "waits": waits, "confirmations_due": confirmations, "erasures_due": erasures},
    )
    (counts,) = await cursor.fetchall()
    return {column.name: count for column, count in zip(cursor.description or (), counts, strict=True)}


async def find_due(
    conn: AsyncConnection[Any], finding: DueStatement, due: datetime, skipped: Collection[str], page: int
) -> list[UploadKey]:
    """Find the oldest contents or failures that are due, without those of skipped batches; at most `page`."""
    return await fetch_rows(conn, finding, due=due, skipped=Texts(sorted(skipped)), page=page)


async def expire_content(
    conn: AsyncConnection[Any], keys: Sequence[UploadKey], due: datetime, now: datetime
) -> list[ExpiredContent]:
    """Expire pending content. Returns what expired, in the order of arrival within each batch."""
    rows = await fetch_rows(conn, "expire_content", **_identities(keys), due=due, now=now)
    return [ExpiredContent(*row) for row in rows]


async def end(
    conn: AsyncConnection[Any], ending: EndingStatement, keys: Sequence[UploadKey], due: datetime, now: datetime
) -> list[tuple[Any, ...]]:
    """Expire failures, or delete what expired long ago. Returns the key, correlation id and traceparent of each row."""
    return await fetch_rows(conn, ending, **_identities(keys), due=due, now=now)


async def clear(
    conn: AsyncConnection[Any], clearing: ClearingStatement, due: datetime, page: int
) -> list[tuple[Any, ...]]:
    """Delete rows of long ago. Returns what identifies them.

    (batch_id, text_storage_id or class_id, correlation_id, traceparent), or (topic or action, id).
    """
    return await fetch_rows(conn, clearing, due=due, page=page)


async def find_late_batches(conn: AsyncConnection[Any], due: datetime, page: int) -> list[LateBatch]:
    """Find batches to report as late, the oldest first, and lock them until the transaction ends."""
    return [LateBatch(*row) for row in await fetch_rows(conn, "find_late_batches", due=due, page=page)]


async def mark_timed_out(conn: AsyncConnection[Any], batch_ids: Sequence[str], now: datetime) -> None:
    """Mark batches as reported late."""
    await conn.execute(STATEMENTS["mark_timed_out"], {"batch_ids": Texts(batch_ids), "now": now})


async def find_unconfirmed_batches(conn: AsyncConnection[Any], page: int) -> list[SizedBatch]:
    """Find batches that wait for a confirmation, the oldest first, and lock them until the transaction ends."""
    return [SizedBatch(*row) for row in await fetch_rows(conn, "find_unconfirmed_batches", page=page)]


async def end_waiting(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """Make batches ready that waited for a confirmation."""
    await conn.execute(STATEMENTS["end_waiting"], {"batch_ids": Texts(batch_ids)})


async def find_ended_batches(
    conn: AsyncConnection[Any], due: datetime, skipped: Collection[str], page: int
) -> list[SizedBatch]:
    """Find batches that ended long ago, the oldest first, without skipped ones."""
    rows = await fetch_rows(conn, "find_ended_batches", due=due, skipped=Texts(sorted(skipped)), page=page)
    return [SizedBatch(*row) for row in rows]


async def delete_batches(
    conn: AsyncConnection[Any], batch_ids: Sequence[str], due: datetime
) -> list[tuple[str, UUID, str | None]]:
    """Lock batches (`hold_batches`) and delete them with all rows that belong to them.

    Returns the id, correlation id and traceparent of each.

    Skips batches that another transaction works on, and those that changed since `find_ended_batches`.
    """
    held = [batch_id for (batch_id,) in await fetch_rows(conn, "hold_batches", batch_ids=Texts(batch_ids))]
    if not held:
        return []
    # A statement after the locks, so that it sees what was committed before they were taken.
    return await fetch_rows(conn, "delete_batches", batch_ids=Texts(held), due=due)


def _identities(keys: Sequence[UploadKey]) -> dict[str, object]:
    return {
        "batch_ids": Texts([batch_id for batch_id, _ in keys]),
        "identities": Texts([identity for _, identity in keys]),
    }
