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

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, cast
from unittest import mock
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import TransactionStatus

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import (
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Incoming,
    Rejection,
    ValidationFailed,
)
from service.domain.topics import ASSOCIATIONS_CONFIRMED, BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.postgres import arrays, statements
from service.postgres.pool import Database
from service.postgres.session import PLANNER, options_of
from service.runtime.health import Health
from service.runtime.loop import Backoff
from tests.support.checks.footprints import OUTBOX_NUMBERS, Footprint, footprint
from tests.support.interleaving import points

BOUND: Final = 60
"""Seconds that a step may take to end or to wait for a lock, on a machine that is busy with other things."""

TRIES: Final = 8
"""Transactions of one actor after which it is said to have no end."""

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

COMMIT, HEAR, DIE = "commit", "hear", "die"

Work = Sequence[Delivery] | Callable[[Database], Awaitable[None]]
"""What an actor does: the poll that it applies, or something else with a database."""


class Died(BaseException):
    """The pod is gone in the middle of a transaction."""


class Elsewhere(Exception):
    """The same steps led to another point: of two who wait for one row, the other one was first to have it."""


class Left(BaseException):
    """This order need not be run to its end."""


class _GatedCursor(AsyncCursor[Any]):
    async def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        await cast("_GatedConnection", self.connection).turn(query)
        answered = await super().execute(query, *arguments, **options)
        cast("_GatedConnection", self.connection).answered(query, self.pgresult)
        return answered


class _GatedConnection(AsyncConnection[Any]):
    """A real connection that asks before every statement."""

    actor: "Actor | None" = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = _GatedCursor

    async def turn(self, sql: str) -> None:
        if self.actor is not None:
            await self.actor.turn(self.actor.race.name(sql), footprint(sql))

    def answered(self, sql: str, result: psycopg.pq.abc.PGresult | None) -> None:
        if self.actor is not None:
            self.actor.history.add_answer(self.actor.race.name(sql), result)


class Actor:
    """One pod with one poll: where it stands, and the connection that it works on.

    It stands where the service expects its `Database`.
    """

    def __init__(self, name: str, conn: _GatedConnection, race: "_Race") -> None:
        self.name = name
        self.conn = conn
        self.race = race
        self.pid = conn.info.backend_pid
        self.gate: asyncio.Future[None] | None = None
        self.at = ""
        """The statement in front of which it stands, or which it is running."""
        self.step = Footprint()
        self.held: frozenset[str] = frozenset()
        """What its transaction has written or locked."""
        self.waits = False
        self.failed_at: int | None = None
        """How many transactions had ended, over all, when its last one failed: again only after another."""
        self.tries = 0
        self.history = points.History()
        self.task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self.gate is None and self.task is not None and not self.task.done()

    async def turn(self, at: str, step: Footprint) -> None:
        self.at, self.step = at, step
        gate = self.gate = asyncio.get_running_loop().create_future()
        self.race.moved.set()
        try:
            await gate
        except asyncio.CancelledError:  # what the actor did beside has died
            self.gate = None if self.gate is gate else self.gate
            raise

    def go(self, action: str) -> None:
        assert self.gate is not None
        gate, self.gate = self.gate, None
        if action == DIE:
            gate.set_exception(Died())
            return
        self.held |= self.step.takes
        gate.set_result(None)

    async def view(self, question: bytes) -> list[points.Row] | None:
        """What its transaction sees in the tables, while it stands; None where it has none."""
        if self.conn.info.transaction_status != TransactionStatus.INTRANS:
            return None
        async with AsyncCursor(self.conn) as cursor:
            await cursor.execute(question, prepare=True)
            return points.rows(await cursor.fetchall())

    def leave(self) -> None:
        if self.gate is not None and not self.gate.done():
            gate, self.gate = self.gate, None
            gate.set_exception(Left())

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection[Any]]:  # noqa: ARG002
        self.tries += 1
        if self.tries > TRIES:
            raise Left
        try:
            yield self.conn
            await self.turn(COMMIT, Footprint())
            await self.conn.commit()
            self.history.add(COMMIT)
            self._ended()
        except BaseException as error:
            await self.conn.rollback()
            self._ended()
            if isinstance(error, Exception):
                self.failed_at = self.race.ends
                self.race.errors.append(f"{type(error).__name__}: {error}")
                self.history.add(self.race.errors[-1])
            raise

    def _ended(self) -> None:
        self.race.ended |= self.held - {OUTBOX_NUMBERS}
        self.race.ends += 1
        self.held = frozenset()
        self.failed_at = None


class Step(NamedTuple):
    """What one actor did when it was its turn: a statement, `commit` or `die`."""

    actor: str
    what: str


