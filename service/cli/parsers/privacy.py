"""Defines the options of the commands on personal data."""

from service.cli.arguments import Commands, add, group, interval, reason, short_text, with_confirmation, with_json


def add_privacy(commands: Commands) -> None:
    """Add the commands on personal data."""
    privacy = group(commands, "privacy", "erase personal data, and export what keeps it erased")
    erase = with_confirmation(
        with_json(
            add(
                privacy,
                "cli.privacy.privacy_erase",
                "erase",
                "erase personal data: file names, user ids, instructions, error details, rejected inputs; cannot be"
                " undone. What arrives again is erased, too. Exit status 1: something could not be erased in time",
            )
        )
    )
    what = erase.add_mutually_exclusive_group(required=True)
    what.add_argument("--user", type=reason, metavar="USER", help="all batches of this user, and those still to come")
    what.add_argument("--batch", type=short_text, metavar="BATCH", help="this batch, with all its uploads")
    what.add_argument(
        "--text", type=short_text, nargs=2, metavar=("BATCH", "TEXT_STORAGE_ID"), help="one text of a batch"
    )
    what.add_argument(
        "--upload", type=short_text, nargs=2, metavar=("BATCH", "FILE_UPLOAD_ID"), help="one upload of a batch"
    )
    what.add_argument(
        "--file", type=short_text, metavar="NAME", help="all uploads whose file names contain this; lists them first"
    )
    erase.add_argument("--dry-run", action="store_true", help="only show what would be erased; change nothing")
    erase.add_argument(
        "--wait",
        type=interval,
        default=60,
        metavar="SECONDS",
        help="how long to wait until the events concerned are published (default 60)",
    )
    add(
        privacy,
        "cli.privacy.privacy_export",
        "export",
        "print the tombstones of what was erased, with their keys, for `recover --erasures`; keep the file secret",
    )
