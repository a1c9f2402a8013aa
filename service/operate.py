"""The commands of operators. Each returns its exit status, or raises what printing names.

What is removed is asked about first, and never while a transaction is open.
"""

import getpass
import os
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable

from service import actions, events, quarantine, store, waiting
from service.actions import Impossible, Operator
from service.printing import Failed, Refused, confirm, show, tell, warn
from service.process import one_line, open_database
from service.settings import Settings
from service.waiting import Chosen

# -- pending


async def pending_list(settings: Settings, options: Namespace) -> int:
    """A page of what waits, the longest waiting first."""
    chosen = Chosen(options.batch, None, options.file, options.older_than, options.newer_than)
    async with _transaction(settings) as conn:
        page = await waiting.list_pending_content(
            conn, chosen, page=options.limit, state=options.state, after=options.after
        )
    tell([row._asdict() for row in page], options.json)
    if len(page) == options.limit:
        _more(f"{page[-1].waiting_since.isoformat().replace('+00:00', 'Z')}/{page[-1].arrival}")
    return 0


async def pending_show(settings: Settings, options: Namespace) -> int:
    """One content that waits, is expired or was removed."""
    async with _transaction(settings) as conn:
        row = await waiting.show_pending_content(conn, options.batch, options.text)
        _, registered = await store.look_at_batches(conn, [options.batch])
    if row is None and registered:
        raise Failed(f"batch {options.batch} is registered: nothing waits for it, see ops.slots and ops.excess_content")
    if row is None:
        raise Failed(f"there is no content {options.text} that waits for batch {options.batch}")
    show(row, options.json)
    return 0


async def pending_remove(settings: Settings, options: Namespace) -> int:
    """Take back single contents."""
    return await _remove(settings, options, Chosen(options.batch, options.texts))


async def pending_clear(settings: Settings, options: Namespace) -> int:
    """Take back all that waits for a batch, or what the filters leave of it."""
    chosen = Chosen(options.batch, None, options.file, options.older_than, options.newer_than)
    return await _remove(settings, options, chosen)


async def _remove(settings: Settings, options: Namespace, chosen: Chosen) -> int:
    async with _transaction(settings) as conn:
        found = await waiting.count_removable_content(conn, chosen)
    if found:
        confirm(f"Remove {_contents(found)} of batch {options.batch}?", yes=options.yes)
    action = options.command.replace("_", " ")
    async with _transaction(settings) as conn:
        removed = await actions.remove_pending(conn, _operator(options), action, chosen)
    if not removed:
        raise Failed(f"nothing such waits for batch {options.batch}")
    print(f"{_contents(removed)} of batch {options.batch} removed.")
    return 0


async def pending_restore(settings: Settings, options: Namespace) -> int:
    """Let expired content wait again."""
    async with _transaction(settings) as conn:
        restored = await actions.restore_pending(conn, _operator(options), options.batch, options.texts or None)
    if not restored:
        raise Failed(f"nothing such of batch {options.batch} is expired")
    print(f"{_contents(restored)} of batch {options.batch} restored.")
    return 0


def _contents(number: int) -> str:
    return "1 content" if number == 1 else f"{number} contents"


# -- quarantine


async def quarantine_list(settings: Settings, options: Namespace) -> int:
    """A page of refused inputs."""
    async with _transaction(settings) as conn:
        page = await quarantine.list_quarantine(
            conn, page=options.limit, topic=options.topic, state=options.state, before=options.before
        )
    tell([row._asdict() for row in page], options.json)
    return 0


async def quarantine_show(settings: Settings, options: Namespace) -> int:
    """One refused input: its value as text only where it is text, else in Base64."""
    async with _transaction(settings) as conn:
        row = await quarantine.read_quarantined(conn, options.id)
    if row is None:
        raise Failed(f"there is no quarantined input {options.id}")
    show(row, options.json)
    return 0


async def quarantine_resume(settings: Settings, options: Namespace) -> int:
    """Set a stopped topic going again."""
    if options.topic not in events.INCOMING_TOPICS:
        raise Refused(f"there is no topic {options.topic!r}; there are {', '.join(events.INCOMING_TOPICS)}")
    async with _transaction(settings) as conn:
        resumed = await actions.resume_topic(conn, _operator(options), options.topic)
    if not resumed:
        raise Failed(f"{options.topic} is not stopped")
    print(f"{options.topic} goes on within seconds.")
    return 0


# -- what all share


def _operator(options: Namespace) -> Operator:
    return Operator(options.who or _account(), options.why)


def _account() -> str:
    """Whose account this is; a number in a container that knows no names."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _more(after: object) -> None:
    warn(f"There may be more: --after {after}")


@asynccontextmanager
async def _transaction(settings: Settings) -> AsyncIterator[AsyncConnection[Any]]:
    """One transaction of a command; an error of the database is a line, not a traceback."""
    database = open_database(settings)
    try:
        async with database.transaction() as conn:
            yield conn
    except Impossible as error:
        raise Failed(str(error)) from None
    except LockNotAvailable:
        raise Failed("somebody is at work on this at the moment: nothing was changed, try again") from None
    except psycopg.Error as error:
        raise Failed(f"ELS_DATABASE_URL: {one_line(error)}") from None
    finally:
        await database.close()
