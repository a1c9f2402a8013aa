"""What commands tell and ask: tables for people, JSON for scripts; text of others is never trusted."""

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

_T = TypeVar("_T")

ANY_WIDTH = 1_000_000


class Failed(Exception):
    """The command did not do what it says; the message is one line that says why."""


class UsageError(Exception):
    """The command may not be given like this; the message is one line that says why."""


def tell(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """A list: a table for people, an array for scripts."""
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
        # Text of others is shown as it is: it must not be able to style a terminal.
        table.add_row(*(Text(cell(value)) for value in row.values()))
    widest = console.options.update(max_width=ANY_WIDTH)
    width = Measurement.get(console, widest, table).maximum
    if not console.is_terminal:  # what reads it, breaks no lines
        Console(width=width).print(table)
    elif width <= console.width:
        console.print(table)
    else:
        _tell_one_by_one(rows)


def _tell_one_by_one(rows: Sequence[Mapping[str, Any]]) -> None:
    """What is too wide for a table: a line a column, with a line between two rows."""
    for number, row in enumerate(rows):
        if number:
            print()
        show(row, False)


def show(row: Mapping[str, Any], as_json: bool) -> None:
    """One thing, whole: a line a column, or an object."""
    if as_json:
        print_json(row)
    else:
        for name, value in row.items():
            print(f"{name}: {cell(value)}")


def print_json(value: object) -> None:
    """On standard output, times in UTC."""
    print(orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_INDENT_2).decode())


def cell(value: object) -> str:
    """A value for people, on one line, with nothing in it that a terminal would act upon."""
    if isinstance(value, bool):
        return "ok" if value else "NOT OK"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    text = "" if value is None else str(value)
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def warn(line: str) -> None:
    """A line beside the output, on standard error."""
    Console(stderr=True, soft_wrap=True).print(Text(cell(line)))


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed.

    Raises Failed where the answer is not yes, UsageError where there is no terminal to ask at; `yes` was said already.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("--yes: is needed where there is no terminal to ask at")
    if _answer(f"{cell(question)} [y/N] ").strip().lower() not in ("y", "yes"):
        raise Failed("nothing was changed")


def _answer(prompt: str) -> str:
    """A line from the terminal. An event loop that stands still would not hear the first Ctrl-C: here it counts."""
    loops = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        print(prompt, end="", file=sys.stderr, flush=True)
        return sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, loops)


def progress(items: Sequence[_T], doing: str) -> Iterable[_T]:
    """The items, with a bar on standard error while they are gone through; without where that is no terminal."""
    console = Console(stderr=True)
    if len(items) < 2 or not console.is_terminal:
        return items
    return _with_bar(items, doing, console)


def _with_bar(items: Sequence[_T], doing: str, console: Console) -> Iterator[_T]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=doing)
