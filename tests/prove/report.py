"""What was done and what was found, as a table and as JSON."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
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
    more: dict[str, Any] = field(default_factory=dict)


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
        more = ", ".join(f"{name} {_short(value)}" for name, value in row.more.items())
        cells = (row.part, row.what, f"{row.runs:,} {row.unit}", f"{row.seconds:.1f}", str(len(row.found)), more)
        shown.add_row(*map(Text, cells))
    return shown


def as_json(rows: list[Row], **about: Any) -> Mapping[str, Any]:
    """For scripts."""
    return {**about, "violations": sum(len(row.found) for row in rows), "rows": [asdict(row) for row in rows]}


def _short(value: object) -> str:
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
