"""Runs transactions of one batch in every order that the locks allow, with a crash at any of their commits.

After each order no invariant is violated. The polls of crashed transactions are delivered again, and then nothing is
missing. Everything is delivered once more, and no row changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from service.domain.events import Incoming
from tests.support.builders.events import confirmation, content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.interleaving import points
from tests.support.interleaving.interleaving import Report, Stage, stage
from tests.support.selection import partly_in_test_all


@dataclass(frozen=True, slots=True)
class Race:
    """Polls that are applied before, and concurrent polls by the names of their actors."""

    before: Sequence[Sequence[Incoming]]
    polls: Mapping[str, Sequence[Incoming]]
    deaths: int = 2
    """At most, in one order."""


c1, c2, c3 = content("c1"), content("c2"), content("c3")
f1, f2 = failure("f1"), failure("f2")
k, any_class, other_class = confirmation(), confirmation(""), confirmation("8b")
regular = registration(essays=1, class_id="8a")

RACES = {
    "content and its registration": Race([], {"A": [c1], "R": [registration(essays=1)]}),
    "content and its registration with room to spare": Race([], {"A": [c1], "R": [registration(essays=2)]}),
    "failure and its registration": Race([], {"A": [f1], "R": [registration(essays=1)]}),
    "content and failure together and their registration": Race([], {"A": [c1, f1], "R": [registration(essays=1)]}),
    "content that is pending already and its registration": Race([[c1]], {"A": [c1], "R": [registration(essays=1)]}),
    "content and a poll with its registration and other content": Race(
        [], {"A": [c1], "R": [registration(essays=1), c2]}
    ),
    "two contents on the last slot": Race([[registration(essays=1)]], {"A": [c1], "B": [c2]}),
    "two contents on the last two slots": Race([[registration(essays=2)]], {"A": [c1], "B": [c2]}),
    "two contents each on the last three slots": Race(
        [[registration(essays=3)]], {"A": [c1, c2], "B": [c3, content("c4")]}
    ),
    "one content twice on the last slot": Race([[registration(essays=1)]], {"A": [c1], "B": [c1]}),
    "one content twice on the last two slots": Race([[registration(essays=2)]], {"A": [c1], "B": [c1]}),
    "the same two contents in turn": Race([[registration(essays=2)]], {"A": [c1, c2], "B": [c2, c1]}),
    "one early content twice": Race([], {"A": [c1], "B": [c1]}),
    "content and failure on the last slot": Race([[registration(essays=1)]], {"A": [c1], "B": [f1]}),
    "content and failure on the last two slots": Race([[registration(essays=2)]], {"A": [c1], "B": [f1]}),
    "one failure twice on the last slot": Race([[registration(essays=1)]], {"A": [f1], "B": [f1]}),
    "one failure twice on the last two slots": Race([[registration(essays=2)]], {"A": [f1], "B": [f1]}),
    "two failures on the last slot": Race([[registration(essays=1)]], {"A": [f1], "B": [f2]}),
    "a registration twice": Race([[c1]], {"A": [registration(essays=1)], "B": [registration(essays=1)]}),
    "two registrations that contradict each other": Race(
        [[c1]], {"A": [registration(essays=1)], "B": [registration(essays=2)]}
    ),
    "a confirmation and its registration": Race([[c1]], {"A": [k], "R": [regular]}),
    "a confirmation and the last slot": Race([[regular]], {"A": [c1], "B": [k]}),
    "a confirmation and the last slot, which fails": Race([[regular]], {"A": [f1], "B": [k]}),
    "a confirmation, and content with its registration": Race([], {"A": [k], "R": [regular, c1]}),
    "a confirmation twice": Race([[regular, c1]], {"A": [k], "B": [k]}),
    "an early confirmation twice": Race([], {"A": [k], "B": [k]}),
    "two confirmations of one batch": Race([[regular, c1]], {"A": [k], "B": [any_class]}),
    "the confirmations of two classes and the last slot": Race([[regular]], {"A": [c1, other_class], "B": [k]}),
    "two batches in turn": Race(
        [[registration("b", 1), registration("d", 1)]],
        {"A": [content("c1", "b"), content("c2", "d")], "B": [content("c3", "d"), content("c4", "b")]},
    ),
}

RACES_OF_THREE = {
    "content, its registration and content": Race([], {"A": [c1], "R": [registration(essays=1)], "B": [c2]}, deaths=1),
    "content, a confirmation and their registration": Race([], {"A": [c1], "R": [regular], "B": [k]}, deaths=1),
    "one early content twice and its registration": Race(
        [], {"A": [c1], "R": [registration(essays=1)], "B": [c1]}, deaths=1
    ),
}


THOUSANDS_OF_ORDERS = {
    "content and failure on the last slot",
    "one content twice on the last slot",
    "one failure twice on the last slot",
    "the same two contents in turn",
    "two batches in turn",
    "two contents each on the last three slots",
    "two contents on the last slot",
    "two contents on the last two slots",
    "two failures on the last slot",
}
"""Races that take a tenth of the time of `make test` each; of each kind a shorter one stays in it."""


async def run(played: Stage, race: Race, *, known: bool = False, until: str | None = None) -> Report:
    """Run every order of the race and check its end. With `known`, skip those that would continue as another."""
    everything = [event for poll in (*race.before, *race.polls.values()) for event in poll]

    async def check(played: Stage, dead: Sequence[str]) -> list[str]:
        found = invariants.violations(played.observer)
        if dead:
            await played.deliver(*(deliveries(*race.polls[name]) for name in dead))
            found += invariants.violations(played.observer)
        found += invariants.missing(played.observer, everything)
        before = invariants.state(played.observer)
        await played.deliver(deliveries(*everything))
        if invariants.state(played.observer) != before:
            found.append("I7: a repeat changed a row")
        return found

    await played.start_from(*(deliveries(*poll) for poll in race.before))
    polls = {name: deliveries(*poll) for name, poll in race.polls.items()}
    return await played.explore(lambda: polls, check, deaths=race.deaths, known=known, until=until)


async def run_twice(played: Stage, race: Race) -> Report:
    """Run every order, then without those that would continue as another. Both must end in the same states."""
    report = await run(played, race)
    known = await run(played, race, known=True)
    report.violations += known.violations
    report.errors |= known.errors
    report.waited |= known.waited
    if report.whole and known.whole:
        report.unlike = len(report.ends ^ known.ends)
    return report


EXPECTED = {"UniqueViolation"}
"""Errors after which a transaction runs again: two put one content, or one failure, into two slots."""

NEVER_WAITS = {"claim_slots", "try_lock_batches"}
"""Statements that must not wait: a poll of many batches would wait for the slots or the registration of one."""


def complaints(report: Report) -> list[str]:
    """What is wrong in a report."""
    return [
        *(str(order) for order in report.violations),
        *(f"{error} failed {count} transactions" for error, count in report.errors.items() if error not in EXPECTED),
        *([f"{report.unlike} final states were not found in both runs"] if report.unlike else []),
        *(f"{statement} waited" for statement in sorted(report.waited & NEVER_WAITS)),
    ]


@pytest.mark.parametrize("name", partly_in_test_all(RACES, THOUSANDS_OF_ORDERS, "the longest races of two pods"))
async def test_no_order_violates_an_invariant(database_url: str, name: str) -> None:
    async with stage(database_url, 2) as played:
        report = await run_twice(played, RACES[name])
    print(f"{name}: {report}")
    found = complaints(report)
    assert not found, found[0]


@pytest.mark.only_in_test_all("races of three pods")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", RACES_OF_THREE)
async def test_no_order_of_three_violates_an_invariant(database_url: str, name: str) -> None:
    async with stage(database_url, 3) as played:
        report = await run(played, RACES_OF_THREE[name], known=True)
    print(f"{name}: {report}")
    found = complaints(report)
    assert not found, found[0]


async def test_different_points_that_are_treated_as_equal_are_detected(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points.History, "digest", property(lambda _: b"", lambda _, __: None), raising=False)
    monkeypatch.setattr(points, "_changes", lambda *_: ([], []))
    async with stage(database_url, 2) as played:
        report = await run_twice(played, RACES["one content twice on the last two slots"])
    assert report.unlike
    assert complaints(report)
