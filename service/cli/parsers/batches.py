"""Defines the options of the commands on registered batches."""

from service.cli.arguments import (
    CURSOR,
    Commands,
    add,
    age_filters,
    group,
    position,
    short_text,
    with_operator,
    with_pages,
)


def add_batches(commands: Commands) -> None:
    """Add the commands on registered batches."""
    batches = group(commands, "batches", "show registered batches; publish their events again")
    listing = with_pages(
        add(batches, "cli.batches.batches_list", "list", "list registered batches in the order of their ids")
    )
    listing.add_argument(
        "--state", choices=("registered", "complete", "ready", "failed"), help="only in this state (default: all)"
    )
    listing.add_argument("--user", type=short_text, metavar="USER", help="only batches that this user registered")
    listing.add_argument("--after", type=short_text, metavar="BATCH", help=f"only batches after this one; {CURSOR}")
    age_filters(listing, "registered")
    show = with_pages(add(batches, "cli.batches.batches_show", "show", "show one batch and its slots"), "slots")
    show.add_argument("batch", type=short_text, metavar="BATCH")
    show.add_argument(
        "--after", type=position, default=0, metavar="POSITION", help=f"only slots after this one; {CURSOR}"
    )
    republish = add(
        batches,
        "cli.batches.batches_republish",
        "republish",
        "publish again what a full batch announced: its validation errors, its completion, and that it is ready",
    )
    with_operator(republish).add_argument("batch", type=short_text, metavar="BATCH")
