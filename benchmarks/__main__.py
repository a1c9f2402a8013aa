"""python -m benchmarks QUESTION [options]: starts its own servers, prints a table, writes JSON and a plot."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import servers

QUESTIONS = {
    "whole": "content events, Kafka in → committed → Kafka out",
    "database": "the database step alone, against the ceiling",
    "relay": "the relay alone",
    "latency": "one event in → its EssaySlotAssigned out, at fixed rates",
    "size": "cost of an event with 10 million slots in the tables against 10 thousand",
    "large": "one batch of 100,000 with as much content pending",
    "start": "start of a pod, first commit, memory",
    "flat": "minutes at a steady rate with the purge deleting: sizes, lag, memory, latency",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask one question, or with `all` each in turn."""
    options = _parser().parse_args(arguments)
    for question in QUESTIONS if options.question == "all" else [options.question]:
        # What `all` asks has the defaults of each question.
        chosen = _parser().parse_args([question]) if options.question == "all" else options
        with servers.postgres() as server:
            report = importlib.import_module(f"benchmarks.{question}").ask(server, chosen)
        report.show()
        _draw(report.write())
    return 0


def _draw(result: Path) -> None:
    try:
        from benchmarks import plots  # noqa: PLC0415  matplotlib is of the group `bench`, and may be missing
    except ImportError:
        print("no plot: matplotlib is not installed", file=sys.stderr)
    else:
        plots.draw(result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    questions = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    questions.add_parser("all", help="each in turn, with its defaults")
    asked = {name: questions.add_parser(name, help=told, description=told) for name, told in QUESTIONS.items()}
    for name, often in (
        ("whole", 3), ("database", 5), ("relay", 3), ("latency", 1), ("size", 10), ("large", 3), ("start", 5),
    ):  # fmt: skip
        asked[name].add_argument("--repeat", type=int, default=often, help=f"default {often}")
    asked["whole"].add_argument(
        "--shape",
        choices=("registered", "interleaved", "content-first", "one-hot-batch", "small-batches"),
        default="registered",
    )
    asked["whole"].add_argument("--pods", type=int, default=1)
    asked["whole"].add_argument("--events", type=int, default=180_000, help="contents preloaded (default 180,000)")
    asked["whole"].add_argument("--reference", type=int, default=3_000, help="contents of the reference; 0: none")
    asked["database"].add_argument("--batches", type=int, default=1_000, help="of 30, for each side of a round")
    asked["database"].add_argument("--poll", type=int, default=2_000)
    asked["relay"].add_argument("--events", type=int, default=300_000)
    asked["latency"].add_argument("--rates", type=int, nargs="+", default=[100, 500, 2_000, 4_000])
    asked["latency"].add_argument("--seconds", type=float, default=20)
    asked["size"].add_argument("--slots", type=int, default=10_000_000)
    asked["size"].add_argument("--batches", type=int, default=200)
    asked["large"].add_argument("--slots", type=int, default=100_000)
    asked["flat"].add_argument("--rate", type=int, default=8_000)
    asked["flat"].add_argument("--seconds", type=float, default=400)
    return parser


if __name__ == "__main__":
    sys.exit(main())
