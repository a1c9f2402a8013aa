"""Registers, locks, counts and lists batches.

Each function runs one statement in the caller's transaction, and raises psycopg.Error. The file of the statement under
sql/queries/batches names the locks that it takes and the indexes that it uses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import orjson
from psycopg import AsyncConnection
from psycopg.errors import SerializationFailure

from service.domain.decisions import BatchCount, BatchState, Register
from service.domain.topics import CancelReason, CourseCode
from service.postgres.arrays import Blobs, Integers, Texts
from service.postgres.pipeline import PendingResult
from service.postgres.queries import NamedRow, fetch_named_rows, fetch_rows, send_query
from service.postgres.statements import STATEMENTS
from service.store.columns import origin_columns


class RegisteredBatch(NamedTuple):
    """A batch as in els.batches: its first registration, its counters and its times."""

    batch_id: str
    state: str
    expected: int
    assigned: int
    failed: int
    course_code: CourseCode
    user_id: str
    essay_instructions: str
    class_id: str | None
    org_id: str | None
    student_prompt_ref: dict[str, Any] | None
    correlation_id: Any
    traceparent: str | None
    tracestate: str | None
    registered_at: datetime
    completed_at: datetime | None
    confirmed_at: datetime | None
    ready_announced_at: datetime | None
    """Null where it is not announced, and where a release has announced it that announced no completion."""
    withdrawn: int
    cancelled_at: datetime | None
    cancel_reason: CancelReason | None
    erased_at: datetime | None
    """When personal data of the batch was erased last: its events can not be built again as they were."""

    @property
    def was_complete(self) -> bool:
        """Whether the batch had announced its completion before it was cancelled, if it was cancelled."""
        return self.completed_at is not None and (self.cancelled_at is None or self.completed_at < self.cancelled_at)


BatchStates = tuple[datetime, dict[str, BatchState], bool]
"""The transaction's time, the committed state of each batch that is registered, by batch id, and whether there are
tombstones."""

ERASURES: Final = "els.erasures".ljust(256, ".")
"""The name of the lock of erasures, which is too long for the id of a batch: registrations take it shared."""


async def send_read_batch_states(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> PendingResult[BatchStates]:
    """Send the read of the states of these batches; at least one."""

    def states(rows: list[Any]) -> BatchStates:
        return rows[0][1], {row[0]: BatchState(*row[2:8]) for row in rows if row[2] is not None}, rows[0][8]

    return await send_query(conn, "read_batch_states", states, batch_ids=Texts(batch_ids))


async def read_batch_states(
    conn: AsyncConnection[Any], batch_ids: Sequence[str]
) -> tuple[datetime, dict[str, BatchState]]:
    """Read the states of these batches; at least one."""
    now, known, _ = await (await send_read_batch_states(conn, batch_ids))
    return now, known


async def try_lock_batches(conn: AsyncConnection[Any], *, exclusive: Sequence[str], shared: Sequence[str]) -> set[str]:
    """Lock batches until the transaction ends, without waiting. Returns those that other transactions hold.

    Nobody can be registered while an erasure begins: then the others hold all that are to be locked exclusively.
    """
    names = [*shared, ERASURES] if exclusive else shared
    rows = await fetch_rows(conn, "try_lock_batches", exclusive=Texts(exclusive), shared=Texts(names))
    busy = {batch_id for batch_id, taken in rows if not taken}
    return busy - {ERASURES} | set(exclusive) if ERASURES in busy else busy


async def lock_batch(conn: AsyncConnection[Any], batch_id: str, *, exclusive: bool) -> None:
    """Lock one batch until the transaction ends, and wait for the lock."""
    parameters = {"batch_id": batch_id, "exclusive": exclusive, "erasures": ERASURES}
    await conn.execute(STATEMENTS["lock_batch"], parameters)


async def insert_batches(conn: AsyncConnection[Any], registrations: Sequence[Register]) -> None:
    """Insert batches, each with its essay_set. Their slots are inserted by `slots`."""
    await conn.execute(STATEMENTS["insert_batches"], registration_columns(registrations))


def registration_columns(registrations: Sequence[Register]) -> dict[str, object]:
    """Build the columns of batches from their registrations."""
    batches = [registration for registration, _ in registrations]
    return {
        "batch_ids": Texts([batch.batch_id for batch in batches]),
        "expected": Integers([len(batch.essay_ids) for batch in batches]),
        "essay_sets": Blobs([essay_set for _, essay_set in registrations]),
        "course_codes": Texts([batch.course_code for batch in batches]),
        "user_ids": Texts([batch.user_id for batch in batches]),
        "essay_instructions": Texts([batch.essay_instructions for batch in batches]),
        "class_ids": Texts([batch.class_id for batch in batches]),
        "org_ids": Texts([batch.org_id for batch in batches]),
        "student_prompt_refs": Texts(
            [None if ref is None else orjson.dumps(ref) for ref in (batch.student_prompt_ref for batch in batches)]
        ),
        **origin_columns(batches),
    }


async def count_taken(
    conn: AsyncConnection[Any], taken: Mapping[str, tuple[int, int]], *, waits: bool = True
) -> PendingResult[dict[str, BatchCount]]:
    """Add (assigned, failed) to the counters of batches, and lock these rows until the transaction ends.

    With `waits`, a batch with a class that becomes full is ready only when it is confirmed.
    The result raises SerializationFailure where a batch was deleted meanwhile, at the end of its retention.
    """

    def counts(rows: list[Any]) -> dict[str, BatchCount]:
        if len(rows) < len(taken):
            raise SerializationFailure("a batch was deleted meanwhile")
        return {row[0]: BatchCount(*row[1:]) for row in rows}

    return await send_query(
        conn,
        "count_taken",
        counts,
        batch_ids=Texts(list(taken)),
        assigned=Integers([assigned for assigned, _ in taken.values()]),
        failed=Integers([failed for _, failed in taken.values()]),
        waits=waits,
    )


async def find_held_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> set[str]:
    """Find the batches whose counter rows other transactions hold."""
    return {batch_id for (batch_id,) in await fetch_rows(conn, "find_held_batches", batch_ids=Texts(batch_ids))}


async def read_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, RegisteredBatch]:
    """Read batches with their registrations. No id may be given twice.

    Raises SerializationFailure where a batch was deleted meanwhile, at the end of its retention.
    """
    rows = await fetch_rows(conn, "read_batches", batch_ids=Texts(batch_ids))
    if len(rows) < len(batch_ids):
        raise SerializationFailure("a batch was deleted meanwhile")
    return {row[0]: RegisteredBatch(*row) for row in rows}


async def read_essay_ids(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read the essay ids of each batch, in slot order."""
    essay_ids: dict[str, list[str]] = {batch_id: [] for batch_id in batch_ids}
    for batch_id, essay_id in await fetch_rows(conn, "read_essay_ids", batch_ids=Texts(batch_ids)):
        essay_ids[batch_id].append(essay_id)
    return {batch_id: tuple(ids) for batch_id, ids in essay_ids.items()}


