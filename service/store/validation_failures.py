"""Stores validation failures, reads those that wait and records what became of them.

Each function runs one statement in the caller's transaction. Each raises psycopg.Error.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from psycopg import AsyncConnection

from service.domain.events import ValidationFailed, WaitingFailure
from service.postgres.arrays import Integers, Texts, Times
from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows
from service.postgres.statements import STATEMENTS
from service.store.columns import origin_columns
from service.store.pending_content import PendingFilter, condition_parameters


async def find_known_failures(conn: AsyncConnection[Any], failures: Sequence[ValidationFailed]) -> set[tuple[str, str]]:
    """Find the failures that are stored already. Returns (batch_id, file_upload_id)."""
    rows = await fetch_rows(
        conn,
        "find_known_failures",
        batch_ids=Texts([failure.batch_id for failure in failures]),
        file_upload_ids=Texts([failure.file_upload_id for failure in failures]),
    )
    known = (failures[ordinal - 1] for (ordinal,) in rows)
    return {(failure.batch_id, failure.file_upload_id) for failure in known}


async def store_failures(
    conn: AsyncConnection[Any], failures: Sequence[tuple[ValidationFailed, str]]
) -> set[tuple[str, str]]:
    """Store failures with their state (pending, slot, surplus). Returns what was new, as (batch_id, file_upload_id)."""
    events = [failure for failure, _ in failures]
    return set(
        await fetch_rows(
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
            **origin_columns(events),
        )
    )


FAILURES_PAGE = 100
"""Rows that `read_waiting_failures` reads at a time."""


async def read_waiting_failures(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> list[WaitingFailure]:
    """Read the first page of the failures that wait for the batches. Settle them to get the next page."""
    rows = await fetch_rows(conn, "read_waiting_failures", batch_ids=Texts(batch_ids), page=FAILURES_PAGE)
    return [WaitingFailure(*row) for row in rows]


async def settle_failures(conn: AsyncConnection[Any], settled: Sequence[tuple[WaitingFailure, str]]) -> None:
    """Record that failures that waited took a slot (`slot`) or found none (`surplus`)."""
    await conn.execute(
        STATEMENTS["settle_failures"],
        {
            "batch_ids": Texts([failure.batch_id for failure, _ in settled]),
            "file_upload_ids": Texts([failure.file_upload_id for failure, _ in settled]),
            "states": Texts([state for _, state in settled]),
        },
    )


async def remove_failures(conn: AsyncConnection[Any], condition: PendingFilter) -> list[str]:
    """Remove the failures of a batch that wait and match the condition, expired ones included.

    Returns their file upload ids. The caller holds the lock as for `remove_pending_content`.
    """
    rows = await fetch_rows(conn, "remove_failures", **condition_parameters(condition))
    return [file_upload_id for (file_upload_id,) in rows]


async def restore_failures(
    conn: AsyncConnection[Any], batch_id: str, file_upload_ids: Sequence[str] | None
) -> list[str]:
    """Make expired failures of a batch pending again (None: all of them). Returns the file upload ids."""
    given = None if file_upload_ids is None else Texts(file_upload_ids)
    rows = await fetch_rows(conn, "restore_failures", batch_id=batch_id, file_upload_ids=given)
    return [file_upload_id for (file_upload_id,) in rows]


async def list_waiting_failures(
    conn: AsyncConnection[Any], condition: PendingFilter, *, page: int, state: str, after: tuple[datetime, int] | None
) -> list[NamedRow]:
    """Read a page of failures that are pending, expired or removed, the longest waiting first.

    Give (waiting_since, arrival) of the last row as `after` for the next page.
    """
    after_time, after_arrival = after or (None, None)
    return await fetch_named_rows(
        conn,
        "list_waiting_failures",
        batch_id=condition.batch_id,
        contains=condition.contains,
        older_than=condition.older_than,
        newer_than=condition.newer_than,
        state=state,
        after_time=after_time,
        after_arrival=after_arrival,
        page=page,
    )


async def show_failure(conn: AsyncConnection[Any], batch_id: str, file_upload_id: str) -> NamedRow | None:
    """Read one failure; None where there is none."""
    rows = await fetch_named_rows(conn, "show_failure", batch_id=batch_id, file_upload_id=file_upload_id)
    return rows[0] if rows else None
