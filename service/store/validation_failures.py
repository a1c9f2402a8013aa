"""Validation failures: recorded, waiting, settled."""

from collections.abc import Sequence
from typing import Any

import orjson
from psycopg import AsyncConnection

from service.domain.events import ValidationFailed, WaitingFailure
from service.postgres.arrays import Integers, Texts, Times
from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS
from service.store.columns import origin_columns


async def find_known_failures(conn: AsyncConnection[Any], failures: Sequence[ValidationFailed]) -> set[tuple[str, str]]:
    """Those of the failures, as (batch_id, file_upload_id), that are recorded."""
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
    """Record failures with their state (pending, slot, surplus); returns what was new."""
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


async def read_waiting_failures(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> list[WaitingFailure]:
    """The first page of failures that wait for the batches; settle them to come to the next."""
    rows = await fetch_rows(conn, "read_waiting_failures", batch_ids=Texts(batch_ids), page=FAILURES_PAGE)
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
