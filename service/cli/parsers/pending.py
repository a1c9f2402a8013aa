"""Defines the options of the commands on content that waits for a registration."""

from service.cli.arguments import (
    CURSOR,
    Commands,
    add,
    group,
    pending_cursor,
    pending_filters,
    short_text,
    with_confirmation,
    with_json,
    with_operator,
    with_pages,
)


def add_pending(commands: Commands) -> None:
    """Add the commands on content that waits for a registration."""
    pending = group(
        commands, "pending", "show and change content that waits for the registration of its batch, or expired"
    )
    listing = with_pages(
        add(
            pending,
            "cli.pending.pending_list",
            "list",
            "list pending, expired or removed content, the longest waiting first",
        )
    )
    listing.add_argument("--failures", action="store_true", help="list validation failures, not content")
    listing.add_argument("--batch", type=short_text, help="only of this batch")
    listing.add_argument(
        "--state",
        choices=("pending", "expired", "removed"),
        default="pending",
        help="only in this state (default pending)",
    )
    listing.add_argument(
        "--after",
        type=pending_cursor,
        metavar="TIME/ARRIVAL",
        help=f"only rows after this one (waiting_since/arrival); {CURSOR}",
    )
    pending_filters(listing)
    show = with_json(
        add(
            pending,
            "cli.pending.pending_show",
            "show",
            "show one text (content) or validation failure with all its fields",
        )
    )
    show.add_argument("batch", type=short_text, metavar="BATCH")
    show.add_argument("text", type=short_text, metavar="TEXT_STORAGE_ID", help="or the id of a failed upload")
    remove = with_confirmation(
        add(
            pending,
            "cli.pending.pending_remove",
            "remove",
            "remove single texts or validation failures that are pending or expired; cannot be undone",
        )
    )
    remove.add_argument("batch", type=short_text, metavar="BATCH")
    remove.add_argument(
        "texts", type=short_text, metavar="TEXT_STORAGE_ID", nargs="+", help="or the id of a failed upload"
    )
    clear = with_confirmation(
        add(
            pending,
            "cli.pending.pending_clear",
            "clear",
            "remove all content and failures of a batch that are pending or expired, or what matches; cannot be undone",
        )
    )
    clear.add_argument("batch", type=short_text, metavar="BATCH")
    for command in (remove, clear):
        command.add_argument("--dry-run", action="store_true", help="only count what would be removed; change nothing")
    pending_filters(clear)
    restore = with_json(
        add(
            pending,
            "cli.pending.pending_restore",
            "restore",
            "make expired content and failures pending again: of a batch, what matches the filters, or all",
        )
    )
    restore.add_argument(
        "batch", type=short_text, metavar="BATCH", nargs="?", help="only of this batch; or give --all or a filter"
    )
    restore.add_argument(
        "texts",
        type=short_text,
        metavar="TEXT_STORAGE_ID",
        nargs="*",
        help="only these texts or failed uploads (default: all that expired)",
    )
    restore.add_argument("--all", action="store_true", help="all that expired, of all batches")
    restore.add_argument("--dry-run", action="store_true", help="only count what matches; change nothing")
    pending_filters(with_operator(restore), "expired")
