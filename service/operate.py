"""The commands of operators. Each returns its exit status, or raises what printing names.

What is removed is asked about first, and never while a transaction is open.
"""

import os
import pwd
import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import psycopg
from psycopg import AsyncConnection

from service import actions, batches, events, quarantine, store, waiting
from service.actions import Impossible, Operator
from service.database import Database
from service.health import one_line
from service.intake import is_contention
from service.outgoing import Unpublishable
from service.printing import Failed, NotLikeThis, confirm, print_json, progress, show, tell, warn
from service.process import limits, max_bytes, open_database
from service.quarantine import Refused
from service.replay import Replay, Replayed
from service.settings import Settings
from service.waiting import Chosen

CHUNK = 500
"""Refused inputs that are discarded in one transaction."""

FAILURES_TOLD = 50
"""Replays that failed, told one by one to people; scripts get all."""

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
        time = page[-1].waiting_since.isoformat().replace("+00:00", "Z")
        _more(f"--after {time}/{page[-1].arrival}")
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
            conn, _refused(options, None), page=options.limit, state=options.state, before=options.before
        )
    tell([row._asdict() for row in page], options.json)
    if len(page) == options.limit:
        _more(f"--before {page[-1].id}")
    return 0


async def quarantine_show(settings: Settings, options: Namespace) -> int:
    """One refused input: its value as text only where it is text, else in Base64."""
    async with _transaction(settings) as conn:
        row = await quarantine.read_quarantined(conn, options.id)
    if row is None:
        raise Failed(f"there is no quarantined input {options.id}")
    show(row, options.json)
    return 0


async def quarantine_replay(settings: Settings, options: Namespace) -> int:
    """Run refused inputs through the same code as fresh ones, the oldest first, each in its own transaction."""
    ids = await _chosen(settings, options)
    outcomes: list[Replayed] = []
    try:
        async with _database(settings) as database:
            replay = Replay(database, _operator(options), limits(settings), max_bytes(settings))
            for id_ in progress(ids, "Replaying"):
                outcomes.append(await _replayed(replay, id_))  # noqa: PERF401  what is done is told however it ends
    finally:
        _tell_replayed(outcomes, options.json)
    if failed := sum(each.refused for each in outcomes):
        raise Failed(f"{failed} of {len(outcomes)} could not be replayed")
    return 0


async def _replayed(replay: Replay, id_: int) -> Replayed:
    try:
        return await replay.replay(id_)
    except Impossible as error:
        return Replayed(id_, "", "closed", str(error))
    except psycopg.Error as error:
        if not is_contention(error):
            raise
        return Replayed(id_, "", "busy", one_line(error))


def _tell_replayed(outcomes: Sequence[Replayed], as_json: bool) -> None:
    """To scripts all; to people those that failed, a page of them, and how many became what."""
    if as_json:
        print_json([asdict(each) for each in outcomes])
        return
    if failed := [asdict(each) for each in outcomes if each.refused]:
        tell(failed[:FAILURES_TOLD], False)
    for outcome, number in Counter(each.outcome for each in outcomes if not each.refused).items():
        print(f"{number} replayed: {outcome}")


async def quarantine_discard(settings: Settings, options: Namespace) -> int:
    """Close refused inputs for good."""
    ids = await _chosen(settings, options)
    confirm(f"Discard {_inputs(len(ids))}?", yes=options.yes)
    discarded = 0
    async with _database(settings) as database:
        by = _operator(options)
        for some in progress([ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)], "Discarding"):
            async with database.transaction() as conn:
                discarded += await actions.discard(conn, by, some)
    print(f"{_inputs(discarded)} discarded.")
    if discarded < len(ids):
        raise Failed(f"{_inputs(len(ids) - discarded)} were closed by somebody else meanwhile")
    return 0


