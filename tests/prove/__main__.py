"""Runs the long tests that try to break the guarantees of the service, with a seed and a time limit.

Exit status 0: nothing was found. Exit status 1: a violation was found, or a recovery took longer than it should.
"""

import argparse
import asyncio
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from deploy.servers import brokers, databases
from tests.prove.cells import split_cells
from tests.prove.faults import under_load
from tests.prove.field.run import field
from tests.prove.fuzz import fuzz, guided
from tests.prove.fuzz_operators import fuzz_operators
from tests.prove.histories import histories
from tests.prove.hostile import hostile_inputs
from tests.prove.interleavings import interleavings, witnesses
from tests.prove.recoveries import recoveries
from tests.prove.report import Row, Task, as_json, read, summed, table
from tests.prove.soak import soak

RESULTS = Path("docs/results")
"""The soak writes its plots to <date>-soak in it."""


def main() -> int:
    """Runs the parts that the arguments name. Returns the exit status."""
    options = _parser().parse_args()
    # SIGTERM must stop the servers, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rows: list[Row] = []
    runs: list[Mapping[str, Any]] = []
    for file in options.add:
        earlier, its_runs = read(file)
        rows += earlier
        runs += its_runs
    started = datetime.now(UTC)
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.fields[part]}: {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as shown:
        for name in options.parts:
            line = shown.add_task("starting", part=name, total=None)
            task = Task(
                options.seed,
                time.monotonic() + options.minutes * 60,
                lambda text, line=line: shown.update(line, description=text),  # type: ignore[misc]
            )
            rows += PARTS[name](task, options)
            shown.update(line, description="done")
    rows = summed(rows)
    Console(width=200 if not sys.stdout.isatty() else None).print(table(rows))
    if options.parts != ["total"]:
        command, python = " ".join(sys.argv[1:]), platform.python_version()
        runs.append({"command": command, "started": started.isoformat(), "seed": options.seed, "python": python})
    if options.json:
        options.json.write_text(as_json(rows, runs))
    for row in rows:
        for found in (row.found + row.late)[:20]:
            print(f"{row.part}, {row.what}: {found}", file=sys.stderr)
    return 1 if any(row.found or row.late for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make prove", description=__doc__)
    parts = [name for name in PARTS if name != "total"]
    parser.add_argument(
        "parts",
        nargs="*",
        default=parts,
        metavar="PART",
        help=f"{', '.join(parts)} (default: all); or total: only --add",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices (default 1)")
    parser.add_argument("--minutes", type=float, default=10, help="time limit of each part (default 10)")
    parser.add_argument(
        "--records", type=int, default=1_000_000, help="maximum of records for fuzz (default 1,000,000)"
    )
    parser.add_argument("--rounds", type=int, default=10, help="maximum of rounds for cells (default 10)")
    parser.add_argument(
        "--cells", type=int, default=1, help="for histories: play each on so many cells, too (2, 4, 8 …; default 1)"
    )
    parser.add_argument(
        "--broker", choices=("apache", "tansu"), help="for cells, faults and soak (default: apache if possible)"
    )
    parser.add_argument("--without", metavar="TEXT", help="skip faults with this text in their name")
    parser.add_argument(
        "--only",
        default="",
        metavar="TEXT",
        help="only what has this text in its name; for field, several, divided by |",
    )
    parser.add_argument("--rate", type=float, help="records per second (default: 300 for soak, the maximum for faults)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="add the results of field to this table (Markdown), and to the JSON beside it",
    )
    parser.add_argument(
        "--resume", action="store_true", help="leave out the cells of field that --report has as passed at this commit"
    )
    parser.add_argument(
        "--add",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="results of earlier runs (--json), added to this one",
    )
    return parser


def _on_a_server(task: Task, part: Callable[..., object]) -> list[Row]:
    with databases.server_url(None) as server, databases.template(server) as template:
        return asyncio.run(part(server, template, task))  # type: ignore[arg-type]


@contextmanager
def _databases(count: int) -> Iterator[list[str]]:
    with ExitStack() as stack:
        server = stack.enter_context(databases.server_url(None))
        template = stack.enter_context(databases.template(server))
        yield [stack.enter_context(databases.cloned(server, template)) for _ in range(count)]


def _histories(task: Task, options: argparse.Namespace) -> list[Row]:
    with _databases(1 + (options.cells if options.cells > 1 else 0)) as urls:
        return [asyncio.run(histories(urls, task, sys.maxsize))]


def _fuzz(task: Task, options: argparse.Namespace) -> list[Row]:
    records = options.records
    with _databases(1) as (url,):
        operators = fuzz_operators(databases.url_as(url, "els_app"), task, records // 50)
    return [*operators, *fuzz(task, records), guided(records)]


def _apache(options: argparse.Namespace) -> bool:
    return options.broker == "apache" if options.broker else brokers.apache_missing() is None


def _plots() -> Path:
    return RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-soak"


PARTS: dict[str, Callable[[Task, argparse.Namespace], list[Row]]] = {
    "interleavings": lambda task, options: _on_a_server(task, partial(interleavings, only=options.only)),
    "witnesses": lambda task, _: _on_a_server(task, witnesses),
    "histories": _histories,
    "recoveries": lambda task, options: _on_a_server(task, partial(recoveries, only=options.only)),
    "fuzz": _fuzz,
    "hostile": lambda task, _: _on_a_server(task, hostile_inputs),
    "cells": lambda task, options: _on_a_server(
        task, partial(split_cells, rounds=options.rounds, apache=_apache(options), only=options.only)
    ),
    "faults": lambda task, options: asyncio.run(
        under_load(task, apache=_apache(options), rate=options.rate, only=options.only, without=options.without)
    ),
    "field": lambda task, options: asyncio.run(
        field(task, only=options.only, report=options.report, resume=options.resume)
    ),
    "total": lambda *_: [],
    "soak": lambda task, options: asyncio.run(
        soak(
            task,
            apache=_apache(options),
            rate=options.rate or 300,
            plots=RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-soak",
        )
    ),
}

if __name__ == "__main__":
    sys.exit(main())
