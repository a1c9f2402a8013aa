"""Reports what was run and found, as a table and as JSON."""

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
    """One kind of test, run many times. `found` describes the violations."""

    part: str
    what: str
    runs: int = 0
    unit: str = "runs"
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """Seconds of each recovery."""
    more: dict[str, Any] = field(default_factory=dict)
    late: list[str] = field(default_factory=list)
    """Recoveries that took longer than they should; no guarantee is broken."""

    def add(self, other: "Row") -> None:
        """Adds the result of another run of the same test."""
        self.runs += other.runs
        self.seconds += other.seconds
        self.found += other.found
        self.late += other.late
        self.times += other.times
        for name, value in other.more.items():
            self.more[name] = _together(self.more[name], value) if name in self.more else value


def _together(one: Any, other: Any) -> Any:
    """Adds counts, keeps the larger of two measures and the later of two texts."""
    if isinstance(one, dict):
        return {name: one.get(name, 0) + other.get(name, 0) for name in sorted(one.keys() | other.keys())}
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return max(one, other) if isinstance(one, float) else other


@dataclass(frozen=True, slots=True)
class Task:
    """The seed and the end of a part, and the function to which it reports its progress."""

    seed: int
    ends_at: float
    """On the monotonic clock."""
    report: Callable[[str], None] = lambda _: None

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.ends_at


def table(rows: list[Row]) -> Table:
    """Returns the table for people."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("part", "what", "done", "seconds", "wrong", ""):
        shown.add_column(name, overflow="fold", justify="right" if name in ("seconds", "wrong") else "left")
    for row in rows:
        details = _spread(row.times) | ({"late": len(row.late)} if row.late else {}) | row.more
        more = ", ".join(f"{name} {_short(value)}" for name, value in details.items())
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
    """Returns the rows of several runs; rows of the same test are added up."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if (row.part, row.what) in found:
            found[row.part, row.what].add(row)
        else:
            found[row.part, row.what] = row
    return list(found.values())


def as_json(rows: list[Row], runs: list[Mapping[str, Any]]) -> str:
    """Returns JSON for scripts and for `--add`."""
    violations, late = sum(len(row.found) for row in rows), sum(len(row.late) for row in rows)
    result = {"runs": runs, "violations": violations, "late": late, "rows": [asdict(row) for row in rows]}
    return json.dumps(result, indent=1, default=str) + "\n"


def read(file: Path) -> tuple[list[Row], list[Mapping[str, Any]]]:
    """Reads what `as_json` wrote."""
    result = json.loads(file.read_text())
    return [Row(**row) for row in result["rows"]], result["runs"]


def _short(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
