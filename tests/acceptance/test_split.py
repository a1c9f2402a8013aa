"""A cell is split, or moved, while inputs arrive, by a command that is killed: nothing is lost or contradicted."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.local.processes import plain_environment
from deploy.servers import databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import ROOT, Pods, pods, until
from deploy.servers.standby import Standby, standby_of
from service.cells.transfer import STEPS
from service.domain.cells import Slice
from service.postgres import migration
from tests.support.builders import replay
from tests.support.builders.replay import Record, Replay
from tests.support.checks.audited import audited_cells
from tests.support.checks.cells import check_slices, copy_union
from tests.support.checks.expected import all_done, check_tables, check_topics, read_back
from tests.support.pods.killed_transfer import WHEN

SPEED = 20
KILLS = tuple(f"{step}:{when}" for (step, _), when in product(STEPS, WHEN))
"""All kills of the command; those of a new step are among them."""

PROMOTED = "promote:after"
"""The first one that needs a promoted standby."""
WAITING = "promote:within"
"""The last one before."""


@dataclass(frozen=True)
class Place:
    """A database that serves a cell."""

    of: Slice
    url: str

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its pods."""
        return {
            "ELS_DATABASE_URL": databases.url_as(self.url, "els_app"),
            "ELS_CELLS": str(self.of.cells),
            "ELS_CELL": str(self.of.cell),
        }


class Command:
    """A command on a cell, which is run again after each kill."""

    def __init__(self, place: Place, standby: str, settings: Mapping[str, str], *arguments: str) -> None:
        self._arguments = ["cells", *arguments]
        self._environment = {
            **plain_environment(),
            "PYTHONPATH": str(ROOT),
            **settings,
            **place.settings,
            "ELS_MIGRATION_DATABASE_URL": place.url,
            "ELS_STANDBY_DATABASE_URL": standby,
        }

    async def killed(self, kills: Sequence[str]) -> None:
        """Runs it once for each of these kills."""
        if kills:
            module = "tests.support.pods.killed_transfer"
            done = await asyncio.to_thread(self._run, module, KILL_AT=",".join(kills))
            assert done.returncode == 0, done.stderr

    async def cancel(self) -> None:
        done = await asyncio.to_thread(self._run, "service", "--cancel")
        assert done.returncode == 0, done.stderr

    async def end(self, tries: int = 1) -> Any:
        """Runs it to its end, again where it fails. Returns what it says of the cells."""
        for _ in range(tries):
            done = await asyncio.to_thread(self._run, "service", "--json")
            if done.returncode == 0:
                return json.loads(done.stdout)["cells"]
        raise AssertionError(done.stderr)

    def _run(self, module: str, *more: str, **at: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", module, *self._arguments, *more],
            env=self._environment | at,
            cwd="/",
            text=True,
            capture_output=True,
            timeout=120,
            check=False,
        )


def start(running: Pods, places: Sequence[Place]) -> None:
    for place in places:
        running.start(1, **place.settings)


async def check_places(
    places: Sequence[Place], union: str, kafka: Broker, group: str, morning: Replay, records: Sequence[Record]
) -> int:
    """Waits for the end, and checks all databases together, and by one audit. Returns the number of repeats."""
    for place in places:
        await all_done(place.url, kafka, group + place.of.suffix, morning.ends)
    urls = [place.url for place in places]
    await until(lambda: not any(map(_trims, urls)), 60, lambda: "the purge has left history of the other half")
    check_slices(urls)
    copy_union(urls, union)
    await check_tables(union)
    published = await check_topics(union, kafka, records)
    report = await audited_cells(urls, kafka, group)
    assert report.clean, report.findings[:20]
    assert not report.unknown, report.examples
    return published.repeats


def _trims(url: str) -> bool:
    with psycopg.connect(url) as conn:
        return conn.execute("select from els.slice where trims").fetchone() is not None


async def longest_silence(kafka: Broker) -> float:
    """The longest time in seconds between two outputs that follow each other."""
    times = sorted(record.timestamp / 1000 for some in (await read_back(kafka)).values() for record in some)
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


@dataclass(frozen=True)
class Round:
    """What a round has shown."""

    fenced_seconds: float
    """As the command says."""
    silent_seconds: float
    """On the topics."""
    repeats: int


@dataclass(frozen=True)
class Plan:
    """What is done in a round."""

    kind: str
    cells: int = 1
    """How many cells there are before, as databases of one server. Several wait for the promotion by somebody else."""
    kills: Sequence[str] = KILLS
    disturb: Callable[[Postgres, Standby], Awaitable[None]] | None = None
    """What happens to the servers while the command is run again until it succeeds."""


