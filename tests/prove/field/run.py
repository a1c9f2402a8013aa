"""Plays the cells one after the other, and reports each; cells of one kind share servers as long as they pass."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.prove.field.cells import CELLS
from tests.prove.field.environment import Environment, Kafka, Kind, brokers, environment, missing
from tests.prove.field.play import TROUBLE, Cell, Outcome, played
from tests.prove.report import Row, Task

PART = "field"
LONGEST_SECONDS = 400.0
"""A cell that takes longer has hung, and is ended."""


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
        async with asyncio.timeout(LONGEST_SECONDS):
            outcome = await played(cell, await kept.of(cell.kind), seed)
    except TROUBLE as error:
        outcome = Outcome(cell.what, str(cell.kind), errors=[f"{type(error).__name__}: {error}"])
    if cell.spoils or not outcome.passed:
        # The brokers, too: a broker may still append what a pod had sent before it was killed, also to a new topic.
        await kept.close()
    return outcome


async def field(task: Task, *, only: str = "", report: Path | None = None) -> list[Row]:
    """Plays all cells with `only` in their name or kind. Writes Markdown to `report`, and JSON beside it."""
    cells = [cell for cell in CELLS if only in cell.what or only in str(cell.kind)]
    left_out = {cell: why for cell in cells if (why := missing(cell.kind))}
    cells = [cell for cell in cells if cell not in left_out]
    outcomes: list[Outcome] = []
    async with servers() as kept:
        for number, cell in enumerate(cells):
            task.report(f"{number + 1} of {len(cells)}: {cell.what}; {cell.kind}")
            outcomes.append(await play(cell, kept, task.seed + number))
            _print(outcomes[-1])
            if report:  # after each cell: a run of many minutes may be interrupted
                write(report, outcomes)
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


def write(file: Path, outcomes: Iterable[Outcome]) -> None:
    """Writes the table of the outcomes as Markdown, and everything as JSON beside it."""
    some = list(outcomes)
    failed = [each for each in some if not each.passed]
    lines = [
        f"# {datetime.now(UTC):%Y-%m-%d}: the field",
        "",
        f"{len(some)} cells, {sum(each.inputs for each in some):,} inputs. {len(failed)} cells failed.",
        "",
        "An independent judge (`tests/prove/field/judge.py`) compares topics and tables. *Lost*: inputs without an",
        "outcome. *Contradicted*: events and rows that cannot all be true. *Repeated*: events that were published",
        "again (allowed). *Reported*: seconds from the beginning of the fault until `/readyz` or `ops.health` named",
        "it; a dash where nothing need be. *Ready again*: seconds from the end of the fault until a new batch was",
        "ready.",
        "",
        "| cell | environment | inputs | lost | contradicted | repeated | reported, s | ready again, s | |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_line(each) for each in some),
        "",
    ]
    for each in failed:
        lines += [f"**{each.cell}** ({each.environment}): {len(each.findings)} findings, the first:", ""]
        lines += [f"- `{text[:200]}`" for text in each.findings[:3]] + [""]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines).rstrip() + "\n")
    file.with_suffix(".json").write_text(json.dumps([_shown(each) for each in some], indent=1) + "\n")


def _shown(outcome: Outcome) -> dict[str, object]:
    """Returns the outcome for scripts: numbers for the long lists, and the first findings."""
    numbers = {"lost": len(outcome.lost), "contradicted": len(outcome.contradicted), "passed": outcome.passed}
    findings = [text[:300] for text in outcome.findings[:5]]
    return asdict(outcome) | numbers | {"findings": findings, "said": [text[:300] for text in outcome.said]}


def _line(outcome: Outcome) -> str:
    reported = "–" if not outcome.must_report else "never" if outcome.reported is None else f"{outcome.reported:.1f}"
    again = "never" if outcome.ready_again is None else f"{outcome.ready_again:.1f}"
    numbers = (outcome.inputs, len(outcome.lost), len(outcome.contradicted), outcome.repeated, reported, again)
    state = "passed" if outcome.passed else "**failed**"
    return f"| {outcome.cell} | {outcome.environment} | {' | '.join(map(str, numbers))} | {state} |"
