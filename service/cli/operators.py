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

from service.cli.output import Failed, UsageError, confirm, print_json, progress, show, tell, warn
from service.operators.batches import contents
from service.operators.errors import InvalidRequest, OperationError, Unavailable
from service.operators.operations import Operations
from service.operators.replay import Replayed
from service.operators.transactions import Page
from service.settings import Settings
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from service.store.quarantine import QuarantineFilter
from service.wiring import open_database, operations_of

CHUNK = 500
"""QuarantineFilter inputs that are discarded in one transaction."""

FAILURES_TOLD = 50
"""Replays that failed, told one by one to people; scripts get all."""

# -- pending


async def pending_list(settings: Settings, options: Namespace) -> int:
    """A page of what waits, the longest waiting first."""
    async with _operations(settings) as operations:
        page = await operations.pending.list(
            _chosen(options), page=options.limit, state=options.state, after=options.after
        )
    tell([row._asdict() for row in page.rows], options.json)
    _tell_next(page, "--after")
    return 0


async def pending_show(settings: Settings, options: Namespace) -> int:
    """One content that waits, is expired or was removed."""
    async with _operations(settings) as operations:
        show(await operations.pending.show(options.batch, options.text), options.json)
    return 0


async def pending_remove(settings: Settings, options: Namespace) -> int:
    """Take back single contents."""
    return await _remove(settings, options, PendingFilter(options.batch, options.texts))


async def pending_clear(settings: Settings, options: Namespace) -> int:
    """Take back all that waits for a batch, or what the filters leave of it."""
    return await _remove(settings, options, _chosen(options))


async def _remove(settings: Settings, options: Namespace, chosen: PendingFilter) -> int:
    async with _operations(settings) as operations:
        if found := await operations.pending.count_removable(chosen):
            confirm(f"Remove {contents(found)} of batch {options.batch}?", yes=options.yes)
        action = options.command.replace("_", " ")
        removed = await operations.pending.remove(_operator(options), action, chosen)
    print(f"{contents(removed)} of batch {options.batch} removed.")
    return 0


async def pending_restore(settings: Settings, options: Namespace) -> int:
    """Let expired content wait again."""
    async with _operations(settings) as operations:
        restored = await operations.pending.restore(_operator(options), options.batch, options.texts or None)
    print(f"{contents(restored)} of batch {options.batch} restored.")
    return 0


def _chosen(options: Namespace) -> PendingFilter:
    return PendingFilter(options.batch, None, options.file, options.older_than, options.newer_than)


# -- quarantine


async def quarantine_list(settings: Settings, options: Namespace) -> int:
    """A page of rejected inputs."""
    async with _operations(settings) as operations:
        page = await operations.quarantine.list(
            _rejected(options, None), page=options.limit, state=options.state, before=options.before
        )
    tell([row._asdict() for row in page.rows], options.json)
    _tell_next(page, "--before")
    return 0


async def quarantine_show(settings: Settings, options: Namespace) -> int:
    """One rejected input."""
    async with _operations(settings) as operations:
        show(await operations.quarantine.show(options.id), options.json)
    return 0


async def quarantine_replay(settings: Settings, options: Namespace) -> int:
    """Run rejected inputs through the same code as fresh ones, the oldest first, each in its own transaction."""
    outcomes: list[Replayed] = []
    async with _operations(settings) as operations:
        ids = await operations.quarantine.find_open(_rejected(options, options.ids or None), everything=options.all)
        try:
            async for outcome in operations.quarantine.replay(_operator(options), progress(ids, "Replaying")):
                outcomes.append(outcome)  # noqa: PERF401  what is done is told however it ends
        finally:
            _tell_replayed(outcomes, options.json)
    if failed := sum(each.rejected for each in outcomes):
        raise Failed(f"{failed} of {len(outcomes)} could not be replayed")
    return 0


def _tell_replayed(outcomes: Sequence[Replayed], as_json: bool) -> None:
    """To scripts all; to people those that failed, a page of them, and how many became what."""
    if as_json:
        print_json([asdict(each) for each in outcomes])
        return
    if failed := [asdict(each) for each in outcomes if each.rejected]:
        tell(failed[:FAILURES_TOLD], False)
    for outcome, number in Counter(each.outcome for each in outcomes if not each.rejected).items():
        print(f"{number} replayed: {outcome}")


async def quarantine_discard(settings: Settings, options: Namespace) -> int:
    """Close rejected inputs for good."""
    discarded = 0
    async with _operations(settings) as operations:
        ids = await operations.quarantine.find_open(_rejected(options, options.ids or None), everything=options.all)
        confirm(f"Discard {_inputs(len(ids))}?", yes=options.yes)
        for some in progress([ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)], "Discarding"):
            discarded += await operations.quarantine.discard(_operator(options), some)
    print(f"{_inputs(discarded)} discarded.")
    if discarded < len(ids):
        raise Failed(f"{_inputs(len(ids) - discarded)} were closed by somebody else meanwhile")
    return 0


def _rejected(options: Namespace, ids: Sequence[int] | None) -> QuarantineFilter:
    return QuarantineFilter(ids, options.topic, options.reason, options.older_than, options.newer_than)


def _inputs(number: int) -> str:
    return "1 input" if number == 1 else f"{number} inputs"


async def quarantine_resume(settings: Settings, options: Namespace) -> int:
    """Set a stopped topic going again."""
    async with _operations(settings) as operations:
        await operations.quarantine.resume(_operator(options), options.topic)
    print(f"{options.topic} goes on within seconds.")
    return 0


# -- batches


async def batches_list(settings: Settings, options: Namespace) -> int:
    """A page of registered batches."""
    async with _operations(settings) as operations:
        page = await operations.batches.list(
            page=options.limit,
            state=options.state,
            user_id=options.user,
            older_than=options.older_than,
            newer_than=options.newer_than,
            after=options.after,
        )
    tell(page.rows, options.json)
    _tell_next(page, "--after")
    return 0


async def batches_show(settings: Settings, options: Namespace) -> int:
    """One batch, with a page of its slots."""
    async with _operations(settings) as operations:
        batch, slots = await operations.batches.show(options.batch, page=options.limit, after=options.after)
    if options.json:
        print_json(batch | {"slots": slots.rows})
    else:
        show(batch, False)
        print()
        tell(slots.rows, False)
    _tell_next(slots, "--after")
    return 0


async def batches_republish(settings: Settings, options: Namespace) -> int:
    """Announce a complete batch again, for who lost the event."""
    async with _operations(settings) as operations:
        published = await operations.batches.republish(_operator(options), options.batch)
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


def _tell_next(page: Page[Any], option: str) -> None:
    if page.next is not None:
        warn(f"There may be more: {option}={shlex.quote(page.next)}")


@asynccontextmanager
async def _operations(settings: Settings) -> AsyncIterator[Operations]:
    """What one command does; what goes wrong with it is a line, not a traceback."""
    database = open_database(settings)
    try:
        yield operations_of(settings, database)
    except InvalidRequest as error:
        raise UsageError(str(error)) from None
    except Unavailable as error:
        raise Failed(f"ELS_DATABASE_URL: {error}") from None
    except OperationError as error:
        raise Failed(str(error)) from None
    finally:
        await database.close()
