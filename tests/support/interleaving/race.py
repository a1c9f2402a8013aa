"""Actors that work on one database, each on a connection of its own, and that take a step when it is their turn."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final, NamedTuple, cast

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import TransactionStatus

from service.domain.cells import ALL_BATCHES
from service.domain.delivery import Delivery
from service.postgres import statements
from service.postgres.pool import Database
from tests.support.checks.footprints import OUTBOX_NUMBERS, Footprint, footprint
from tests.support.interleaving import points
from tests.support.pods.applier import deliver

BOUND: Final = 60
"""Seconds that a step may take to end or to wait for a lock, on a machine that is busy with other things."""

TRIES: Final = 8
"""Transactions of one actor after which it is said to have no end."""

COMMIT, HEAR, DIE = "commit", "hear", "die"

Work = Sequence[Delivery] | Callable[[Database], Awaitable[None]]
"""What an actor does: the poll that it applies, or something else with a database."""


class Died(BaseException):
    """The pod is gone in the middle of a transaction."""


class Left(BaseException):
    """This order need not be run to its end."""


class GatedCursor(AsyncCursor[Any]):
    async def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
        await cast("GatedConnection", self.connection).turn(query)
        answered = await super().execute(query, *arguments, **options)
        cast("GatedConnection", self.connection).answered(query, self.pgresult)
        return answered


class GatedConnection(AsyncConnection[Any]):
    """A real connection that asks before every statement."""

    actor: "Actor | None" = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = GatedCursor

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

    slice = ALL_BATCHES

    def __init__(self, name: str, conn: GatedConnection, race: "Race") -> None:
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


class Race:
    """One run of all actors, a step at a time."""

    def __init__(
        self, connections: Mapping[str, GatedConnection], observer: psycopg.Connection[Any], deaths: int
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

    async def point(self, question: bytes, before: points.Point | None, *, after_end: bool) -> points.Point:
        """By what to know this point, to which a step from the one before has led, again."""
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
