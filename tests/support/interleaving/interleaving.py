"""Transactions of the service's own code, cut at their statements and run in every order that the locks allow.

After the idea of PostgreSQL's isolationtester. Each actor is a pod: it gives one poll to the service's `Intake`,
on a connection of its own, and stops in front of every statement and every commit until it is its turn. Whoever
waits for a lock is told by `pg_blocking_pids`, not by time, and the others go on. At each commit an actor may also
die instead: its transaction is rolled back, and a successor delivers its poll again when all others are done. A
relay stops in front of what it sends to the broker, too, and before it hears of the acknowledgement, where it may die.

Every order is run that can make a difference. Two neighbouring steps that have nothing to do with each other (two
reads; a read and what is written, but not yet committed) end the same in either order, and only one of the two is
run: these are sleep sets (Godefroid). What a step has to do with is taken from its SQL: the tables that it reads,
and those in which it writes or locks; a commit or rollback shows or frees what its transaction wrote and locked. Of
actors with the same poll the first to begin is always the same one. Where asked to, an order is left at a point where
another has been before, since it would go on in no other way (`points`).

At the end of every order the caller looks at the database; the harness itself judges nothing but that there is
an end.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast
from unittest import mock

import psycopg
from psycopg import AsyncConnection

from service.domain.cells import ALL_BATCHES
from service.domain.delivery import Delivery
from service.postgres import arrays
from service.postgres.pool import Database
from service.postgres.session import PLANNER, options_of
from service.runtime.loop import Backoff
from tests.support.checks.footprints import Footprint
from tests.support.interleaving import points
from tests.support.interleaving.race import GatedConnection, Race, Step, Work
from tests.support.pods.applier import deliver

STRAYS: Final = 2_000
"""Runs in a row that may lead elsewhere: what led here first may have been the one of a hundred."""

TABLES: Final = (
    "batches",
    "slots",
    "pending_content",
    "excess_content",
    "validation_failures",
    "confirmations",
    "outbox",
    "outbox_pages",
    "quarantine",
    "topic_refusals",
    "rejected_bytes",
    "erasures",
)


class Elsewhere(Exception):
    """The same steps led to another point: of two who wait for one row, the other one was first to have it."""


@dataclass(frozen=True, slots=True)
class Order:
    """One order that was run, and what the caller found at its end."""

    steps: tuple[Step, ...]
    dead: tuple[str, ...]
    found: tuple[str, ...]

    def __str__(self) -> str:
        steps = "\n".join(f"    {step.actor}: {step.what}" for step in self.steps)
        return "\n".join([*self.found, "  after", steps])


@dataclass(slots=True)
class Report:
    """What was run."""

    orders: int = 0
    deaths: int = 0
    strays: int = 0
    """Runs that led elsewhere, and were run again."""
    cut: int = 0
    """Runs that were left, since they would have ended as another one."""
    ends: set[bytes] = field(default_factory=set)
    """How orders ended, each by what it is known by."""
    unlike: int = 0
    """Ways to end that only all orders had, or only those that were not left where another had been before."""
    errors: Counter[str] = field(default_factory=Counter)
    """Transactions that failed and went again, by what failed them."""
    waited: set[str] = field(default_factory=set)
    """Statements that waited for a lock somewhere."""
    violations: list[Order] = field(default_factory=list)
    whole: bool = True
    """Every order was run."""

    def tells(self, word: str) -> bool:
        """Whether the last order that went wrong is told of in this word."""
        return bool(self.violations) and any(word in found for found in self.violations[-1].found)

    def __str__(self) -> str:
        errors = ", ".join(f"{count} {name}" for name, count in sorted(self.errors.items())) or "none"
        waited = ", ".join(sorted(self.waited)) or "none"
        return f"{self.orders} orders, {self.deaths} deaths; went again: {errors}; waited: {waited}"


@dataclass(slots=True)
class _Node:
    """A point of the search: what may come next, what has been tried, and what need not be."""

    choices: list[Step]
    asleep: dict[Step, Footprint]
    chosen: Step
    point: points.Point | None
    histories: Sequence[bytes]
    footprint: Footprint = field(default_factory=Footprint)
    ends: bool = False
    """Whether a transaction has ended with the step."""


class Stage:
    """A database, the actors' connections, and the state from which every order starts."""

    slice = ALL_BATCHES

    def __init__(self, url: str, connections: Sequence[GatedConnection], successor: AsyncConnection[Any]) -> None:
        self.url = url
        self.observer: psycopg.Connection[Any] = psycopg.connect(url, autocommit=True)
        self._connections = connections
        self._successor = successor
        self._reset = b""
        self._question = b""
        self.is_over: Callable[[], bool] = lambda: False
        """Called after each order; returns whether there is time for another."""

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection[Any]]:  # noqa: ARG002
        """Of the successor, whom nobody races; the stage stands where the service expects its `Database`."""
        async with self._successor.transaction():
            yield self._successor

    async def deliver(self, *polls: Sequence[Delivery]) -> None:
        """Apply polls, one after the other, undisturbed."""
        for poll in polls:
            await deliver(cast("Database", self), poll)

    async def start_from(self, *polls: Sequence[Delivery], then: str = "") -> None:
        """Every order starts from the state that these leave behind, and this SQL after them."""
        self.observer.execute(f"truncate {', '.join(f'els.{table}' for table in TABLES)}")
        await self.deliver(*polls)
        self.observer.execute(then.encode())
        self.keep_start()

    def keep_start(self) -> None:
        """Every order starts from the state that is there now."""
        self.observer.execute("drop schema if exists start cascade; create schema start")
        reset, known = [], {}
        for table in TABLES:
            known[table] = self.observer.execute(
                "select column_name, data_type from information_schema.columns where table_schema = 'els'"
                " and table_name = %s and is_generated = 'NEVER' order by ordinal_position",
                [table],
            ).fetchall()
            columns = ", ".join(f'"{name}"' for name, _ in known[table])
            self.observer.execute(f"create table start.{table} as select {columns} from els.{table}")
            reset.append(
                f"delete from els.{table}; insert into els.{table} ({columns}) overriding system value"
                f" select * from start.{table}"
            )
        self._reset = "; ".join(reset).encode()
        self._question = points.question(known).encode()

    async def explore(
        self,
        polls: Callable[[], Mapping[str, Work]],
        look: Callable[["Stage", Sequence[str]], Awaitable[Iterable[str]]],
        *,
        deaths: int = 9,
        known: bool = False,
        until: str | None = None,
    ) -> Report:
        """Run every order of the actors that `polls` names; `look` is told who died and says what is wrong.

        No more than so many `deaths` happen in one order. With `known` an order is left at a point at which another
        has been before: of actors that do nothing but apply polls a point is known by what `points` says.

        With `until` the search ends where something that has this in it is wrong.
        """
        report = Report()
        path: list[_Node] = []
        been = points.Been() if known else None
        with mock.patch.object(Backoff, "pause", return_value=0.0):  # in an order there is no time
            strays = 0
            while True:
                try:
                    await self._run(polls(), path, deaths, look, been, report)
                except Elsewhere:
                    strays += 1
                    report.strays += 1
                    if strays == STRAYS:
                        raise
                    continue
                strays = 0
                if not _turn_back(path) or (until and report.tells(until)):
                    return report
                if self.is_over():
                    report.whole = False
                    return report

    async def _run(
        self,
        polls: Mapping[str, Work],
        path: list[_Node],
        deaths: int,
        look: Callable[["Stage", Sequence[str]], Awaitable[Iterable[str]]],
        been: points.Been | None,
        report: Report,
    ) -> None:
        """One order: the path as far as it goes, and on from there; the path is as long as the order then."""
        self.observer.execute(self._reset)
        race = Race(dict(zip(polls, self._connections, strict=False)), self.observer, deaths)
        depth, cut = 0, False
        try:
            await race.begin(polls)
            while choices := race.choices():
                if depth == len(path):
                    asleep = _still_asleep(path[-1]) if path else {}
                    awake = [step for step in choices if step not in asleep]
                    before, after_end = (path[-1].point, path[-1].ends) if path else (None, False)
                    point = await race.point(self._question, before, after_end=after_end) if been else None
                    if not awake or (been and point and been.before(point, asleep)):
                        cut = True
                        break
                    path.append(_Node(choices, asleep, awake[0], point, race.histories))
                node = path[depth]
                if node.choices != choices or (been and node.histories != race.histories):
                    raise Elsewhere(
                        f"the same steps led to {choices} and to {node.choices}; failed so far: {race.errors}"
                    )
                ends = race.ends
                node.footprint = await race.take(node.chosen)
                node.ends = race.ends > ends
                depth += 1
        finally:
            await race.end()
        report.errors.update(error.partition(":")[0] for error in race.errors)
        report.waited |= race.waited
        if cut:
            report.cut += 1
            return
        report.ends.add(points.end(points.rows(self.observer.execute(self._question).fetchall()), race.dead))
        await self._judge(race, path, look, report)

    async def _judge(
        self,
        race: Race,
        path: Sequence[_Node],
        look: Callable[["Stage", Sequence[str]], Awaitable[Iterable[str]]],
        report: Report,
    ) -> None:
        steps = tuple(node.chosen for node in path)
        dead = tuple(sorted(race.dead))
        found = [f"{name} does not come to an end" for name in race.endless] or await look(self, dead)
        report.orders += 1
        report.deaths += len(dead)
        if found := tuple(found):
            report.violations.append(Order(steps, dead, found))


