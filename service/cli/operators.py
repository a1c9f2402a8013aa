"""Implements the commands of operators.

Each returns its exit status, or raises CommandError (exit status 1) or UsageError (exit status 2). Commands that remove
something ask for confirmation first, while no transaction is open.
"""

import os
import pwd
import resource
import shlex
from argparse import Namespace
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from service.cli.output import CommandError, UsageError, confirm, print_json, print_row, print_rows, progress, warn
from service.operators.apart import MEMORY_BYTES
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

DISCARD_CHUNK = 500
"""Rejected inputs that are discarded in one transaction."""

PRINTED_FAILURES = 50
"""Failed replays that are printed for people. Scripts (--json) get all."""

PRINTED_BATCHES = 5
"""Skipped batches that are named in one line, for each reason. Scripts (--json) get all."""

# -- pending


async def pending_list(settings: Settings, options: Namespace) -> int:
    """List a page of pending content, the longest waiting first."""
    async with _operations(settings) as operations:
        page = await operations.pending.list(
            _pending_filter(options), page=options.limit, state=options.state, after=options.after
        )
    print_rows([row._asdict() for row in page.rows], options.json)
    _print_next(page, "--after")
    return 0


async def pending_show(settings: Settings, options: Namespace) -> int:
    """Show one content that is pending, expired or removed."""
    async with _operations(settings) as operations:
        print_row(await operations.pending.show(options.batch, options.text), options.json)
    return 0


async def pending_remove(settings: Settings, options: Namespace) -> int:
    """Remove single contents."""
    return await _remove(settings, options, PendingFilter(options.batch, options.texts))


async def pending_clear(settings: Settings, options: Namespace) -> int:
    """Remove all content that waits for a batch, or that which matches the filters."""
    return await _remove(settings, options, _pending_filter(options))


async def _remove(settings: Settings, options: Namespace, condition: PendingFilter) -> int:
    async with _operations(settings) as operations:
        if found := await operations.pending.count_removable(condition):
            confirm(f"Remove {contents(found)} of batch {options.batch}?", yes=options.yes)
        action = options.command.replace("_", " ")
        removed = await operations.pending.remove(operator_of(options), action, condition)
    print(f"{contents(removed)} of batch {options.batch} removed.")
    return 0


async def pending_restore(settings: Settings, options: Namespace) -> int:
    """Make expired content and failures pending again, or count them; skipped batches are reported at the end."""
    async with _operations(settings) as operations:
        restored = await operations.pending.restore(
            operator_of(options),
            _pending_filter(options, options.texts or None),
            everything=options.all,
            dry_run=options.dry_run,
        )
    if options.json:
        print_json(asdict(restored))
    else:
        plural = "" if restored.failures == 1 else "s"
        failures = f" and {restored.failures} validation failure{plural}" if restored.failures else ""
        of_batch = f" of batch {options.batch}" if options.batch else ""
        done = "would be restored" if options.dry_run else "restored"
        print(f"{contents(restored.contents)}{failures}{of_batch} {done}.")
    if restored.skipped:
        named = [
            f"{len(some)} {why} ({', '.join(some[:PRINTED_BATCHES])}{', …' if len(some) > PRINTED_BATCHES else ''})"
            for why, some in (("busy", restored.busy), ("registered", restored.registered))
            if some
        ]
        raise CommandError(f"batches were skipped: {', '.join(named)}; try again for those that were busy")
    return 0


def _pending_filter(options: Namespace, texts: Sequence[str] | None = None) -> PendingFilter:
    return PendingFilter(options.batch, texts, options.file, options.older_than, options.newer_than)


# -- notices


async def health_acknowledge(settings: Settings, options: Namespace) -> int:
    """Mark losses of inputs as seen, and clocks that do not agree."""
    async with _operations(settings) as operations:
        seen = await operations.notices.acknowledge(operator_of(options), options.ids or None)
    for notice in seen:
        print(f"Acknowledged: {notice}.")
    return 0


# -- quarantine


async def quarantine_list(settings: Settings, options: Namespace) -> int:
    """List a page of rejected inputs, the newest first."""
    async with _operations(settings) as operations:
        page = await operations.quarantine.list(
            _quarantine_filter(options, None), page=options.limit, state=options.state, before=options.before
        )
    print_rows([row._asdict() for row in page.rows], options.json)
    _print_next(page, "--before")
    return 0


async def quarantine_show(settings: Settings, options: Namespace) -> int:
    """Show one rejected input, with all columns."""
    async with _operations(settings) as operations:
        print_row(await operations.quarantine.show(options.id), options.json)
    return 0


