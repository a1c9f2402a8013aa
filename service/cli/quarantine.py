"""Implements the commands on rejected inputs. They end like those of `pending`."""

import resource
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from service.cli.editor import in_editor, read_file
from service.cli.operations import opened_operations, operator_of, print_next
from service.cli.output import CommandError, confirm, print_json, print_row, print_rows, progress
from service.operators.apart import MEMORY_BYTES
from service.operators.editing import editable
from service.operators.replay import Replayed
from service.settings import Settings
from service.store.quarantine import QuarantineFilter

DISCARD_CHUNK = 500
"""Rejected inputs that are discarded in one transaction."""

PRINTED_FAILURES = 50
"""Failed replays that are printed for people. Scripts (--json) get all."""


async def quarantine_list(settings: Settings, options: Namespace) -> int:
    """List a page of rejected inputs, the newest first."""
    async with opened_operations(settings) as operations:
        page = await operations.quarantine.list(
            _quarantine_filter(options, None), page=options.limit, state=options.state, before=options.before
        )
    print_rows([row._asdict() for row in page.rows], options.json)
    print_next(page, "--before")
    return 0


async def quarantine_show(settings: Settings, options: Namespace) -> int:
    """Show one rejected input, with all columns."""
    async with opened_operations(settings) as operations:
        row = await operations.quarantine.show(options.id)
    if not options.json and row["decoded"] is None:
        del row["decoded"]  # the value has no escapes
    print_row(row, options.json)
    return 0


async def quarantine_replay(settings: Settings, options: Namespace) -> int:
    """Process rejected inputs again like new ones, the oldest first, each in its own transaction."""
    if options.in_this_process:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    outcomes: list[Replayed] = []
    async with opened_operations(settings) as operations:
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


async def quarantine_edit(settings: Settings, options: Namespace) -> int:
    """Process a corrected value in place of a rejected input, and close that with it."""
    if options.in_this_process:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    async with opened_operations(settings) as operations:
        shown = editable((await operations.quarantine.read_open(options.id))["value"])
        value = read_file(options.file) if options.file else in_editor(shown)
        while True:
            edited = await operations.quarantine.edit(
                operator_of(options),
                options.id,
                value,
                dry_run=options.dry_run,
                in_this_process=options.in_this_process,
            )
            if options.json:
                print_json([asdict(edited)])
            elif options.dry_run:
                print(edited.difference, end="")
            if not edited.failed:
                break
            if options.file or not sys.stdin.isatty():
                raise CommandError(
                    f"nothing was changed: the edited value is rejected: {edited.outcome}: {edited.error}"
                )
            confirm(f"It is rejected: {edited.outcome}: {edited.error}. Edit it again?", yes=False)
            value = in_editor(value.decode("utf-8", "surrogateescape"))
    if not options.json:
        print(f"Input {options.id} {'would be' if options.dry_run else 'is'} replayed as edited: {edited.outcome}.")
    return 0


async def quarantine_discard(settings: Settings, options: Namespace) -> int:
    """Discard rejected inputs permanently."""
    discarded = 0
    async with opened_operations(settings) as operations:
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
    return QuarantineFilter(
        ids,
        options.topic,
        options.reason,
        options.older_than,
        options.newer_than,
        options.batch,
        options.file,
        options.contains,
        options.release,
    )


def _inputs(number: int) -> str:
    return "1 input" if number == 1 else f"{number} inputs"


async def quarantine_resume(settings: Settings, options: Namespace) -> int:
    """Resume a paused topic."""
    async with opened_operations(settings) as operations:
        await operations.quarantine.resume(operator_of(options), options.topic, skip_refused=options.skip_refused)
    print(f"{options.topic} resumes within seconds.")
    return 0