class _Race:
    """One run of all actors, a step at a time."""

    def __init__(
        self, connections: Mapping[str, _GatedConnection], observer: psycopg.Connection[Any], deaths: int
    ) -> None:
        self.observer = observer
        self.deaths = deaths
        self.names = {sql: name for name, sql in statements.STATEMENTS.items()}
        self.moved = asyncio.Event()
        self.ended: frozenset[str] = frozenset()
        self.ends = 0
        self.errors: list[str] = []
        self.waited: set[str] = set()
        self.actors = {name: Actor(name, conn, self) for name, conn in connections.items()}
        for name, conn in connections.items():
            conn.actor = self.actors[name]
        self.twins: dict[str, list[str]] = {}
        """Of each actor those before it that have the same poll."""
        self.stepped: set[str] = set()
        self.dead: list[str] = []

    async def begin(self, polls: Mapping[str, Work]) -> None:
        events = {name: [each.event for each in work] for name, work in polls.items() if not callable(work)}
        names = list(events)
        for number, name in enumerate(names):
            self.twins[name] = [twin for twin in names[:number] if events[twin] == events[name]]
        for name, actor in self.actors.items():
            actor.task = asyncio.create_task(_work(actor, polls[name]))
            actor.task.add_done_callback(lambda _: self.moved.set())
        await self._settle()

    def name(self, sql: str) -> str:
        """The statement's name; one that is in none of the files goes by its first words (a cursor's are numbered)."""
        return self.names.get(sql) or re.sub(r"\d+", "", " ".join(sql.split()[:4]))

    def choices(self) -> list[Step]:
        """Whose turn it can be, and for what. Who has just failed begins again when somebody has ended.

        Of those who have the same poll and have not begun, the first: with the others it would be the same under names
        exchanged.
        """
        ready = [actor for actor in self.actors.values() if actor.gate is not None and self._has_its_turn(actor)]
        fresh = [actor for actor in ready if actor.failed_at is None or actor.failed_at < self.ends]
        steps = []
        for actor in fresh or ready:
            steps.append(Step(actor.name, actor.at))
            if self.deaths > 0 and (actor.at == HEAR or (actor.at == COMMIT and actor.held)):
                steps.append(Step(actor.name, DIE))
        return steps

    def _has_its_turn(self, actor: Actor) -> bool:
        return actor.name in self.stepped or all(twin in self.stepped for twin in self.twins.get(actor.name, ()))

    async def take(self, step: Step) -> Footprint:
        """Run one step until everybody stands or waits; what it had to do with, whoever it woke included."""
        actor = self.actors[step.actor]
        self.stepped.add(step.actor)
        done = actor.step
        waiting = [(each, each.step) for each in self.actors.values() if each.waits]
        self.ended = frozenset()
        if step.what == DIE:
            self.deaths -= 1
            self.dead.append(step.actor)
        actor.go(step.what)
        await self._settle()
        for each, woken in waiting:
            if not each.waits:
                done |= woken
        return replace(done, ends=done.ends | self.ended)

    async def end(self) -> None:
        """Let everybody go who is still there."""
        async with asyncio.timeout(BOUND):
            while unfinished := [each.task for each in self.actors.values() if each.task and not each.task.done()]:
                for actor in self.actors.values():
                    actor.leave()
                await asyncio.wait(unfinished, timeout=0.001)
        for actor in self.actors.values():
            actor.conn.actor = None

    async def point(self, question: bytes, last: "_Node | None") -> points.Point:
        """By what to know this point, to which the last one's step has led, again."""
        committed = points.rows(self.observer.execute(question).fetchall())
        standing = {
            actor.name: points.Standing(
                actor.history.digest,
                actor.failed_at is None or actor.failed_at < self.ends,
                committed if (view := await actor.view(question)) is None else view,
            )
            for actor in self.actors.values()
            if actor.gate is not None
        }
        waiting = [actor.name for actor in self.actors.values() if actor.waits]
        before, after_end = (last.point, last.ends) if last else (None, False)
        return points.point(committed, standing, sorted(self.dead), waiting, before, after_end)

    @property
    def histories(self) -> Sequence[bytes]:
        """What each was answered."""
        return [actor.history.digest for actor in self.actors.values()]

    @property
    def endless(self) -> list[str]:
        return [actor.name for actor in self.actors.values() if actor.tries > TRIES]

    async def _settle(self) -> None:
        """Until nobody runs but who waits for a lock that somebody who stands still holds."""
        async with asyncio.timeout(BOUND):
            while running := [actor for actor in self.actors.values() if actor.running]:
                # Most statements end at once; only then is it worth asking what they wait for.
                self.moved.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.moved.wait(), 0.002)
                running = [actor for actor in running if actor.running]
                if running and self._wait_for_those_who_stand(running):
                    self.waited.update(actor.at for actor in running)
                    break
        for actor in self.actors.values():
            actor.waits = actor.running
            self._note(actor)

    def _note(self, actor: Actor) -> None:
        if actor.task is not None and actor.task.done() and not actor.task.cancelled():
            error = actor.task.exception()
            if error is not None:
                raise error

    def _wait_for_those_who_stand(self, running: Sequence[Actor]) -> bool:
        """Whether each waits, at the end of the chain, for one of us who is not running."""
        rows = self.observer.execute(
            "select pid, pg_blocking_pids(pid) from unnest(%s::int[]) as pid", [[each.pid for each in running]]
        ).fetchall()
        blockers: dict[int, list[int]] = dict(rows)
        standing = {actor.pid for actor in self.actors.values()} - blockers.keys()

        def stands_behind(pid: int, seen: frozenset[int]) -> bool:
            return any(
                blocker in standing
                or (blocker in blockers and blocker not in seen and stands_behind(blocker, seen | {blocker}))
                for blocker in blockers[pid]
            )

        return all(blockers[pid] and stands_behind(pid, frozenset([pid])) for pid in blockers)