async def _chosen(settings: Settings, options: Namespace) -> list[int]:
    """The open inputs that were named, or that the filters leave; never all of them by a slip."""
    chosen = _refused(options, options.ids or None)
    if chosen == Refused() and not options.all:
        raise NotLikeThis("name inputs by their ids, choose some with --topic, --reason, --older-than, …, or say --all")
    async with _transaction(settings) as conn:
        ids = await quarantine.find_open_quarantine(conn, chosen)
    if missing := sorted(set(options.ids) - set(ids)):
        raise Failed(f"quarantined input {missing[0]} is not there, or not open, or not among those chosen")
    if not ids:
        raise Failed("nothing such is open in the quarantine")
    return ids


def _refused(options: Namespace, ids: Sequence[int] | None) -> Refused:
    return Refused(ids, options.topic, options.reason, options.older_than, options.newer_than)


def _inputs(number: int) -> str:
    return "1 input" if number == 1 else f"{number} inputs"


async def quarantine_resume(settings: Settings, options: Namespace) -> int:
    """Set a stopped topic going again."""
    if options.topic not in events.INCOMING_TOPICS:
        raise NotLikeThis(f"there is no topic {options.topic!r}; there are {', '.join(events.INCOMING_TOPICS)}")
    async with _transaction(settings) as conn:
        resumed = await actions.resume_topic(conn, _operator(options), options.topic)
    if not resumed:
        raise Failed(f"{options.topic} is not stopped")
    print(f"{options.topic} goes on within seconds.")
    return 0


# -- batches


async def batches_list(settings: Settings, options: Namespace) -> int:
    """A page of registered batches."""
    async with _transaction(settings) as conn:
        page = await batches.list_batches(
            conn,
            page=options.limit,
            state=options.state,
            user_id=options.user,
            older_than=options.older_than,
            newer_than=options.newer_than,
            after=options.after,
        )
    tell(page, options.json)
    if len(page) == options.limit:
        _more(f"--after {shlex.quote(page[-1]['batch_id'])}")
    return 0


async def batches_show(settings: Settings, options: Namespace) -> int:
    """One batch, with a page of its slots."""
    async with _transaction(settings) as conn:
        batch = await batches.show_batch(conn, options.batch)
        slots = await batches.list_slots(conn, options.batch, page=options.limit, after=options.after)
        waits = await waiting.count_removable_content(conn, Chosen(options.batch))
    if batch is None:
        raise Failed(f"batch {options.batch} is not registered; {_contents(waits)} waiting or expired")
    if options.json:
        print_json(batch | {"slots": slots})
    else:
        show(batch, False)
        print()
        tell(slots, False)
    if len(slots) == options.limit and slots[-1]["position"] < batch["expected"]:
        _more(f"--after {slots[-1]['position']}")
    return 0


async def batches_republish(settings: Settings, options: Namespace) -> int:
    """Announce a complete batch again, for who lost the event."""
    try:
        async with _transaction(settings) as conn:
            published = await actions.republish(conn, _operator(options), options.batch, limits(settings))
    except Unpublishable as error:
        raise Failed(str(error)) from None
    for event in published:
        print(f"{event.topic} of batch {options.batch} goes out again, as event {event.event_id}.")
    return 0


# -- what all share


def _operator(options: Namespace) -> Operator:
    return Operator(options.who or _account(), options.why)


def _account() -> str:
    """Whose account this is, whatever the environment says; a number in a container that knows no names."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _more(how: str) -> None:
    warn(f"There may be more: {how}")


@asynccontextmanager
async def _transaction(settings: Settings) -> AsyncIterator[AsyncConnection[Any]]:
    """The one transaction of a command."""
    async with _database(settings) as database, database.transaction() as conn:
        yield conn


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    """The database for one command; what goes wrong with it is a line, not a traceback."""
    database = open_database(settings)
    try:
        yield database
    except Impossible as error:
        raise Failed(str(error)) from None
    except psycopg.Error as error:
        if is_contention(error):
            raise Failed("somebody is at work on this at the moment: nothing was changed, try again") from None
        raise Failed(f"ELS_DATABASE_URL: {one_line(error)}") from None
    finally:
        await database.close()
