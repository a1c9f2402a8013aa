"""What was done and what was found, as a table and as JSON."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text


@dataclass(slots=True)
class Row:
    """One thing that was tried, many times: `found` is what went wrong, in words."""

    part: str
    what: str
    runs: int = 0
    unit: str = "runs"
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Seconds that it took to recover, each time."""
    more: dict[str, Any] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    """What came right, and later than it should: no promise is broken by it."""

    def add(self, other: "Row") -> None:
        """What another run has done of the same."""
        self.runs += other.runs
        self.seconds += other.seconds
        self.found += other.found
        self.late += other.late
        self.times += other.times
        for name, value in other.more.items():
            self.more[name] = _together(self.more[name], value) if name in self.more else value


def _together(one: Any, other: Any) -> Any:
    """Counts are added, of measures the larger is kept, of words the later."""
    if isinstance(one, dict):
        return {name: one.get(name, 0) + other.get(name, 0) for name in sorted(one.keys() | other.keys())}
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return max(one, other) if isinstance(one, float) else other


@dataclass(frozen=True, slots=True)
class Task:
    """What a part is given: its dice, its time, and where it tells how far it is."""

    seed: int
    ends_at: float
    """On the monotonic clock."""
    tell: Callable[[str], None] = lambda _: None

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ends_at


def table(rows: list[Row]) -> Table:
    """For people."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "what", "done", "seconds", "wrong", ""):
        shown.add_column(name, overflow="fold", justify="right" if name in ("seconds", "wrong") else "left")
    for row in rows:
        told = _spread(row.times) | ({"late": len(row.late)} if row.late else {}) | row.more
        more = ", ".join(f"{name} {_short(value)}" for name, value in told.items())
        cells = (row.part, row.what, f"{row.runs:,} {row.unit}", f"{row.seconds:.1f}", str(len(row.found)), more)
        shown.add_row(*map(Text, cells))
    return shown


def _spread(times: list[float]) -> dict[str, Any]:
    if not times:
        return {}
    ranked = sorted(times)
    middle, most = ranked[len(ranked) // 2], ranked[-1]
    late = ranked[min(len(ranked) - 1, len(ranked) * 95 // 100)]
    return {"rounds": len(ranked), "recovered, median s": middle, "p95 s": late, "most s": most}


def summed(rows: Iterable[Row]) -> list[Row]:
    """The rows of several runs, those of the same thing in one."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if (row.part, row.what) in found:
            found[row.part, row.what].add(row)
        else:
            found[row.part, row.what] = row
    return list(found.values())


def as_json(rows: list[Row], runs: list[Mapping[str, Any]]) -> str:
    """For scripts, and for runs that this one is added to."""
    violations, late = sum(len(row.found) for row in rows), sum(len(row.late) for row in rows)
    told = {"runs": runs, "violations": violations, "late": late, "rows": [asdict(row) for row in rows]}
    return json.dumps(told, indent=1, default=str) + "\n"


def read(file: Path) -> tuple[list[Row], list[Mapping[str, Any]]]:
    """What `as_json` wrote."""
    told = json.loads(file.read_text())
    return [Row(**row) for row in told["rows"]], told["runs"]


def _short(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
