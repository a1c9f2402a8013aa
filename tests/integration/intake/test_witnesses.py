"""Removes each guard against a race in turn, and tests that the races detect it.

A guard whose absence no order shows is unnecessary or untested.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg import AsyncConnection

from service.domain.decisions import BatchCount, BatchState
from service.domain.repeats import KnownFile
from service.intake import confirmations, transaction
from service.intake.announcement import Announcement
from service.intake.work import PollWork
from service.postgres.statements import STATEMENTS
from service.store import batches, slots
from service.store.batches import BatchStates, RegisteredBatch
from tests.integration.intake.test_races import RACES, complaints, run
from tests.support.interleaving.interleaving import stage
from tests.support.selection import partly_in_test_all

Conn = AsyncConnection[Any]
Patch = pytest.MonkeyPatch


def without_the_lock(patch: Patch) -> None:
    """Early content and its registration take no common lock."""
    everything = "select batch_id, true from unnest(%(exclusive)s::text[] || %(shared)s::text[]) as free (batch_id)"
    patch.setitem(STATEMENTS, "try_lock_batches", everything)
    patch.setitem(STATEMENTS, "lock_batch", "select %(batch_id)s::text, %(exclusive)s::bool")


def with_one_read_before_the_lock(patch: Patch) -> None:
    """The states are not read again after the lock."""

    async def lock_unregistered(work: PollWork, _: object) -> None:
        work.now, states = await batches.read_batch_states(work.conn, list(work.batches))
        for batch_id, known in states.items():
            work.batches[batch_id].state = known
        unregistered = [batch for batch in work.batches.values() if batch.state is None]
        if unregistered:
            await transaction.lock(work, unregistered)

    patch.setattr(transaction, "lock_unregistered", lock_unregistered)


LOCK_AND_READ = """
with locked as materialized (
    select case
        when %(exclusive)s then pg_advisory_xact_lock(hashtextextended(%(batch_id)s, 0))
        else pg_advisory_xact_lock_shared(hashtextextended(%(batch_id)s, 0))
    end
)
select batches.expected, batches.assigned, batches.failed, batches.essay_set
from locked
left join els.batches
    on batches.batch_id = %(batch_id)s
