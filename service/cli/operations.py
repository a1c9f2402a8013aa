"""Opens the operator actions for one command, and says who performs it."""

import os
import pwd
import shlex
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, TextIO

from service.cli.opening import opened_database
from service.cli.output import CommandError, UsageError, warn
from service.operators.errors import InvalidRequest, OperationError, Unavailable
from service.operators.operations import Operations
from service.operators.parameters import short_text
from service.operators.transactions import Page
from service.runtime.logging import lines_to
from service.settings import Settings
from service.store.operator_actions import Operator
from service.wiring import operations_of


def operator_of(options: Namespace) -> Operator:
    """Return who performs the action, and why; in a process that repeats one, also who performed it first."""
    repeats = (options.first_at, options.repeated_by) if getattr(options, "first_at", None) else ()
    return Operator(options.who or _account(), options.why, *repeats)


def _with_option(error: OperationError) -> str:
    return f"{error} (--{error.parameter.replace('_', '-')})" if error.parameter else str(error)


WHO: Final = "ELS_WHO"
"""The variable that names the person, where several share an account: in a container."""


def _account() -> str:
    """Returns the person that `WHO` names, else the name of this process's account, or its number where it has none."""
    if who := os.environ.get(WHO):
        try:
            return short_text(who)
        except ValueError as error:
            raise UsageError(f"{WHO}: {error}") from None
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def print_next(page: Page[Any], option: str) -> None:
    """Print the cursor of the next page, for people and scripts, on standard error."""
    if page.next is not None:
        warn(f"There may be more rows: {option}={shlex.quote(page.next)}")


def _lines() -> AbstractContextManager[TextIO]:
    """Open what the lines of the log are written to."""
    return Path(os.devnull).open("w") if sys.stderr.isatty() else nullcontext(sys.stderr)


@asynccontextmanager
async def opened_operations(settings: Settings) -> AsyncIterator[Operations]:
    """Open the database for one command. Turns operation errors into UsageError or CommandError.

    The log line of each action goes to standard error, unless that is a terminal.
    """
    try:
        async with opened_database(settings) as database:
            with _lines() as stream, lines_to(stream):
                yield operations_of(settings, database)
    except InvalidRequest as error:
        raise UsageError(_with_option(error)) from None
    except Unavailable as error:
        raise CommandError(f"ELS_DATABASE_URL: {error}") from None
    except OperationError as error:
        raise CommandError(_with_option(error)) from None
