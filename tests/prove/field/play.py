"""Plays one cell of the matrix: an environment, clients, perhaps a fault; then the judge decides."""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import psycopg
from confluent_kafka import KafkaException

from deploy.local.processes import StackError
from tests.prove.field import traffic
from tests.prove.field.batches import Verdict
from tests.prove.field.environment import Environment, Kind, complaints
from tests.prove.field.judge import Judge
from tests.prove.field.topics import CONFIRMED, READY, REGISTERED
from tests.prove.field.traffic import Librdkafka, Record, Steady
from tests.prove.field.watch import Watch
from tests.support.builders import inputs

REPORTED_SECONDS: Final = 15.0
"""SPEC: a fault is reported within so many seconds."""
READY_SECONDS: Final = 60.0
"""A new batch is ready within so many seconds of the end of a fault."""
SETTLED_SECONDS: Final = 120.0
"""Inputs without an outcome after so many seconds are lost."""
STILL_SECONDS: Final = 40.0
"""They are lost as well where nothing has changed for so long."""
QUIET_SECONDS: Final = 2.0
"""Whatever contradicts may come so long after the last outcome."""
MINIMUM_READY: Final = 20
"""Batches of a cell; with fewer it has tested nothing."""
TROUBLE: Final = (AssertionError, StackError, psycopg.Error, KafkaException, OSError, RuntimeError)