async def quarantine_replay(settings: Settings, options: Namespace) -> int:
    """Process rejected inputs again like new ones, the oldest first, each in its own transaction."""
    if options.in_this_process:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    outcomes: list[Replayed] = []
    async with _operations(settings) as operations:
        ids = await operations.quarantine.find_open(
            _quarantine_filter(options, options.ids or None), everything=options.all
        )
        try:
            async for outcome in operations.quarantine.replay(
                operator_of(options), progress(ids, "Replaying"), in_this_process=options.in_this_process
            ):
                outcomes.append(outcome)  # noqa: PERF401  printed below even if a later replay raises
        finally:
            _print_replayed(outcomes, options.json)
    if failed := sum(each.failed for each in outcomes):
        raise CommandError(f"{failed} of {len(outcomes)} could not be replayed")
    return 0


def _print_replayed(outcomes: Sequence[Replayed], as_json: bool) -> None:
    """Print all outcomes for scripts; for people the first failures and the number of each outcome."""
    if as_json:
        print_json([asdict(each) for each in outcomes])
        return
    if failed := [asdict(each) for each in outcomes if each.failed]:
        print_rows(failed[:PRINTED_FAILURES], False)
    for outcome, number in Counter(each.outcome for each in outcomes if not each.failed).items():
        print(f"{number} replayed: {outcome}")


async def quarantine_discard(settings: Settings, options: Namespace) -> int:
    """Discard rejected inputs permanently."""
    discarded = 0
    async with _operations(settings) as operations:
        ids = await operations.quarantine.find_open(
            _quarantine_filter(options, options.ids or None), everything=options.all
        )
        confirm(f"Discard {_inputs(len(ids))}?", yes=options.yes)
        for some in progress(
            [ids[start : start + DISCARD_CHUNK] for start in range(0, len(ids), DISCARD_CHUNK)], "Discarding"
        ):
            discarded += await operations.quarantine.discard(operator_of(options), some)
    print(f"{_inputs(discarded)} discarded.")
    if discarded < len(ids):
        raise CommandError(f"{_inputs(len(ids) - discarded)} were closed by someone else in the meantime")
    return 0


def _quarantine_filter(options: Namespace, ids: Sequence[int] | None) -> QuarantineFilter:
    return QuarantineFilter(ids, options.topic, options.reason, options.older_than, options.newer_than)


def _inputs(number: int) -> str:
    return "1 input" if number == 1 else f"{number} inputs"


async def quarantine_resume(settings: Settings, options: Namespace) -> int:
    """Resume a paused topic."""
    async with _operations(settings) as operations:
        await operations.quarantine.resume(operator_of(options), options.topic, skip_refused=options.skip_refused)
    print(f"{options.topic} resumes within seconds.")
    return 0


# -- batches


async def batches_list(settings: Settings, options: Namespace) -> int:
    """List a page of registered batches, in the order of their ids."""
    async with _operations(settings) as operations:
        page = await operations.batches.list(
            page=options.limit,
            state=options.state,
            user_id=options.user,
            older_than=options.older_than,
            newer_than=options.newer_than,
            after=options.after,
        )
    print_rows(page.rows, options.json)
    _print_next(page, "--after")
    return 0


async def batches_show(settings: Settings, options: Namespace) -> int:
    """Show one batch, with a page of its slots."""
    async with _operations(settings) as operations:
        batch, slots = await operations.batches.show(options.batch, page=options.limit, after=options.after)
    if options.json:
        print_json(batch | {"slots": slots.rows})
    else:
        print_row(batch, False)
        print()
        print_rows(slots.rows, False)
    _print_next(slots, "--after")
    return 0


async def batches_republish(settings: Settings, options: Namespace) -> int:
    """Publish the events of a complete batch again, with their old ids, for a consumer that lost them."""
    async with _operations(settings) as operations:
        published = await operations.batches.republish(operator_of(options), options.batch)
    for event in published:
        print(f"{event.topic} of batch {options.batch} is published again, with event id {event.event_id}.")
    return 0


# -- shared


def operator_of(options: Namespace) -> Operator:
    """Return who performs the action, and why."""
    return Operator(options.who or _account(), options.why)


def _account() -> str:
    """Returns the name of this process's account; its number in a container without names."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def _print_next(page: Page[Any], option: str) -> None:
    if page.next is not None:
        warn(f"There may be more rows: {option}={shlex.quote(page.next)}")


@asynccontextmanager
async def _operations(settings: Settings) -> AsyncIterator[Operations]:
    """Open the database for one command. Turns operation errors into UsageError or CommandError."""
    database = open_database(settings)
    try:
        yield operations_of(settings, database)
    except InvalidRequest as error:
        raise UsageError(str(error)) from None
    except Unavailable as error:
        raise CommandError(f"ELS_DATABASE_URL: {error}") from None
    except OperationError as error:
        raise CommandError(str(error)) from None
    finally:
        await database.close()
