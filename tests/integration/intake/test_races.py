"""Transactions race for one batch in every order that the locks allow, and each may die at any of its commits.

After each order: nothing violates what must always hold; the polls of the dead are delivered again, and then
nothing is missing; all is delivered once more, and not a row changes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from service.domain.events import Incoming
from tests.support.checks import invariants
from tests.support.interleaving import points
from tests.support.interleaving.interleaving import Report, Stage, content, deliveries, failure, registration, stage


@dataclass(frozen=True, slots=True)
class Race:
    """Polls that were applied before, and those that race, each by the name of its actor."""

    before: Sequence[Sequence[Incoming]]
    polls: Mapping[str, Sequence[Incoming]]
    deaths: int = 2
    """At most, in one order."""


c1, c2, c3 = content("c1"), content("c2"), content("c3")
f1, f2 = failure("f1"), failure("f2")

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
    "two batches in turn": Race(
        [[registration("b", 1), registration("d", 1)]],
        {"A": [content("c1", "b"), content("c2", "d")], "B": [content("c3", "d"), content("c4", "b")]},
    ),
}

RACES_OF_THREE = {
    "content, its registration and content": Race([], {"A": [c1], "R": [registration(essays=1)], "B": [c2]}, deaths=1),
    "one early content twice and its registration": Race(
        [], {"A": [c1], "R": [registration(essays=1)], "B": [c1]}, deaths=1
    ),
}


async def run(played: Stage, race: Race, *, known: bool = False, until: str | None = None) -> Report:
    """Every order of the race, each looked at at its end; with `known` without those that would go on as another."""
    everything = [event for poll in (*race.before, *race.polls.values()) for event in poll]

    async def look(played: Stage, dead: Sequence[str]) -> list[str]:
        found = invariants.violations(played.observer)
        if dead:
            await played.deliver(*(deliveries(*race.polls[name]) for name in dead))
            found += invariants.violations(played.observer)
        found += invariants.missing(played.observer, everything)
        before = invariants.state(played.observer)
        await played.deliver(deliveries(*everything))
        if invariants.state(played.observer) != before:
            found.append("I7 a repeat changes nothing: it did")
        return found

    await played.start_from(*(deliveries(*poll) for poll in race.before))
    polls = {name: deliveries(*poll) for name, poll in race.polls.items()}
    return await played.explore(lambda: polls, look, deaths=race.deaths, known=known, until=until)


async def run_twice(played: Stage, race: Race) -> Report:
    """Every order; then without those that would go on as another, which must end in the same ways."""
    report = await run(played, race)
    known = await run(played, race, known=True)
    report.violations += known.violations
    report.errors |= known.errors
    report.waited |= known.waited
    if report.whole and known.whole:
        report.unlike = len(report.ends ^ known.ends)
    return report


# What may fail a transaction so that it goes again: two that put one content, or one failure, into two slots.
EXPECTED = {"UniqueViolation"}

# What must never wait: a poll of many batches would wait for the slots, or the registration, of one of them.
NEVER_WAITS = {"claim_slots", "try_lock_batches"}


def complaints(report: Report) -> list[str]:
    """What is wrong with what was run."""
    return [
        *(str(order) for order in report.violations),
        *(f"{error} failed {count} transactions" for error, count in report.errors.items() if error not in EXPECTED),
        *([f"{report.unlike} ways to end were not met both ways"] if report.unlike else []),
        *(f"{statement} waited" for statement in sorted(report.waited & NEVER_WAITS)),
    ]


@pytest.mark.parametrize("name", RACES)
async def test_no_order_breaks_what_must_always_hold(database_url: str, name: str) -> None:
    async with stage(database_url, 2) as played:
        report = await run_twice(played, RACES[name])
    print(f"{name}: {report}")
    told = complaints(report)
    assert not told, told[0]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RACES_OF_THREE)
async def test_no_order_of_three_breaks_what_must_always_hold(database_url: str, name: str) -> None:
    async with stage(database_url, 3) as played:
        report = await run(played, RACES_OF_THREE[name], known=True)
    print(f"{name}: {report}")
    told = complaints(report)
    assert not told, told[0]


async def test_points_that_are_taken_for_the_same_and_are_not_are_noticed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points.History, "digest", property(lambda _: b"", lambda _, __: None), raising=False)
    monkeypatch.setattr(points, "_changes", lambda *_: ([], []))
    async with stage(database_url, 2) as played:
        report = await run_twice(played, RACES["two contents on the last slot"])
    assert report.unlike
    assert complaints(report)
