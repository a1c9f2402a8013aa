"""Transactions race for one batch in every order that the locks allow, and each may die at any of its commits.

After each order: nothing violates what must always hold; the polls of the dead are delivered again, and then
nothing is missing; all is delivered once more, and not a row changes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from service.events import Incoming
from tests.support import invariants
from tests.support.interleaving import Report, Stage, content, deliveries, failure, registration, stage

THOROUGH = bool(os.environ.get("ELS_TEST_THOROUGH"))


@dataclass(frozen=True, slots=True)
class Race:
    """Polls that were applied before, and those that race, each by the name of its actor."""

    before: Sequence[Sequence[Incoming]]
    polls: Mapping[str, Sequence[Incoming]]
    deaths: int = 2


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
    "two contents each on the last three slots": Race([[registration(essays=3)]], {"A": [c1, c2], "B": [c3, content("c4")]}),
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
    "content, registration and content": Race([], {"A": [c1], "R": [registration(essays=1)], "B": [c2]}, deaths=0),
}


async def run(played: Stage, race: Race, *, until: str | None = None) -> Report:
    """Every order of the race, each looked at at its end."""
    everything = [event for poll in (*race.before, *race.polls.values()) for event in poll]

    async def look(played: Stage, dead: Sequence[str]) -> list[str]:
        found = invariants.violations(played.observer)
        await played.deliver(*(deliveries(*race.polls[name]) for name in dead))
        found += invariants.violations(played.observer) + invariants.missing(played.observer, everything)
        before = invariants.state(played.observer)
        await played.deliver(deliveries(*everything))
        if invariants.state(played.observer) != before:
            found.append("I7 a repeat changes nothing: it did")
        return found

    await played.start_from(*(deliveries(*poll) for poll in race.before))
    return await played.explore(
        lambda: {name: deliveries(*poll) for name, poll in race.polls.items()}, look, deaths=race.deaths, until=until
    )


# What may fail a transaction so that it goes again: two that put one content, or one failure, into two slots.
EXPECTED = {"UniqueViolation"}

# What must never wait: a poll of many batches would wait for the slots, or the registration, of one of them.
NEVER_WAITS = {"claim_slots", "try_lock_batches"}


def complaints(report: Report) -> list[str]:
    """What is wrong with what was run."""
    return [
        *(str(order) for order in report.violations),
        *(f"{error} failed {count} transactions" for error, count in report.errors.items() if error not in EXPECTED),
        *(f"{statement} waited" for statement in sorted(report.waited & NEVER_WAITS)),
    ]


@pytest.mark.parametrize("name", RACES)
async def test_no_order_breaks_what_must_always_hold(database_url: str, name: str) -> None:
    race = RACES[name]
    async with stage(database_url, len(race.polls)) as played:
        report = await run(played, race)
    print(f"{name}: {report}")
    told = complaints(report)
    assert not told, told[0]
