"""Defines the options of the commands on registered batches."""

from argparse import ArgumentParser
from typing import get_args

from service.cli.arguments import (
    CURSOR,
    Commands,
    add,
    age_filters,
    batch_cursor,
    group,
    position,
    short_text,
    with_confirmation,
    with_json,
    with_operator,
    with_pages,
)
from service.domain.topics import CancelReason

STATES = ("registered", "complete", "ready", "failed", "cancelled")


def add_batches(commands: Commands) -> None:
    """Add the commands on registered batches."""
    batches = group(commands, "batches", "show registered batches; close or cancel them; publish their events again")
    listing = with_pages(add(batches, "cli.batches.batches_list", "list", "list registered batches, the newest first"))
    listing.add_argument("--state", choices=STATES, help="only in this state (default: all)")
    listing.add_argument("--late", action="store_true", help="only what was reported late and still waits for uploads")
    listing.add_argument(
        "--unconfirmed",
        action="store_true",
        help="only what is complete, and whose class is not confirmed within ELS_BATCH_TIMEOUT_SECONDS",
    )
    listing.add_argument("--user", type=short_text, metavar="USER", help="only batches that this user registered")
    listing.add_argument("--class", type=short_text, metavar="CLASS", dest="class_id", help="only of this class")
    listing.add_argument("--org", type=short_text, metavar="ORG", help="only of this organisation")
    listing.add_argument(
        "--after", type=batch_cursor, metavar="TIME/BATCH", help=f"only batches after this one; {CURSOR}"
    )
    age_filters(listing, "registered")
    show = with_pages(
        add(
            batches,
            "cli.batches.batches_show",
            "show",
            "show all that is known of a batch, registered or not, and what to do next",
        ),
        "slots",
    )
    show.add_argument("batch", type=short_text, metavar="BATCH")
    show.add_argument(
        "--after", type=position, default=0, metavar="POSITION", help=f"only slots after this one; {CURSOR}"
    )
    _ending(
        add(
            batches,
            "cli.batches.batches_close",
            "close",
            "end a registered batch with what is there: its open slots are withdrawn, and it is announced",
        )
    )
    cancel = add(
        batches,
        "cli.batches.batches_cancel",
        "cancel",
        "cancel a batch that is registered, or complete and not ready: later uploads are announced as excess",
    )
    _ending(cancel).add_argument("--reason", required=True, choices=get_args(CancelReason), help="published with it")
    republish = add(
        batches,
        "cli.batches.batches_republish",
        "republish",
        "publish again what a batch announced at its end: validation errors, completion, that it is ready or cancelled",
    )
    with_operator(republish).add_argument("batch", type=short_text, metavar="BATCH")
    republish.add_argument("--slots", action="store_true", help="also EssaySlotAssigned of each assigned slot")
    republish.add_argument("--excess", action="store_true", help="also ExcessContentProvisioned of its excess content")
    republish.add_argument("--dry-run", action="store_true", help="print what would be published, publish nothing")


def _ending(command: ArgumentParser) -> ArgumentParser:
    with_json(with_confirmation(command)).add_argument("batch", type=short_text, metavar="BATCH")
    command.add_argument(
        "--dry-run", action="store_true", help="print what would be changed and announced, change nothing"
    )
    return command
