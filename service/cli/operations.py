"""Opens the operator actions for one command, and says who performs it."""

import os
import pwd
import shlex
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from service.cli.output import CommandError, UsageError, warn
from service.operators.errors import InvalidRequest, OperationError, Unavailable
from service.operators.operations import Operations
from service.operators.transactions import Page
from service.runtime.logging import lines_to
from service.settings import Settings
from service.store.operator_actions import Operator
from service.wiring import open_database, operations_of


def operator_of(options: Namespace) -> Operator:
    """Return who performs the action, and why."""
    return Operator(options.who or _account(), options.why)


def _account() -> str:
    """Returns the name of this process's account; its number in a container without names."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def print_next(page: Page[Any], option: str) -> None:
    """Print the cursor of the next page, for people and scripts, on standard error."""
    if page.next is not None:
        warn(f"There may be more rows: {option}={shlex.quote(page.next)}")


@asynccontextmanager
async def opened_operations(settings: Settings) -> AsyncIterator[Operations]:
    """Open the database for one command. Turns operation errors into UsageError or CommandError.

    The log line of each action goes to standard error, unless that is a terminal.
    """
    database = open_database(settings)
    try:
        with nullcontext() if sys.stderr.isatty() else lines_to(sys.stderr):
            yield operations_of(settings, database)
    except InvalidRequest as error:
        raise UsageError(str(error)) from None
    except Unavailable as error:
        raise CommandError(f"ELS_DATABASE_URL: {error}") from None
    except OperationError as error:
        raise CommandError(str(error)) from None
    finally:
        await database.close()