async def check_round(folder: Path, server: Postgres, kafka: Broker, group: str, union: str, plan: Plan) -> Round:
    """Splits or moves all cells in the midst of the recorded morning. Asserts that the end is as it should be."""
    kind, cells = plan.kind, plan.cells
    places = [Place(Slice(cells, cell), _database(server, cell)) for cell in range(cells)]
    for place in places:
        migration.upgrade(place.url, of=place.of)
    records = replay.morning()
    morning = Replay(kafka, records, speed=SPEED, holds_back=len(records) // 4)
    settings = {**kafka.settings, "ELS_CONSUMER_GROUP": group, "ELS_PURGE_INTERVAL_SECONDS": "1"}
    folders = folder / "before", folder / "after"
    for each in folders:
        each.mkdir()
    with pods(folders[0], settings) as before, pods(folders[1], settings) as after, standby_of(server) as standby:
        start(before, places)
        await before.ready()
        publishing = asyncio.create_task(morning.run())
        await until(lambda: morning.published > len(records) // 4, 60, lambda: "nothing is published")
        if cells == 1 and plan.kills:
            command = Command(places[0], standby.url("cell0"), settings, kind)
            await command.killed(["drain:after"])
            await command.cancel()
            await before.ready()
        told = await _transfer(places, server, standby, settings, plan)
        promoted = [
            Place(place.of if kind == "move" else Slice(2 * cells, place.of.cell + cells), _database(standby, number))
            for number, place in enumerate(places)
        ]
        halves = [] if kind == "move" else [Place(Slice(2 * cells, place.of.cell), place.url) for place in places]
        places = sorted(halves + promoted, key=lambda place: place.of.cell)
        assert [(each["cells"], each["cell"]) for each in told] == [place.of for place in places]
        start(after, places)
        await after.ready()
        await before.stop()
        morning.may_end.set()
        await publishing
        repeats = await check_places(places, union, kafka, group, morning, records)
        assert await after.stop() == [0] * len(places)
    return Round(max(each["fenced_seconds"] for each in told), await longest_silence(kafka), repeats)


def _database(server: Postgres, number: int) -> str:
    """The URL of a database, which is created where it is not there."""
    name = f"cell{number}"
    with psycopg.connect(server.url(), autocommit=True) as conn:
        if conn.execute("select from pg_database where datname = %s", [name]).fetchone() is None:
            conn.execute(f"create database {name}".encode())
    return server.url(name)


async def _transfer(
    places: Sequence[Place], server: Postgres, standby: Standby, settings: Mapping[str, str], plan: Plan
) -> list[Any]:
    """Runs the command on each cell, all at the same time. Returns what they say, by cell."""
    arguments = (plan.kind,) if len(places) == 1 else (plan.kind, "--no-promote")
    kills = list(plan.kills)
    commands = [
        Command(place, standby.url(f"cell{number}"), settings, *arguments) for number, place in enumerate(places)
    ]
    if len(places) > 1:
        first = sum(KILLS.index(kill) < KILLS.index(PROMOTED) for kill in kills)
        earlier, kills = [*kills[:first], WAITING], kills[first:]
        await asyncio.gather(*(command.killed(earlier) for command in commands))
        await asyncio.to_thread(standby.promote)
    await asyncio.gather(*(command.killed(kills) for command in commands))
    disturbing = asyncio.ensure_future(plan.disturb(server, standby) if plan.disturb else asyncio.sleep(0))
    told = await asyncio.gather(*(command.end(20 if plan.disturb else 1) for command in commands))
    await disturbing
    return sorted((each for some in told for each in some), key=lambda each: int(each["cell"]))


@pytest.mark.timeout(240)
@pytest.mark.only_in_test_all("cells that are split or moved under load, with commands that are killed")
async def test_a_split_of_all_batches_under_load_loses_and_contradicts_nothing(
    tmp_path: Path, durable_postgres: Postgres, kafka: Broker, group: str, database_url: str
) -> None:
    await check_round(tmp_path, durable_postgres, kafka, group, database_url, Plan("split"))


@pytest.mark.timeout(240)
@pytest.mark.only_in_test_all("cells that are split or moved under load, with commands that are killed")
@pytest.mark.parametrize("plan", [Plan("split", 2), Plan("move")], ids=["two are split", "one is moved"])
async def test_cells_that_are_split_or_moved_under_load_lose_and_contradict_nothing(
    tmp_path: Path, durable_postgres: Postgres, tansu: Broker, group: str, database_url: str, plan: Plan
) -> None:
    await check_round(tmp_path, durable_postgres, tansu, group, database_url, plan)
