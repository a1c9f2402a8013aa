"""Defines the types and the options that several commands of the command line share."""

import argparse
from collections.abc import Callable
from typing import Any, TypeVar

from service.operators import parameters

_T = TypeVar("_T")

CURSOR = "the cursor for the next page is printed on standard error"
"""End of the help of an option that continues a list."""

Commands = Any
"""The type that `add_subparsers` returns; argparse has no public name for it."""


def _read(parameter: Callable[[str], _T]) -> Callable[[str], _T]:
    """Make a parameter a `type` of argparse that keeps the message of its ValueError."""

    def read(text: str) -> _T:
        try:
            return parameter(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


short_text = _read(parameters.short_text)
reason = _read(parameters.reason)
row_id = _read(parameters.row_id)
notice = _read(parameters.notice)
position = _read(parameters.position)
number = _read(parameters.log_number)
page = _read(parameters.page)
age = _read(parameters.age)
since = _read(parameters.since)
until = _read(parameters.until)
pending_cursor = _read(parameters.pending_cursor)
batch_cursor = _read(parameters.batch_cursor)
interval = _read(parameters.interval)


def group(commands: Commands, name: str, help_text: str) -> Commands:
    """Add a group of commands. Returns what its commands are added to."""
    return commands.add_parser(name, help=help_text, description=_sentence(help_text)).add_subparsers(
        required=True, metavar="COMMAND"
    )


def add(commands: Commands, function: str, name: str, help_text: str) -> argparse.ArgumentParser:
    """Add a command, which calls the function `function` of the package."""
    module, command = function.rsplit(".", 1)
    added: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=_sentence(help_text))
    added.set_defaults(module=module, command=command, parser=added)
    return added


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def with_json(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the option for scripts."""
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")
    return command


def with_pages(command: argparse.ArgumentParser, rows: str = "rows") -> argparse.ArgumentParser:
    """Add the options of a command that prints a page of `rows`."""
    command.add_argument(
        "--limit", type=page, default=50, metavar="N", help=f"maximum number of {rows} (default 50, at most 1000)"
    )
    return with_json(command)


def pending_filters(command: argparse.ArgumentParser, since: str = "stored") -> argparse.ArgumentParser:
    """Add the filters of pending and expired content. `since` says from when ages count."""
    command.add_argument(
        "--file", type=short_text, metavar="TEXT", help="only if the file name contains this text, upper or lower case"
    )
    return age_filters(command, since)


def age_filters(command: argparse.ArgumentParser, since: str) -> argparse.ArgumentParser:
    """Add the filters by age, which counts from when something was `since`."""
    command.add_argument(
        "--older-than",
        type=age,
        metavar="AGE",
        help=f"only what was {since} longer ago than this (90s, 5m, 2h, 1d), or before this time (2026-11-29)",
    )
    command.add_argument(
        "--newer-than", type=age, metavar="AGE", help=f"only what was {since} within this time, or since it"
    )
    return command


def with_operator(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options that the log of operator actions records."""
    command.add_argument(
        "--why", type=reason, default="", metavar="TEXT", help="why you do this, for the log of operator actions"
    )
    command.add_argument(
        "--who",
        type=short_text,
        metavar="NAME",
        help="who you are, for the same log (default: ELS_WHO, or the name of this account)",
    )
    return command


def with_confirmation(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of a command that asks for confirmation before it removes something."""
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    return with_operator(command)
