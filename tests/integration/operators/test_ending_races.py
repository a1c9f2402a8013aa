"""A close or a cancellation races with others for one batch in every order that the locks allow.

Each may crash at its commit; what the crashed ones left undone is done again. At the end of each order no invariant is
violated, and at most one end of the batch is announced.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import pytest
from psycopg import AsyncConnection
from psycopg.errors import SerializationFailure

from service.domain.decisions import BatchCount, BatchState
from service.domain.delivery import IntakeLimits
from service.domain.events import Incoming
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    READINESS_TIMEOUT,
    VALIDATION_ERRORS,
    CancelReason,
)
from service.operators import endings
from service.operators.batches import BatchActions
from service.operators.errors import OperationError
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS
from service.store import batches, slots
from service.store.batches import RegisteredBatch
from service.store.operator_actions import Operator
from tests.integration.purge.test_purge_races import purge
from tests.support.builders.events import confirmation, content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.interleaving.interleaving import Report, Stage, stage
from tests.support.interleaving.race import Work
from tests.support.pods.applier import ApplyFixture
from tests.support.selection import partly_in_test_all

Conn = AsyncConnection[Any]
Patch = pytest.MonkeyPatch


def ending(reason: CancelReason | None) -> Callable[[Database], Awaitable[None]]:
    """Close the batch, or cancel it for a reason. An error is in the report."""

    async def work(database: Database) -> None:
        actions = BatchActions(database, IntakeLimits())
        with suppress(OperationError):
            if reason is None:
                await actions.close(Operator("a test"), "b")
            else:
                await actions.cancel(Operator("a test"), "b", reason)

    return work


CLOSE, CANCEL, LATE = ending(None), ending("DUPLICATE"), purge("report_late_batches")


@dataclass(frozen=True, slots=True)
class Race:
    """What races, by the names of the actors, from what other polls left behind."""

    before: Sequence[Incoming]
    works: Mapping[str, Sequence[Incoming] | Callable[[Database], Awaitable[None]]]


c1, c2, f1, k = content("c1"), content("c2"), failure("f1"), confirmation()
regular = registration(essays=2, class_id="8a")

RACES = {
    "close and content": Race([registration(essays=2)], {"X": CLOSE, "A": [c1]}),
    "close and the last content": Race([registration(essays=1)], {"X": CLOSE, "A": [c1]}),
    "close and two contents": Race([registration(essays=3)], {"X": CLOSE, "A": [c1, c2]}),
    "close and a failure": Race([registration(essays=2)], {"X": CLOSE, "A": [f1]}),
    "close and a confirmation": Race([regular, c1], {"X": CLOSE, "A": [k]}),
    "close and the late report": Race([registration(essays=2)], {"X": CLOSE, "P": LATE}),
    "close twice": Race([registration(essays=2), c1], {"X": CLOSE, "Y": CLOSE}),
    "close and cancellation": Race([registration(essays=2), c1], {"X": CLOSE, "Y": CANCEL}),
    "close and cancellation of a batch with a class": Race([regular, c1], {"X": CLOSE, "Y": CANCEL}),
    "cancellation and content": Race([registration(essays=2)], {"X": CANCEL, "A": [c1]}),
    "cancellation and the last content": Race([registration(essays=1)], {"X": CANCEL, "A": [c1]}),
    "cancellation and the last content of a batch with a class": Race(
        [registration(essays=1, class_id="8a")], {"X": CANCEL, "A": [c1]}
    ),
    "cancellation and a failure": Race([registration(essays=2)], {"X": CANCEL, "A": [f1]}),
    "cancellation and a confirmation": Race([registration(essays=1, class_id="8a"), c1], {"X": CANCEL, "A": [k]}),
    "cancellation and the late report": Race(
        [registration(essays=2)], {"X": CANCEL, "P": purge("report_late_batches")}
    ),
    "cancellation and the end of waits": Race(
        [registration(essays=1, class_id="8a"), c1], {"X": CANCEL, "P": purge("end_waits")}
    ),
}


LONG = {
    "close and two contents",
    "close and the last content",
    "close and a failure",
    "cancellation and content",
    "cancellation and the last content of a batch with a class",
    "cancellation and a failure",
}
"""Of each kind a shorter race stays in `make test`."""


async def run(played: Stage, race: Race, *, until: str | None = None) -> Report:
    """Every order of the race, each checked at its end; with `until`, up to one where that is wrong."""
    polls = {name: work for name, work in race.works.items() if not callable(work)}
    everything = [event for poll in (race.before, *polls.values()) for event in poll]

    async def check(played: Stage, dead: Sequence[str]) -> list[str]:
        found = wrong(played)
        for name in dead:
            work = race.works[name]
            again = work(cast("Database", played)) if callable(work) else played.deliver(deliveries(*work))
            await asyncio.create_task(again)  # type: ignore[arg-type]  # which keeps the context of a witness
        found += wrong(played)
        ((state,),) = played.observer.execute("select state from els.batches").fetchall()
        found += [f"it is {state} still"] if state == "registered" else []
        found += invariants.missing(played.observer, everything)
        before = invariants.state(played.observer)
        await played.deliver(deliveries(*everything))
        if invariants.state(played.observer) != before:
            found.append("I7: a repeat changed a row")
        return found

    await played.start_from(deliveries(*race.before))
    works: dict[str, Work] = {name: work if callable(work) else deliveries(*work) for name, work in race.works.items()}
    return await played.explore(lambda: works, check, deaths=1, until=until)


def wrong(played: Stage) -> list[str]:
    """What is wrong in the tables and the outbox."""
    found = invariants.violations(played.observer)
    found += [str(row) for row in played.observer.execute("select * from ops.invariant_violations")]
    rows = played.observer.execute("select topic from ops.outbox_events order by seq").fetchall()
    topics = [topic for (topic,) in rows]
    if {BATCH_READY, BATCH_CANCELLED} <= set(topics):
        found.append(f"I9: ready and cancelled: {topics}")
    if {VALIDATION_ERRORS, BATCH_CANCELLED} <= set(topics) and BATCH_COMPLETED not in topics:
        found.append(f"I9: failed and cancelled: {topics}")
    ended = [topics.index(topic) for topic in (BATCH_COMPLETED, BATCH_CANCELLED, VALIDATION_ERRORS) if topic in topics]
    if ended and READINESS_TIMEOUT in topics and topics.index(READINESS_TIMEOUT) > min(ended):
        found.append(f"late after its end: {topics}")
    return found


EXPECTED = {"Conflict"}
"""Errors with which an ending is refused."""


@pytest.mark.parametrize("name", partly_in_test_all(RACES, LONG, "the longest races of an ending"))
async def test_no_order_of_an_ending_and_another_violates_an_invariant(database_url: str, name: str) -> None:
    async with stage(database_url, 2) as played:
        report = await run(played, RACES[name])
    print(f"{name}: {report}")
    assert not report.violations, str(report.violations[0])
    assert not report.errors.keys() - EXPECTED
    assert not report.waited & {"claim_slots", "find_late_batches", "find_unconfirmed_batches"}
    assert report.orders > 1


def with_the_counter_row_before_the_slots(patch: Patch) -> None:
    """A poll that holds a slot waits for the counter row, and the ending for the slot."""
    lock_open_slots = slots.lock_open_slots

    async def lock(conn: Conn, batch_id: str) -> int:
        await (await batches.count_taken(conn, {batch_id: (0, 0)}))
        return await lock_open_slots(conn, batch_id)

    patch.setattr(slots, "lock_open_slots", lock)


def without_the_wait_for_slots(patch: Patch) -> None:
    """Slots that another transaction holds are withdrawn only while the counter row is held."""
    waiting = STATEMENTS["lock_open_slots"]
    patch.setitem(STATEMENTS, "lock_open_slots", waiting.replace("for update", "for update skip locked"))


def without_the_read_after_the_locks(patch: Patch) -> None:
    """The ending is decided by what was true before it has waited."""
    reads: ContextVar[tuple[RegisteredBatch, ...]] = ContextVar("reads", default=())
    read = endings._read

    async def first(conn: Conn, batch_id: str) -> RegisteredBatch:
        rows = reads.get()
        row = rows[0] if len(rows) == 1 else await read(conn, batch_id)
        reads.set((*rows, row))
        return row

    patch.setattr(endings, "_read", first)


def without_the_count_of_withdrawn_slots(patch: Patch) -> None:
    """The batch is ended, and its counters state that slots are open."""
    counted = STATEMENTS["end_batch"]
    patch.setitem(STATEMENTS, "end_batch", counted.replace("withdrawn = expected - assigned - failed", "withdrawn = 0"))


def with_slots_that_stay_open(patch: Patch) -> None:
    """The batch is ended, and its slots can still be taken."""
    patch.setitem(STATEMENTS, "withdraw_slots", "select %(batch_id)s::text where %(most)s < 0")


@pytest.mark.parametrize(
    ("broken", "race", "shows"),
    [
        (with_the_counter_row_before_the_slots, "close and content", "DeadlockDetected"),
        (with_the_counter_row_before_the_slots, "cancellation and a failure", "DeadlockDetected"),
        (without_the_wait_for_slots, "close and content", "DeadlockDetected"),
        (without_the_read_after_the_locks, "close and the last content", "CheckViolation"),
        (without_the_read_after_the_locks, "close and cancellation", "I"),
        (without_the_count_of_withdrawn_slots, "cancellation and content", "CheckViolation"),
        (with_slots_that_stay_open, "close and content", "I"),
    ],
)
async def test_the_races_detect_that_a_guard_is_removed(
    database_url: str, monkeypatch: Patch, broken: Callable[[Patch], None], race: str, shows: str
) -> None:
    broken(monkeypatch)
    async with stage(database_url, 2) as played:
        report = await run(played, RACES[race], until=shows)
    assert shows in report.errors or any(each.startswith(shows) for order in report.violations for each in order.found)


async def test_content_of_an_ended_batch_would_never_be_settled_if_withdrawn_slots_were_not_counted(
    applier: ApplyFixture, monkeypatch: Patch
) -> None:
    await applier.poll(registration(essays=1))
    await CLOSE(applier.database)
    for counted in (BatchCount, BatchState):
        monkeypatch.setattr(counted, "full", property(lambda batch: batch.assigned + batch.failed == batch.expected))
    outcome = await applier.once(*deliveries(c1))
    assert [delivery.event for delivery in outcome.deferred] == [c1]
    with pytest.raises(SerializationFailure, match="open again"):
        await applier.once(*deliveries(c1), exclusive=True)