BATCH_STATES: Final = ("registered", "complete", "ready", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """Which batches to list. All given conditions must hold. Ages are seconds since the registration."""

    state: str | None = None
    late: bool = False
    """Only those that were reported late, and still wait for uploads."""
    unconfirmed: bool = False
    """Only those that are complete for longer than the batch timeout: the confirmation of their class is late."""
    user_id: str | None = None
    class_id: str | None = None
    org_id: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    before: tuple[datetime, str] | None = None
    """Only those after this one, (registered_at, batch_id), in the order of the list: for the next page."""

    def conditions(self) -> dict[str, object]:
        """Return the conditions but those on user, class and organisation, by parameter name."""
        states: tuple[str, ...] = (self.state,) if self.state else BATCH_STATES
        if self.late:
            states = tuple(state for state in states if state == "registered")
        if self.unconfirmed:
            states = tuple(state for state in states if state == "complete")
        before_time, before_id = self.before or (None, None)
        return {
            "states": Texts(states),
            "late": self.late,
            "unconfirmed": self.unconfirmed,
            "older_than": self.older_than,
            "newer_than": self.newer_than,
            "before_time": before_time,
            "before_id": before_id,
        }

    def of(self) -> dict[str, str | None]:
        """Return the conditions on user, class and organisation, by parameter name."""
        return {"user_id": self.user_id, "class_id": self.class_id, "org_id": self.org_id}


async def list_batches(conn: AsyncConnection[Any], condition: BatchFilter, page: int) -> list[NamedRow]:
    """Read a page of batches, the newest first. Ignores user, class and organisation (search.list_batches_of)."""
    return await fetch_named_rows(conn, "list_batches", **condition.conditions(), page=page)


async def show_batch(conn: AsyncConnection[Any], batch_id: str) -> NamedRow | None:
    """Read one batch with its events and excess content. Returns None where it is not registered."""
    rows = await fetch_named_rows(conn, "show_batch", batch_id=batch_id)
    return rows[0] if rows else None


async def end_batch(conn: AsyncConnection[Any], batch_id: str, state: str, reason: CancelReason | None) -> None:
    """Give a batch the state in which an operator ends it, while its counter row and its open slots are locked.

    `reason` is that of a cancellation.
    """
    await conn.execute(STATEMENTS["end_batch"], {"batch_id": batch_id, "state": state, "reason": reason})
