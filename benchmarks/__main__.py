"""Runs a benchmark on its own servers, prints a table, and writes JSON and a plot: `python -m benchmarks QUESTION`."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import servers

QUESTIONS = {
    "whole": "content events per second, from Kafka to the database to Kafka",
    "database": "the database step alone, compared with bulk statements",
    "relay": "the relay alone",
    "latency": "from an upload to its EssaySlotAssigned, at fixed rates",
    "size": "the cost of an event with 10 million slots in the tables, compared with 10 thousand",
    "large": "one batch of 100,000 essays whose content is pending already",
    "start": "the start of a pod: time, first commit, memory",
    "recovery": "an empty database from its topics, compared with the first application",
    "console": "the time of each page and search of the console, with 10 million slots in the tables",
    "cells": "the CPU of an event with several cells, compared with one, and of a record that is skipped",
    "outage": "the latency of one cell while the database of the other is stopped",
    "idle": "what a cell costs that has nothing to do, with all cells on one server",
    "flat": "minutes at a steady rate while the purge deletes: sizes, lag, memory, latency",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one benchmark, or with `all` each in turn."""
    options = _parser().parse_args(arguments)
    for question in QUESTIONS if options.question == "all" else [options.question]:
        # With `all`, each question has its own defaults.
        its_options = _parser().parse_args([question]) if options.question == "all" else options
        with servers.postgres() as server:
            report = importlib.import_module(f"benchmarks.{question}").measure(server, its_options)
        report.show()
        _draw(report.write())
    return 0


def _draw(result: Path) -> None:
    try:
        from benchmarks import plots  # noqa: PLC0415  matplotlib is in the group `bench` and may be missing
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
    else:
        plots.draw(result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    questions.add_parser("all", help="run each in turn, with its defaults")
    parsers = {name: questions.add_parser(name, help=text, description=text) for name, text in QUESTIONS.items()}
    for name, repeat in (
        ("whole", 3), ("database", 5), ("relay", 3), ("latency", 1), ("size", 10), ("large", 3), ("start", 5),
        ("console", 7), ("cells", 5), ("outage", 3),
    ):  # fmt: skip
        parsers[name].add_argument("--repeat", type=int, default=repeat, help=f"default {repeat}")
    parsers["whole"].add_argument(
        "--shape",
        choices=("registered", "interleaved", "content-first", "one-hot-batch", "small-batches"),
        default="registered",
    )
    parsers["whole"].add_argument("--pods", type=int, default=1)
    parsers["whole"].add_argument(
        "--events", type=int, default=180_000, help="uploads sent before the measurement starts (default 180,000)"
    )
    parsers["whole"].add_argument(
        "--reference", type=int, default=3_000, help="uploads of the reference (default 3,000); 0: no reference"
    )
    parsers["whole"].add_argument(
        "--overview",
        type=float,
        default=0,
        help="alternate runs without and with a person who reloads the console's overview so many times a second",
    )
    parsers["database"].add_argument(
        "--batches", type=int, default=1_000, help="batches of 30, for each side of a round"
    )
    parsers["database"].add_argument("--poll", type=int, default=2_000)
    parsers["relay"].add_argument("--events", type=int, default=300_000)
    parsers["latency"].add_argument("--rates", type=int, nargs="+", default=[100, 500, 2_000, 4_000])
    parsers["latency"].add_argument("--seconds", type=float, default=20)
    parsers["size"].add_argument("--slots", type=int, default=10_000_000)
    parsers["size"].add_argument("--batches", type=int, default=200)
    parsers["large"].add_argument("--slots", type=int, default=100_000)
    parsers["recovery"].add_argument("--events", type=int, default=300_000)
    parsers["console"].add_argument("--slots", type=int, default=10_000_000)
    parsers["console"].add_argument("--pending", type=int, default=100_000)
    parsers["console"].add_argument("--quarantined", type=int, default=50_000)
    parsers["cells"].add_argument("--cells", type=int, default=2)
    parsers["cells"].add_argument("--events", type=int, default=180_000)
    parsers["outage"].add_argument("--rate", type=int, default=500, help="uploads per second of both cells together")
    parsers["outage"].add_argument(
        "--seconds", type=float, default=60, help="how long the database is stopped (default 60)"
    )
    parsers["idle"].add_argument("--cells", type=int, default=16)
    parsers["idle"].add_argument("--seconds", type=float, default=120)
    parsers["flat"].add_argument("--rate", type=int, default=8_000)
    parsers["flat"].add_argument("--seconds", type=float, default=400)
    return parser


if __name__ == "__main__":
    sys.exit(main())
