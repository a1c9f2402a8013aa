"""An erasure races with polls in every order that the locks allow, and each may crash at its commits.

After each order the name is in no row but of the outbox. What crashed is done again, everything is delivered once more,
and the name is still nowhere. Each guard is removed in turn, and the races notice it.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytest

from service.domain.delivery import Delivery
from service.domain.events import Incoming, Reason, Rejection
from service.domain.personal_data import ErasedSubject
from service.intake.erasures import Erasures
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS
from service.recovery.blanking import blank, blank_rejected, lock_erased_batch, tombstones
from service.store import erasures
from service.store.erasures import ErasedUploads
from tests.support.builders.events import content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.interleaving.interleaving import Report, Stage, stage
from tests.support.selection import partly_in_test_all

NAME = "Åsa Öberg"
USER = "teacher-7"
WHOLE = ErasedUploads(whole=True)

Erasure = Callable[[Database], Awaitable[None]]


def erase(uploads: ErasedUploads) -> Erasure:
    """What `privacy erase` does with a batch; without the wait for the outbox, which no relay empties here."""

    async def work(database: Database) -> None:
        async with database.transaction() as conn:
            await erasures.lock_erasures(conn, exclusive=True)
            await erasures.insert_erasures(conn, tombstones("b", uploads))
        async with database.transaction() as conn:
            await lock_erased_batch(conn, "b")
            await blank(conn, "b", uploads)

    return work


async def erase_rejected(database: Database) -> None:
    """The same with rejected inputs."""
    async with database.transaction() as conn:
        await erasures.lock_erasures(conn, exclusive=True)
        await erasures.insert_erasures(conn, tombstones("b", WHOLE))
    await blank_rejected(database)


async def erase_user(database: Database) -> None:
    """The same with a user: the batches are found behind the tombstone."""
    async with database.transaction() as conn:
        await erasures.lock_erasures(conn, exclusive=True)
        await erasures.insert_erasures(conn, [ErasedSubject("user", "", USER)])
    async with database.transaction() as conn:
        found = await erasures.find_user_batches(conn, USER)
    for batch_id in found:
        async with database.transaction() as conn:
            await lock_erased_batch(conn, batch_id)
            await blank(conn, batch_id, WHOLE)


@dataclass(frozen=True, slots=True)
class Race:
    """An erasure and the poll that races with it, from what polls have left behind."""

    erasure: Erasure
    poll: Sequence[Incoming | Rejection]
    before: Sequence[Incoming] = ()


def named(kind: Callable[..., Any], upload: str) -> Any:
    return kind(upload, original_file_name=f"{NAME} {upload}.docx")


def rejected(batch_id: str) -> Delivery:
    value = f'{{"data": {{"batch_id": "{batch_id}", "original_file_name": "{NAME}.docx"}}}}'.encode()
    return Delivery("t", 0, 0, b"key", value, (), Rejection(Reason.INVALID_FIELD, f"not a size: {NAME}"))


c1, c2, f1 = named(content, "c1"), named(content, "c2"), named(failure, "f1")
of_user = registration(essays=2, user_id=USER, essay_instructions=f"for {NAME}")

RACES = {
    "content of a registered batch": Race(erase(WHOLE), [c2], [registration(essays=3), c1]),
    "a failure that completes the batch": Race(erase(WHOLE), [f1], [registration(essays=1)]),
    "content that is excess": Race(erase(WHOLE), [c2], [registration(essays=1), c1]),
    "content of an unknown batch": Race(erase(WHOLE), [c2], [c1]),
    "the registration of what waits": Race(erase(WHOLE), [of_user], [c1, f1]),
    "one upload of several": Race(
        erase(ErasedUploads(False, frozenset(["c2"]))), [c2], [registration(essays=3), content("c1")]
    ),
    "a rejected input": Race(erase_rejected, [rejected("b").event]),
    "a user and the registration": Race(erase_user, [of_user, c2], [c1]),
}


LONG = RACES.keys() - {"content of a registered batch", "a rejected input"}


def poll_of(race: Race) -> list[Delivery]:
    """Made anew for each order, since what is erased is blanked in place."""
    if isinstance(race.poll[0], Rejection):
        return [rejected("b")]
    return deliveries(*race.poll)


async def run(url: str, race: Race, until: str | None = None, deaths: int = 0) -> Report:
    """Every order of the race, each checked at its end."""

    async def check(played: Stage, dead: Sequence[str]) -> list[str]:
        found = [] if dead else named_places(played)
        if "E" in dead:
            await race.erasure(cast("Database", played))
        if "P" in dead:
            await played.deliver(poll_of(race))
        found += named_places(played)
        before = invariants.state(played.observer)
        await played.deliver(poll_of(race), deliveries(*race.before))
        if invariants.state(played.observer) != before and not isinstance(race.poll[0], Rejection):
            found.append("a repeat changed a row")
        # An event of the outbox still has the name: an erasure waits for it, and here it does not.
        wrong = [each for each in invariants.violations(played.observer) if not each.startswith("I6 an event says")]
        return found + named_places(played) + wrong

    async with stage(url, 2) as played:
        await played.start_from(*(deliveries(each) for each in race.before))
        return await played.explore(lambda: {"P": poll_of(race), "E": race.erasure}, check, deaths=deaths, until=until)


TABLES = ("batches", "slots", "pending_content", "excess_content", "validation_failures", "quarantine")
NAMED = " union all ".join(
    f"select '{table}' where exists (select from els.{table} as row"
    f" where position('Öberg' in row::text) > 0 or position(encode('Öberg', 'hex') in row::text) > 0)"
    for table in TABLES
)


def named_places(played: Stage) -> list[str]:
    return [f"named: {table}" for (table,) in played.observer.execute(NAMED.encode()).fetchall()]


@pytest.mark.parametrize("name", partly_in_test_all(RACES, LONG, "races of an erasure"))
async def test_no_order_brings_a_name_back(database_url: str, name: str) -> None:
    report = await run(database_url, RACES[name])
    print(f"{name}: {report}")
    assert report.orders > 1
    assert not report.violations, str(report.violations[0])


def without_the_check_of_the_counter_row(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Erasures, "check", lambda *_: None)


def without_the_lock_of_the_batch(patch: pytest.MonkeyPatch) -> None:
    async def hold(conn: Any, batch_id: str) -> None:
        await erasures.hold_erased_batch(conn, batch_id)

    patch.setattr("tests.integration.operators.test_privacy_races.lock_erased_batch", hold)


def without_the_lock_of_erasures(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(STATEMENTS, "lock_erasures", "select %(exclusive)s::bool, %(erasures)s::text")


GUARDS: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "content of a registered batch": without_the_check_of_the_counter_row,
    "content of an unknown batch": without_the_lock_of_the_batch,
    "a rejected input": without_the_lock_of_erasures,
    "a user and the registration": without_the_lock_of_erasures,
}


@pytest.mark.only_in_test_all("races of an erasure without its guards")
@pytest.mark.parametrize("name", GUARDS)
async def test_a_missing_guard_is_noticed(database_url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    GUARDS[name](monkeypatch)
    report = await run(database_url, RACES[name], until="named")
    assert report.tells("named")
