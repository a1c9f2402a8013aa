"""Plays the cells one after the other, and reports each; cells of one kind share servers as long as they pass."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.prove.field.cells import CELLS
from tests.prove.field.environment import Environment, Kafka, Kind, brokers, environment, missing
from tests.prove.field.play import TROUBLE, Cell, Outcome, played
from tests.prove.field.report import Report, this_run
from tests.prove.report import Row, Task

PART = "field"


class Servers:
    """The brokers and the environment that the last cell has left, for the next one."""

    def __init__(self) -> None:
        self._brokers = AsyncExitStack()
        self._kafka: Kafka | None = None
        self._rest = AsyncExitStack()
        self._world: Environment | None = None

    async def of(self, kind: Kind) -> Environment:
        """Returns an environment of this kind: the running one if it is of the kind, else a new one."""
        if self._world is not None and self._world.kind == kind:
            return self._world
        await self.drop()
        if self._kafka is None or self._kafka.replication != kind.brokers:
            await self.close()
            self._kafka = self._brokers.enter_context(brokers(kind.brokers))
        self._world = await self._rest.enter_async_context(environment(kind, self._kafka))
        return self._world

    async def drop(self) -> None:
        """Ends the environment, and keeps the brokers."""
        self._world = None
        await self._rest.aclose()

    async def close(self) -> None:
        """Ends everything."""
        await self.drop()
        self._kafka = None
        await self._brokers.aclose()


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """Gives servers that are ended at the end."""
    kept = Servers()
    try:
        yield kept
    finally:
        await kept.close()


async def play(cell: Cell, kept: Servers, seed: int) -> Outcome:
    """Plays one cell. Where it does not pass, or spoils its servers, the next one gets new servers."""
    try:
        async with asyncio.timeout(cell.lasts):
            outcome = await played(cell, await kept.of(cell.kind), seed)
    except TROUBLE as error:
        outcome = Outcome(cell.what, str(cell.kind), errors=[f"{type(error).__name__}: {error}"])
    if cell.spoils or not outcome.passed:
        # The brokers, too: a broker may still append what a pod had sent before it was killed, also to a new topic.
        await kept.close()
    return outcome


async def field(task: Task, *, only: str = "", report: Path | None = None, resume: bool = False) -> list[Row]:
    """Plays all cells with `only` in their name or kind. Adds the results to the Markdown of `report` and its JSON.

    `resume` leaves out the cells that have passed at this commit, by that report.
    """
    cells = [cell for cell in CELLS if any(each in cell.what or each in str(cell.kind) for each in only.split("|"))]
    kept_report, run = Report(report) if report else None, this_run()
    if resume and kept_report:
        cells = [each for each in cells if not kept_report.has(each.what, str(each.kind), run["commit"])]
    left_out = {cell: why for cell in cells if (why := missing(cell.kind) or cell.lacks())}
    cells = [cell for cell in cells if cell not in left_out]
    outcomes: list[Outcome] = []
    async with servers() as kept:
        for number, cell in enumerate(cells):
            task.report(f"{number + 1} of {len(cells)}: {cell.what}; {cell.kind}")
            outcomes.append(await play(cell, kept, task.seed + number))
            _print(outcomes[-1])
            outcomes[-1].run = run
            if kept_report:  # after each cell: a run of many minutes may be interrupted
                kept_report.add(outcomes[-1])
    return [_row(each) for each in outcomes] + [
        Row(PART, f"{cell.what} ({cell.kind})", unit="inputs", more={"left out": why}) for cell, why in left_out.items()
    ]


def _print(outcome: Outcome) -> None:
    state = "passed" if outcome.passed else "FAILED"
    print(f"{state}: {outcome.cell} ({outcome.environment}), {outcome.seconds:.0f} s", flush=True)


def _row(outcome: Outcome) -> Row:
    row = Row(PART, f"{outcome.cell} ({outcome.environment})", outcome.inputs, "inputs", outcome.seconds)
    row.found = [each for each in outcome.findings if each not in outcome.late]
    row.late = outcome.late
    row.times = [] if outcome.ready_again is None else [outcome.ready_again]
    row.more = {"ready": outcome.ready, "repeated": outcome.repeated, "pods died": outcome.pods_that_died}
    if outcome.reported is not None:
        row.more["reported s"] = outcome.reported
    return row
