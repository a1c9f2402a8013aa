"""The tables in one snapshot, as facts."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, Final, cast

from psycopg import AsyncConnection

from service.history import facts as facts_
from service.history.facts import EventFact, Fact, digest
from service.history.ledger import Ledger
from service.history.topics import (
    event_of,
)
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS

AUDIT_PAGE: Final = 5_000


async def read_tables(database: Database, ledger: Ledger, counts: Counter[str]) -> datetime:
    """Everything as one snapshot has it; returns its moment, by the database's clock."""
    async with database.transaction() as conn:
        await conn.execute("set transaction isolation level repeatable read, read only")
        cursor = await conn.execute(STATEMENTS["begin_audit"])
        ((moment,),) = await cursor.fetchall()
        for table, fact in _TABLES.items():
            async for page in _pages(conn, f"audit_{table}"):
                ledger.add([(each[0], fact(*each)) for each in page])
                counts[f"rows of {table}"] += len(page)
        async for page in _pages(conn, "audit_quarantine"):
            ledger.add_quarantined([(topic, fingerprint.hex(), state) for topic, fingerprint, state in page])
            counts["rows of quarantine"] += len(page)
        return cast("datetime", moment)


async def _pages(conn: AsyncConnection[Any], statement: str) -> AsyncIterator[list[Any]]:
    async with conn.cursor(name=statement) as cursor:
        await cursor.execute(STATEMENTS[statement])
        while page := await cursor.fetchmany(AUDIT_PAGE):
            yield page


def _batch(
    _: str, essay_set: bytes, expected: int, assigned: int, failed: int, state: str, *times: datetime | None
) -> facts_.BatchFact:
    registered_at, completed_at, timed_out_at = map(_seconds, times)
    return facts_.BatchFact(
        essay_set.hex(), expected, assigned, failed, state, registered_at or 0.0, completed_at, timed_out_at
    )


def _slot(
    _: str,
    essay_id: str,
    position: int,
    state: str,
    text: str | None,
    upload: str | None,
    name: str,
    file: list[Any],
    origin: list[Any],
    taken_at: datetime | None,
    written_by: int,
) -> facts_.SlotFact:
    says, told = digest(upload, name, *file, *origin), digest(essay_id, text, upload, name, *origin)
    return facts_.SlotFact(essay_id, position, state, text, upload, says, told, _seconds(taken_at), written_by)


def _waiting(
    _: str,
    text: str,
    state: str,
    upload: str,
    name: str,
    file: list[Any],
    origin: list[Any],
    stored_at: datetime,
    closed_at: datetime | None,
) -> facts_.WaitingFact:
    says, told = digest(upload, name, *file, *origin), digest(text, upload, name, *origin)
    return facts_.WaitingFact(text, state, says, told, stored_at.timestamp(), _seconds(closed_at))


def _excess(
    _: str, text: str, reason: str, upload: str, name: str, file: list[Any], origin: list[Any], declared_at: datetime
) -> facts_.ExcessFact:
    says, told = digest(upload, name, *file, *origin), digest(text, name, reason, *origin)
    return facts_.ExcessFact(text, says, told, declared_at.timestamp())


def _failure(_: str, upload: str, state: str, stored_at: datetime) -> facts_.FailureFact:
    return facts_.FailureFact(upload, state, stored_at.timestamp())


def _in_outbox(batch_id: str, topic: str, payload: str, seq: int, created_at: datetime) -> EventFact:
    event = event_of(topic, batch_id.encode(), payload.encode(), -1, seq, created_at.timestamp(), settled=False)
    if event is None:
        raise ValueError(f"row {seq} of the outbox is no event of ours")
    return event[1]


_TABLES: Final[Mapping[str, Callable[..., Fact]]] = {
    "batches": _batch,
    "slots": _slot,
    "pending_content": _waiting,
    "excess_content": _excess,
    "validation_failures": _failure,
    "outbox": _in_outbox,
}


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