class Play:
    """What a cell works with: its environment, its own batches, and the judge of these."""

    def __init__(self, world: Environment, seed: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.prefix = f"f{uuid4().hex[:8]}"
        self.judge = Judge(world.kafka.servers, self.prefix)
        self.watch = Watch(world.pods)
        self.began = time.monotonic()
        """When the fault began; without one, the cell."""
        self.notes: list[str] = []
        """What the cell has measured, in words."""
        self._probing: asyncio.Task[float | None] | None = None

    async def send(self, some: Sequence[Record], **config: Any) -> None:
        """Sends records with librdkafka, and waits for their acknowledgements."""
        client = Librdkafka(self.world.kafka.servers, self.judge.acknowledged, **config)
        await asyncio.to_thread(client.send, some)
        await asyncio.to_thread(client.finish)

    def batches(self, count: int = 150) -> list[Record]:
        """Returns the inputs of new batches."""
        return traffic.batches(self.dice, f"{self.prefix}-{self.dice.randrange(10**9)}", count)

    async def run(self, *arguments: str, names: str = "", **settings: str) -> list[str]:
        """Runs a command with the settings of the pods. Notes and returns what it complains about.

        Raises AssertionError where it does not complain of what `names` is the pattern of.
        """
        given = self.world.settings | settings
        said = await asyncio.to_thread(lambda: complaints(*arguments, **given))
        self.watch.note(f"els {' '.join(arguments)}", said)
        found = re.compile(names, re.IGNORECASE)
        assert not names or any(found.search(line) for line in said), f"els {arguments[0]} says {said}, not {names!r}"
        return said

    @asynccontextmanager
    async def load(self, *, rate: float = 15, without: str = "") -> AsyncIterator[None]:
        """Sends batches at a steady rate (of batches per second); nothing to the topic `without`."""
        steady = Steady(
            self.world.kafka.servers,
            self.judge.acknowledged,
            self.dice,
            f"{self.prefix}-{self.dice.randrange(10**9)}",
            rate,
            without,
        )
        steady.start()
        try:
            await asyncio.sleep(2)  # so that the fault meets work that is in progress
            yield
            await asyncio.sleep(2)
        finally:
            await asyncio.to_thread(steady.stop)

    @asynccontextmanager
    async def fault(self) -> AsyncIterator[None]:
        """Notes when the fault begins; at its end, measures until a new batch is ready."""
        self.began = time.monotonic()
        yield
        self.end_fault()

    def end_fault(self) -> None:
        """Begins to measure until a new batch is ready; anew where a fault turns out to have lasted longer."""
        self.give_up()
        self._probing = asyncio.create_task(self._recovered())

    def give_up(self) -> None:
        """Ends the measurement."""
        if self._probing is not None:
            self._probing.cancel()

    async def ready_again(self) -> float | None:
        """Returns the seconds from the end of the fault (without one: from now) until a new batch is ready, or None."""
        if self._probing is None:
            self.end_fault()
        assert self._probing is not None
        return await self._probing

    async def applied(self, seconds: float = SETTLED_SECONDS) -> Verdict:
        """Waits until everything that was sent has its outcome. Returns the verdict, also if it has not in time."""
        end, state, changed = time.monotonic() + seconds, (0, 0), time.monotonic()
        while True:
            try:
                verdict = await asyncio.to_thread(self.judge.judge, self.world.url())
                if state != (state := (len(verdict.lost), verdict.outputs)):
                    changed = time.monotonic()
                if not verdict.lost or time.monotonic() > min(end, changed + STILL_SECONDS):
                    return verdict
            except (psycopg.Error, KafkaException, TimeoutError):
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(0.3)

    async def _recovered(self) -> float | None:
        since = time.monotonic()
        name = f"{self.prefix}-probe-{self.dice.randrange(10**9)}"
        await self.send(probe(name))
        while time.monotonic() < since + READY_SECONDS:
            await asyncio.to_thread(self.judge.read)
            if self.judge.has(READY, name):
                return time.monotonic() - since
            await asyncio.sleep(0.1)
        return None


def probe(name: str) -> list[Record]:
    """Returns a batch of a class with so many uploads that each partition has some, and a failure."""
    essays, key = [f"{name}-e{number}" for number in range(30)], name.encode()
    uploads = [traffic.content(name, f"{name}-{number}") for number in range(29)]
    return [
        *uploads,
        traffic.failure(name, f"{name}-29"),
        Record(REGISTERED, key, inputs.registration(name, essays, class_id="8a")),
        Record(CONFIRMED, key, inputs.confirmation(name, "8a")),
    ]


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix. `names` is a pattern for what must be reported; None where nothing need be.

    With `spoils`, the environment is not used for another cell. `in_ci` cells belong to the short form.
    """

    what: str
    kind: Kind
    play: Callable[[Play], Awaitable[None]]
    names: str | None = None
    reported_within: float = REPORTED_SECONDS
    lacks: Callable[[], str | None] = lambda: None
    """Says what this machine lacks for the cell, apart from its environment."""
    lasts: float = 400.0
    """A cell that takes longer has hung, and is ended."""
    spoils: bool = False
    in_ci: bool = False
    recovers_within: float = READY_SECONDS


@dataclass
class Outcome:
    """The result of a cell. Times are in seconds; None where there was nothing, or where it never came."""

    cell: str
    environment: str
    inputs: int = 0
    batches: int = 0
    ready: int = 0
    lost: list[str] = field(default_factory=list)
    contradicted: list[str] = field(default_factory=list)
    repeated: int = 0
    split: int = 0
    must_report: bool = False
    reported: float | None = None
    ready_again: float | None = None
    late: list[str] = field(default_factory=list)
    """What was reported late or never, and how long it took to be ready again."""
    errors: list[str] = field(default_factory=list)
    """Why the cell could not be played to its end."""
    seconds: float = 0.0
    pods_that_died: int = 0
    said: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run: dict[str, str] = field(default_factory=dict)
    """The commit that was played, and when."""

    @property
    def passed(self) -> bool:
        """Returns whether nothing was lost or contradicted, and the fault was reported in time."""
        return not self.findings

    @property
    def findings(self) -> list[str]:
        """Returns everything that is wrong."""
        lost = [f"lost: {each}" for each in self.lost]
        return [*self.errors, *self.late, *(f"contradicted: {each}" for each in self.contradicted), *lost]


async def played(cell: Cell, world: Environment, seed: int) -> Outcome:
    """Plays a cell in a running environment. Whatever goes wrong is in the outcome."""
    outcome = Outcome(cell.what, str(cell.kind), must_report=cell.names is not None)
    started = time.monotonic()
    play = await asyncio.to_thread(Play, world, seed)
    watching = asyncio.create_task(play.watch.run(world.url))
    try:
        await cell.play(play)
        outcome.ready_again = await play.ready_again()
        await _judge(cell, play, outcome)
    except TROUBLE as error:
        outcome.errors.append(f"{type(error).__name__}: {error}")
    finally:
        play.give_up()
        if watching.done():
            outcome.errors.append(f"the watch ended: {watching.exception()!r}")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    _note_times(cell, play, outcome)
    outcome.seconds = time.monotonic() - started
    return outcome


async def _judge(cell: Cell, play: Play, outcome: Outcome) -> None:
    await play.applied()
    await asyncio.sleep(QUIET_SECONDS)
    verdict = await asyncio.to_thread(play.judge.judge, play.world.url())
    outcome.lost += verdict.lost
    outcome.contradicted += verdict.contradicted
    outcome.split = len(verdict.split)
    if cell.names is None or play.watch.first(cell.names, play.began) is None:
        outcome.contradicted += verdict.split  # SPEC: not undetected
    outcome.inputs, outcome.batches, outcome.ready = verdict.inputs, verdict.batches, verdict.ready
    outcome.repeated = verdict.repeated
    if verdict.ready < MINIMUM_READY:
        outcome.errors.append(f"only {verdict.ready} batches are ready: the cell has tested nothing")


def _note_times(cell: Cell, play: Play, outcome: Outcome) -> None:
    outcome.notes = play.notes
    outcome.said, outcome.pods_that_died = play.watch.summary(play.began), play.watch.deaths
    if outcome.errors:
        return
    if outcome.ready_again is None:
        outcome.late.append(f"not ready again within {READY_SECONDS:.0f} s")
    elif outcome.ready_again > cell.recovers_within:
        outcome.late.append(f"ready again after {outcome.ready_again:.1f} s, not {cell.recovers_within:.0f}")
    if cell.names is None:
        return
    outcome.reported = play.watch.first(cell.names, play.began)
    if outcome.reported is None:
        outcome.late.append(f"never reported: nothing said matches {cell.names!r}")
    elif outcome.reported > cell.reported_within:
        outcome.late.append(f"reported after {outcome.reported:.1f} s")
