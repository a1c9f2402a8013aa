"""Implements the commands on content that waits for a registration.

Each returns its exit status, or raises CommandError (exit status 1) or UsageError (exit status 2). Commands that remove
something ask for confirmation first, while no transaction is open.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict

from service.cli.operations import opened_operations, operator_of, print_next
from service.cli.output import CommandError, confirm, print_json, print_row, print_rows
from service.operators.batches import uploads
from service.settings import Settings
from service.store.pending_content import PendingFilter

PRINTED_BATCHES = 5
"""Skipped batches that are named in one line, for each reason. Scripts (--json) get all."""


async def pending_list(settings: Settings, options: Namespace) -> int:
    """List a page of pending content, or of validation failures, the longest waiting first."""
    condition, page = _pending_filter(options), {"page": options.limit, "state": options.state, "after": options.after}
    async with opened_operations(settings) as operations:
        if options.failures:
            failures = await operations.pending.list_failures(condition, **page)
            print_rows(failures.rows, options.json)
            print_next(failures, "--after")
            return 0
        contents_ = await operations.pending.list(condition, **page)
    print_rows([row._asdict() for row in contents_.rows], options.json)
    print_next(contents_, "--after")
    return 0


async def pending_show(settings: Settings, options: Namespace) -> int:
    """Show one content that is pending, expired or removed, or one validation failure."""
    async with opened_operations(settings) as operations:
        print_row(await operations.pending.show(options.batch, options.text), options.json)
    return 0


async def pending_remove(settings: Settings, options: Namespace) -> int:
    """Remove single contents or validation failures."""
    return await _remove(settings, options, PendingFilter(options.batch, options.texts))


async def pending_clear(settings: Settings, options: Namespace) -> int:
    """Remove all content and failures that wait for a batch, or what matches the filters."""
    return await _remove(settings, options, _pending_filter(options))


async def _remove(settings: Settings, options: Namespace, condition: PendingFilter) -> int:
    async with opened_operations(settings) as operations:
        found = await operations.pending.count_removable(condition)
        if options.dry_run:
            print(f"{uploads(*found)} of batch {options.batch} would be removed.")
            return 0
        if any(found):
            confirm(f"Remove {uploads(*found)} of batch {options.batch}?", yes=options.yes)
        action = options.command.replace("_", " ")
        removed = await operations.pending.remove(operator_of(options), action, condition)
    print(f"{uploads(*removed)} of batch {options.batch} removed.")
    return 0


async def pending_restore(settings: Settings, options: Namespace) -> int:
    """Make expired content and failures pending again, or count them; skipped batches are reported at the end."""
    async with opened_operations(settings) as operations:
        restored = await operations.pending.restore(
            operator_of(options),
            _pending_filter(options, options.texts or None),
            everything=options.all,
            dry_run=options.dry_run,
        )
    if options.json:
        print_json(asdict(restored))
    else:
        of_batch = f" of batch {options.batch}" if options.batch else ""
        done = "would be restored" if options.dry_run else "restored"
        print(f"{uploads(restored.contents, restored.failures)}{of_batch} {done}.")
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