async def _work(actor: Actor, work: Work) -> None:
    """What the consumer does with a poll, or what the actor does instead; a pod that died has no more to say."""
    database = cast("Database", actor)
    with suppress(Died, Left):
        await (work(database) if callable(work) else deliver(database, work))


async def deliver(database: Database, deliveries: Sequence[Delivery], limits: IntakeLimits | None = None) -> None:
    """Apply a poll as the consumer does: what is free first, then what was set aside, each batch alone."""
    intake = Intake(database, limits or IntakeLimits(), Health(), forget)
    outcome = await intake.take(deliveries)
    await intake.take_exclusive(outcome.deferred)


async def forget(_: Effects) -> None:
    """The effects go to metrics and to the log, which are not always of interest."""


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

    def __init__(self, url: str, connections: Sequence[_GatedConnection], successor: AsyncConnection[Any]) -> None:
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
        race = _Race(dict(zip(polls, self._connections, strict=False)), self.observer, deaths)
        depth, cut = 0, False
        try:
            await race.begin(polls)
            while choices := race.choices():
                if depth == len(path):
                    asleep = _still_asleep(path[-1]) if path else {}
                    awake = [step for step in choices if step not in asleep]
                    point = await race.point(self._question, path[-1] if path else None) if been else None
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
        race: _Race,
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
        opened += [await _GatedConnection.connect(url, options=options) for _ in range(actors)]
        successor = await AsyncConnection.connect(url, options=options, autocommit=True)
        opened.append(successor)
        for conn in opened:
            arrays.register(conn)
        played = Stage(url, cast("list[_GatedConnection]", opened[:actors]), successor)
        with played.observer:
            yield played
    finally:
        for conn in opened:
            await conn.close()


def deliveries(*events: Incoming | Rejection) -> list[Delivery]:
    """The events as they come in a poll. The same event has the same value at every offset."""
    return [
        Delivery(_TOPICS.get(type(event), CONTENT_PROVISIONED), 0, offset, b"key", repr(event).encode(), (), event)
        for offset, event in enumerate(events)
    ]


_TOPICS: Mapping[type, str] = {
    BatchRegistered: BATCH_REGISTERED,
    ContentProvisioned: CONTENT_PROVISIONED,
    ValidationFailed: VALIDATION_FAILED,
    AssociationsConfirmed: ASSOCIATIONS_CONFIRMED,
}


def registration(batch_id: str = "b", essays: int | Sequence[str] = 1, **fields: Any) -> BatchRegistered:
    """A batch of so many essays, e1, e2, …, or of those named."""
    essay_ids = tuple(f"e{n + 1}" for n in range(essays)) if isinstance(essays, int) else tuple(essays)
    event = BatchRegistered(batch_id, essay_ids, "ENG5", "teacher", "", None, None, None, UUID(int=1), None, None)
    return replace(event, **fields)


def content(name: str, batch_id: str = "b", **fields: Any) -> ContentProvisioned:
    """The text `name`, from the upload of the same name."""
    origin = uuid5(NAMESPACE_OID, name)
    event = ContentProvisioned(
        batch_id, name, f"upload-{name}", f"{name}.txt", f"raw-{name}", 100, "md5", origin, None, None
    )
    return replace(event, **fields)


def failure(name: str, batch_id: str = "b", **fields: Any) -> ValidationFailed:
    """The upload `name` yields no text."""
    origin = uuid5(NAMESPACE_OID, name)
    detail = {"message": "no text"}
    failed_at = datetime(2026, 1, 15, tzinfo=UTC)
    event = ValidationFailed(
        batch_id, name, f"{name}.txt", f"raw-{name}", "EMPTY_CONTENT", detail, 0, failed_at, origin, None, None
    )
    return replace(event, **fields)


def confirmation(class_id: str = "8a", batch_id: str = "b", associations: int = 1) -> AssociationsConfirmed:
    """The class `class_id` is confirmed; "" names none."""
    return AssociationsConfirmed(batch_id, class_id, associations, uuid5(NAMESPACE_OID, class_id), None, None)