"""


def with_lock_and_read_in_one_statement(patch: Patch) -> None:
    """The snapshot of a statement is older than the locks that it waits for."""
    seen: ContextVar[tuple[Any, ...] | None] = ContextVar("seen", default=None)
    send_read_batch_states = batches.send_read_batch_states

    async def lock_batch(conn: Conn, batch_id: str, *, exclusive: bool) -> None:
        cursor = await conn.execute(LOCK_AND_READ, {"batch_id": batch_id, "exclusive": exclusive})
        seen.set(await cursor.fetchone())

    async def read(conn: Conn, batch_ids: Sequence[str]) -> Awaitable[BatchStates]:
        known = seen.get()
        seen.set(None)
        if known is None:
            return await send_read_batch_states(conn, batch_ids)

        async def states() -> BatchStates:
            return datetime.now(UTC), {} if known[0] is None else {batch_ids[0]: BatchState(*known)}, False

        return states()

    patch.setattr(batches, "lock_batch", lock_batch)
    patch.setattr(batches, "send_read_batch_states", read)


async def _no_wait(_conn: Conn, _batch_id: str, _count: int) -> None:
    pass


def without_the_wait_for_slots(patch: Patch) -> None:
    """Exclusive transactions do not wait for held slots. The counter row prevents false excess, but they never end."""
    patch.setattr(slots, "await_slots", _no_wait)


def without_the_wait_for_slots_and_the_check(patch: Patch) -> None:
    """In addition, the counter row is ignored: a batch with held slots is treated as full."""
    patch.setattr(slots, "await_slots", _no_wait)
    patch.setattr(BatchCount, "full", True)


def without_skip_locked(patch: Patch) -> None:
    """A poll of many batches waits for a transaction that holds a slot of one of them."""
    waiting = STATEMENTS["claim_slots"].replace("for update skip locked", "for update")
    patch.setitem(STATEMENTS, "claim_slots", waiting)


def without_a_read_before_excess(patch: Patch) -> None:
    """Content is declared excess without a check whether it is recorded already."""
    blind: ContextVar[bool] = ContextVar("blind", default=False)
    find_known_content, declare_excess = slots.find_known_content, Announcement._declare_excess

    async def find(conn: Conn, contents: Sequence[Any]) -> dict[tuple[str, str], KnownFile]:
        return {} if blind.get() else await find_known_content(conn, contents)

    async def declare(announcement: Announcement, *arguments: Any) -> None:
        token = blind.set(True)
        await declare_excess(announcement, *arguments)
        blind.reset(token)

    patch.setattr(slots, "find_known_content", find)
    patch.setattr(Announcement, "_declare_excess", declare)


COUNT_SLOTS = """
select batch_id, count(*), count(*) filter (where state = 'assigned'), count(*) filter (where state = 'failed')
from els.slots
where batch_id = any(%(batch_ids)s::text[])
group by batch_id
"""


Counting = Awaitable[dict[str, BatchCount]]


def with_slots_counted_instead_of_the_counter_row(patch: Patch) -> None:
    """Each transaction counts its own slots and the committed ones."""
    count_taken = batches.count_taken

    async def count(
        conn: Conn, taken: Mapping[str, tuple[int, int]], *, waits: bool
    ) -> Awaitable[dict[str, BatchCount]]:
        cursor = await conn.execute(COUNT_SLOTS, {"batch_ids": list(taken)})
        counted = {row[0]: BatchCount(*row[1:]) for row in await cursor.fetchall()}
        await (await count_taken(conn, taken, waits=waits))

        async def result() -> dict[str, BatchCount]:
            return counted

        return result()

    patch.setattr(batches, "count_taken", count)


def with_the_list_read_before_the_counter_row(patch: Patch) -> None:
    """Slots that other transactions have taken are missing in the list."""
    early: ContextVar[dict[str, list[tuple[str, str]]]] = ContextVar("early")
    count_taken, read_assigned_slots = batches.count_taken, slots.read_assigned_slots

    async def count(
        conn: Conn, taken: Mapping[str, tuple[int, int]], *, waits: bool
    ) -> Awaitable[dict[str, BatchCount]]:
        early.set(await read_assigned_slots(conn, list(taken)))
        return await count_taken(conn, taken, waits=waits)

    async def read(_conn: Conn, batch_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
        return {batch_id: early.get()[batch_id] for batch_id in batch_ids}

    patch.setattr(batches, "count_taken", count)
    patch.setattr(slots, "read_assigned_slots", read)


def with_the_confirmed_batch_read_before_the_counter_row(patch: Patch) -> None:
    """A confirmation does not see that the batch has become complete meanwhile."""
    early: ContextVar[dict[str, RegisteredBatch]] = ContextVar("early")
    count_taken = batches.count_taken

    async def count(conn: Conn, taken: Mapping[str, tuple[int, int]], *, waits: bool) -> Counting:
        early.set(await batches.read_batches(conn, list(taken)))
        return await count_taken(conn, taken, waits=waits)

    async def read(_conn: Conn, _batch_ids: Sequence[str]) -> dict[str, RegisteredBatch]:
        return early.get()

    patch.setattr(batches, "count_taken", count)
    patch.setattr(confirmations, "batches", SimpleNamespace(read_batches=read))


def without_a_change_of_the_code(_patch: Patch) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Witness:
    """A removed guard, in the code or in the schema, the race that detects it, and the expected complaint."""

    broken: Callable[[Patch], None]
    race: str
    shows: str
    schema: str = ""


WITNESSES = {
    "the lock": Witness(without_the_lock, "content and its registration", "I4"),
    "the lock, for failures": Witness(without_the_lock, "failure and its registration", "I4"),
    "the read after the lock": Witness(with_one_read_before_the_lock, "content and its registration", "I4"),
    "the read in a statement of its own": Witness(
        with_lock_and_read_in_one_statement, "content and its registration", "I4"
    ),
    "the wait for slots": Witness(without_the_wait_for_slots, "two contents on the last slot", "SerializationFailure"),
    "the wait for slots and the check of the counter row": Witness(
        without_the_wait_for_slots_and_the_check, "two contents on the last slot", "I3"
    ),
    "skip locked": Witness(without_skip_locked, "two contents on the last slot", "claim_slots waited"),
    "the unique index of contents": Witness(
        without_a_change_of_the_code, "one content twice on the last two slots", "I1", "drop index els.slots_content"
    ),
    "the unique index of failures": Witness(
        without_a_change_of_the_code,
        "one failure twice on the last two slots",
        "SerializationFailure",
        "drop index els.slots_failure",
    ),
    "the read before excess": Witness(without_a_read_before_excess, "one content twice on the last slot", "I1"),
    "the counter row": Witness(
        with_slots_counted_instead_of_the_counter_row, "two contents on the last two slots", "I5"
    ),
    "the read of a confirmed batch after the counter row": Witness(
        with_the_confirmed_batch_read_before_the_counter_row, "a confirmation and the last slot", "I"
    ),
    "the read of the list after the counter row": Witness(
        with_the_list_read_before_the_counter_row, "two contents on the last two slots", "I5"
    ),
}


LONG = {"the wait for slots"}
"""Takes as long as all others together. Another witness is about the same guard."""


@pytest.mark.parametrize("guard", partly_in_test_all(WITNESSES, LONG, "a witness that needs a long race"))
async def test_a_race_detects_a_missing_guard(database_url: str, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    witness = WITNESSES[guard]
    race = RACES[witness.race]
    async with stage(database_url, len(race.polls)) as played:
        if witness.schema:
            played.observer.execute(witness.schema)
        witness.broken(monkeypatch)
        report = await run(played, race, until=witness.shows)
    found = complaints(report)
    print(f"without {guard}: {found[0].splitlines()[0][:150] if found else 'nothing'} (order {report.orders})")
    assert any(witness.shows in complaint for complaint in found), found
