"""Runs every order of the statements of races between two or three transactions, and every witness.

A witness removes one guard from the code; the tests must notice. The races are those of tests/integration, which `make
test` runs as far as its time allows. Only here are races with three actors, with an actor that is no poll (a replay of
the quarantine), and those that take minutes (relays).
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import cast

import pytest

from deploy.servers import brokers
from deploy.servers.databases import cloned
from service.domain.delivery import IntakeLimits
from service.domain.events import Incoming
from service.domain.input_limits import InputLimits
from service.domain.topics import CONTENT_PROVISIONED
from service.operators.errors import Conflict
from service.operators.replay import Replay
from service.postgres.pool import Database
from service.store.operator_actions import Operator
from tests.integration.intake import test_witnesses
from tests.integration.intake.test_races import RACES, RACES_OF_THREE, Race, complaints, run, run_twice
from tests.integration.purge import test_purge_races
from tests.integration.relay import test_relay_races
from tests.prove.report import Row, Task
from tests.support.builders import inputs
from tests.support.builders.events import content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.interleaving.interleaving import Report, Stage, stage
from tests.support.interleaving.race import Work

c1, c2, c3 = content("c1"), content("c2"), content("c3")
f1 = failure("f1")

MORE_RACES_OF_THREE = {
    "content, failure and their registration": Race(
        [], {"A": [c1], "F": [f1], "R": [registration(essays=1)]}, deaths=1
    ),
    "content and two failures on the last two slots": Race(
        [[registration(essays=2)]], {"A": [c1], "F": [f1], "G": [failure("f2")]}, deaths=1
    ),
    "a registration twice and early content": Race(
        [], {"A": [c1], "R": [registration(essays=1)], "S": [registration(essays=1)]}, deaths=1
    ),
    "contradicting registrations and early content": Race(
        [], {"A": [c1], "R": [registration(essays=1)], "S": [registration(essays=2)]}, deaths=1
    ),
    "three contents on the last two slots": Race(
        [[registration(essays=2)]], {"A": [c1], "B": [c2], "C": [c3]}, deaths=1
    ),
    "one content three times on the last slot": Race(
        [[registration(essays=1)]], {"A": [c1], "B": [c1], "C": [c1]}, deaths=1
    ),
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """A quarantined content that can be applied now is replayed while polls run."""

    before: Sequence[Sequence[Incoming]]
    polls: Mapping[str, Sequence[Incoming]]
    replays: int = 1


REPLAYS = {
    "replay and the same content": Replayed([[registration(essays=1)]], {"A": [content("quarantined")]}),
    "replay and other content on the last slot": Replayed([[registration(essays=1)]], {"A": [c1]}),
    "replay of early content and its registration": Replayed([], {"R": [registration(essays=1)]}),
    "replay and a failure on the last slot": Replayed([[registration(essays=1)]], {"F": [f1]}),
    "two replays": Replayed([[registration(essays=2)]], {}, replays=2),
}


async def run_replay(played: Stage, race: Replayed) -> Report:
    """Runs every order of the replay and the polls; the content must end in one place and its row closed."""
    await played.start_from(*(deliveries(*poll) for poll in race.before))
    value = inputs.content("b", "quarantined")
    quarantined = inputs.delivery(CONTENT_PROVISIONED, value)
    played.observer.execute(
        'insert into els.quarantine (topic, fingerprint, partition, "offset", key, value, reason, error,'
        " first_seen_at, last_seen_at) values (%s, sha256('x'), 0, 0, %s, %s, 'data_error', 'once', now(), now())",
        [quarantined.topic, quarantined.key, quarantined.value],
    )
    played.keep_start()

    def replay() -> Callable[[Database], Awaitable[None]]:
        async def work(database: Database) -> None:
            (id_,) = played.observer.execute("select id from els.quarantine").fetchone() or (0,)
            with suppress(Conflict):  # the other one was first
                await Replay(database, Operator("prove"), IntakeLimits(), InputLimits()).replay(id_)

        return work

    async def look(played: Stage, dead: Sequence[str]) -> list[str]:
        found = invariants.violations(played.observer)
        for name in dead:
            if name in race.polls:
                await played.deliver(deliveries(*race.polls[name]))
            else:
                await replay()(cast("Database", played))
        found += invariants.violations(played.observer)
        places = played.observer.execute(
            "select (select count(*) from els.slots where text_storage_id = 'quarantined')"
            " + (select count(*) from els.excess_content where text_storage_id = 'quarantined')"
            " + (select count(*) from els.pending_content where text_storage_id = 'quarantined'),"
            " (select state from els.quarantine)"
        ).fetchone()
        return found if places == (1, "replayed") else [*found, f"places of the content, state of its row: {places}"]

    def work() -> Mapping[str, Work]:
        replays: dict[str, Work] = {f"Q{number}": replay() for number in range(race.replays)}
        return {**replays, **{name: deliveries(*poll) for name, poll in race.polls.items()}}

    return await played.explore(work, look, deaths=1)


async def run_relays(played: Stage, race: test_relay_races.Race) -> Report:
    """Runs every order of the relays, on their own broker."""
    with brokers.tansu() as broker:
        async with test_relay_races.topics_of(broker) as topics:
            return await test_relay_races.run(played, topics, race)


async def interleavings(server: str, template: str, task: Task, *, only: str = "") -> list[Row]:
    """Runs all races, or those with `only` in their part or name, in order of size; reports those without time."""
    rows = []
    everything: list[tuple[str, str, Callable[[Stage], Awaitable[Report]], Callable[[Report], Sequence[str]], int]] = [
        *(("orders of two", name, _of(run_twice, race), complaints, len(race.polls)) for name, race in RACES.items()),
        *(
            ("orders of a purge and a poll", name, _of(test_purge_races.run, race), _violations, 2)
            for name, race in test_purge_races.RACES.items()
        ),
        *(
            ("orders of a replay", name, _of(run_replay, race), _violations, len(race.polls) + race.replays)
            for name, race in REPLAYS.items()
        ),
        *(
            ("orders of two relays", name, _of(run_relays, race), _violations, 2 + bool(race.meanwhile))
            for name, race in (test_relay_races.RACES | test_relay_races.LONG_RACES).items()
        ),
        *(
            ("orders of three", name, _of(partial(run, known=True), race), complaints, 3)
            for name, race in (RACES_OF_THREE | MORE_RACES_OF_THREE).items()
        ),
    ]
    for part, name, explore, wrong, actors in everything:
        if only not in f"{part}, {name}":
            continue
        row = Row(part, name, unit="orders")
        rows.append(row)
        if task.is_over:
            row.more["left out"] = "no time"
            continue
        task.report(f"{name}; {sum(each.runs for each in rows):,} orders")
        started = time.monotonic()
        with cloned(server, template) as url:
            async with stage(url, actors) as played:
                played.is_over = lambda: task.is_over
                report = await explore(played)
        row.runs, row.found, row.seconds = report.orders, list(wrong(report)), time.monotonic() - started
        row.more = {
            "every order": "yes" if report.whole else "no: no time",
            "deaths": report.deaths,
            "left": report.cut,
            "strayed": report.strays,
            "ways to end": len(report.ends),
        }
    return rows


def _of(explore: Callable[..., Awaitable[Report]], race: object) -> Callable[[Stage], Awaitable[Report]]:
    return lambda played: explore(played, race)


def _violations(report: Report) -> list[str]:
    return [str(order) for order in report.violations]


async def witnesses(server: str, template: str, task: Task) -> list[Row]:
    """Removes each guard in turn. A guard whose removal no test notices is a finding."""
    rows = []
    for guard, witness in test_witnesses.WITNESSES.items():
        task.report(guard)
        started = time.monotonic()
        race = RACES[witness.race]
        row = Row("broken witnesses", f"without {guard}", unit="orders")
        with cloned(server, template) as url, pytest.MonkeyPatch.context() as patch:
            async with stage(url, len(race.polls)) as played:
                if witness.schema:
                    played.observer.execute(witness.schema)
                witness.broken(patch)
                report = await run(played, race, until=witness.shows)
        caught = any(witness.shows in told for told in complaints(report))
        row.runs, row.seconds, row.more = report.orders, time.monotonic() - started, {"caught by": witness.shows}
        row.found = [] if caught else ["nobody noticed"]
        rows.append(row)
    return rows
