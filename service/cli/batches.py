"""Implements the commands on registered batches. They end like those of `pending`."""

from argparse import Namespace
from dataclasses import asdict

from service.cli.operations import opened_operations, operator_of, print_next
from service.cli.output import confirm, print_json, print_row, print_rows, warn
from service.domain.topics import EXCESS_CONTENT, SLOT_ASSIGNED
from service.operators.endings import Ending
from service.settings import Settings
from service.store.batches import BatchFilter


async def batches_list(settings: Settings, options: Namespace) -> int:
    """List a page of registered batches, the newest first."""
    condition = BatchFilter(
        options.state,
        options.late,
        options.unconfirmed,
        options.user,
        options.class_id,
        options.org,
        options.older_than,
        options.newer_than,
        options.after,
    )
    async with opened_operations(settings) as operations:
        page = await operations.batches.list(condition, page=options.limit)
    print_rows(page.rows, options.json)
    print_next(page, "--after")
    return 0


async def batches_show(settings: Settings, options: Namespace) -> int:
    """Show all that is known of one batch, with a page of its slots."""
    async with opened_operations(settings) as operations:
        batch, slots = await operations.batches.show(options.batch, page=options.limit, after=options.after)
    shown = batch | {"slots": slots.rows}
    if options.json:
        print_json(shown)
    else:
        tables = {name: rows for name, rows in shown.items() if isinstance(rows, list)}
        print_row({name: value for name, value in shown.items() if name not in tables}, False)
        for name, rows in tables.items():
            if rows:
                print(f"\n{name}:")
                print_rows(rows, False)
    print_next(slots, "--after")
    return 0


async def batches_republish(settings: Settings, options: Namespace) -> int:
    """Publish the events of a complete batch again, with their old ids, for a consumer that lost them."""
    async with opened_operations(settings) as operations:
        published = await operations.batches.republish(
            operator_of(options), options.batch, slots=options.slots, excess=options.excess, dry_run=options.dry_run
        )
    will = "would" if options.dry_run else "will"
    for topic, number in ((SLOT_ASSIGNED, published.slots), (EXCESS_CONTENT, published.excess)):
        if number:
            print(f"{topic} of batch {options.batch} {will} be published again for {number} texts.")
    for event in published.events:
        print(f"{event.topic} of batch {options.batch} {will} be published again, with event id {event.event_id}.")
    if published.left_out:
        warn(f"{published.left_out} events of texts are left out: a recovery knows them only in part.")
    warn("BatchReadinessTimeout and PendingContentExpired are never published again, nor is what was erased later.")
    return 0


async def batches_close(settings: Settings, options: Namespace) -> int:
    """End a registered batch with what is there."""
    async with opened_operations(settings) as operations:
        if not options.yes and not options.dry_run:
            _ask(await operations.batches.close(operator_of(options), options.batch, dry_run=True))
        ending = await operations.batches.close(operator_of(options), options.batch, dry_run=options.dry_run)
    _print_ending(ending, options)
    return 0


async def batches_cancel(settings: Settings, options: Namespace) -> int:
    """Cancel a batch that is registered, or complete and not ready."""
    by, batch_id = operator_of(options), options.batch
    async with opened_operations(settings) as operations:
        if not options.yes and not options.dry_run:
            _ask(await operations.batches.cancel(by, batch_id, options.reason, dry_run=True))
        ending = await operations.batches.cancel(by, batch_id, options.reason, dry_run=options.dry_run)
    _print_ending(ending, options)
    return 0


def _ask(ending: Ending) -> None:
    confirm(
        f"Batch {ending.batch_id} will be {ending.state}: {ending.assigned} assigned, {ending.failed} failed and"
        f" {ending.withdrawn} withdrawn of {ending.expected} slots. It cannot be undone. Go on?",
        yes=False,
    )


def _print_ending(ending: Ending, options: Namespace) -> None:
    if options.json:
        print_json(asdict(ending))
        return
    is_, will = ("would be", "would") if options.dry_run else ("is", "will")
    print(
        f"Batch {ending.batch_id} {is_} {ending.state}, and was {ending.before}: {ending.assigned} assigned,"
        f" {ending.failed} failed and {ending.withdrawn} withdrawn of {ending.expected} slots."
    )
    for event in ending.events:
        print(f"{event.topic} {will} be published, with event id {event.event_id}.")
