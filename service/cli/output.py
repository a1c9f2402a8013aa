"""Prints the output of commands, as tables for people or JSON for scripts, and asks for confirmation.

Text that came from outside is made harmless for a terminal before it is printed.
"""

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import orjson
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from service.runtime.text import plain, safe_json

_T = TypeVar("_T")

ANY_WIDTH = 1_000_000
"""A width, in columns, that no table reaches."""


class CommandError(Exception):
    """The command failed: exit status 1. The message is one line that says why."""


class UsageError(Exception):
    """The command was called wrongly: exit status 2. The message is one line that says why."""


def print_rows(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Print rows: a table for people, a JSON array for scripts."""
    if as_json:
        print_json(rows)
        return
    if not rows:
        print("none")
        return
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, no_wrap=True)
    for row in rows:
        # Text, not markup: rows contain text from outside, which must not be able to style a terminal.
        table.add_row(*(Text(cell(value)) for value in row.values()))
    widest = console.options.update(max_width=ANY_WIDTH)
    width = Measurement.get(console, widest, table).maximum
    if not console.is_terminal:  # a file or a pipe has no width
        Console(width=width).print(table)
    elif width <= console.width:
        console.print(table)
    else:
        _print_blocks(rows)


def _print_blocks(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows that are too wide for a table: one line per column, an empty line between two rows."""
    for number, row in enumerate(rows):
        if number:
            print()
        print_row(row, False)


def print_row(row: Mapping[str, Any], as_json: bool) -> None:
    """Print one row: one line per column for people, a JSON object for scripts."""
    if as_json:
        print_json(row)
    else:
        for name, value in row.items():
            print(f"{name}: {cell(value)}")


def print_json(value: object) -> None:
    """Print a value as JSON on standard output, with times in UTC."""
    print(safe_json(orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2).decode()))


def cell(value: object) -> str:
    """Returns a value as one line of text for people, without control characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, Mapping | list):
        return safe_json(orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS).decode())
    return plain("" if value is None else str(value))


def warn(line: str) -> None:
    """Print one line on standard error."""
    Console(stderr=True, soft_wrap=True).print(Text(cell(line)))


def confirm(question: str, *, yes: bool) -> None:
    """Ask for confirmation before something is removed, unless `yes` is set.

    Raises CommandError if the answer is not yes, UsageError if standard input is not a terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("--yes: is needed, since there is no terminal to ask for confirmation")
    if _read_line(f"{cell(question)} [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was changed")


def _read_line(prompt: str) -> str:
    """Read a line from the terminal."""
    # asyncio handles the first Ctrl-C in the event loop, which is blocked here; Python's handler interrupts at once.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(prompt, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, former)


def progress(items: Sequence[_T], doing: str) -> Iterable[_T]:
    """Returns the items. Iterating shows a progress bar on standard error if that is a terminal."""
    console = Console(stderr=True)
    if len(items) < 2 or not console.is_terminal:
        return items
    return _with_bar(items, doing, console)


def _with_bar(items: Sequence[_T], doing: str, console: Console) -> Iterator[_T]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=doing)