def _still_asleep(node: _Node) -> dict[Step, Footprint]:
    """After a step of one actor, what the others would do next is still asleep where the two don't touch."""
    return {
        step: asleep
        for step, asleep in node.asleep.items()
        if step.actor != node.chosen.actor and not asleep.touches(node.footprint)
    }


def _turn_back(path: list[_Node]) -> bool:
    """To the last point where something is left to be tried; whether there is one."""
    while path:
        node = path[-1]
        node.asleep[node.chosen] = node.footprint
        awake = [step for step in node.choices if step not in node.asleep]
        if awake:
            node.chosen = awake[0]
            return True
        path.pop()
    return False


@asynccontextmanager
async def stage(url: str, actors: int) -> AsyncIterator[Stage]:
    """A stage for so many actors. A ring of waits is found at once; nobody gives up waiting."""
    options = options_of({"deadlock_timeout": "1ms", **PLANNER})
    opened: list[AsyncConnection[Any]] = []
    try:
        opened += [await GatedConnection.connect(url, options=options) for _ in range(actors)]
        successor = await AsyncConnection.connect(url, options=options, autocommit=True)
        opened.append(successor)
        for conn in opened:
            arrays.register(conn)
        played = Stage(url, cast("list[GatedConnection]", opened[:actors]), successor)
        with played.observer:
            yield played
    finally:
        for conn in opened:
            await conn.close()
