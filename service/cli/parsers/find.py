"""Defines the options of the command that finds batches, uploads and rejected inputs."""

from service.cli.arguments import Commands, add, age_filters, short_text, since, until, with_pages


def add_find(commands: Commands) -> None:
    """Add the command that finds batches, uploads and rejected inputs."""
    find = with_pages(
        add(
            commands,
            "cli.find.find",
            "find",
            "find a batch, text, upload, essay, user or correlation id, or a part of a file's name, in every state",
        )
    )
    find.add_argument(
        "text",
        type=short_text,
        metavar="TEXT",
        help="an id, at least 3 characters of a file's name, or at least the first 8 of an id",
    )
    age_filters(find, "stored or changed")
    find.add_argument(
        "--since",
        type=since,
        metavar="TIME",
        help="only what waited or changed since then (2026-11-24, 2026-11-24T08:00+01:00)",
    )
    find.add_argument(
        "--until", type=until, metavar="TIME", help="only what was there by then; a date includes that day, of UTC"
    )
