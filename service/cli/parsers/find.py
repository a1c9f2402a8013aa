"""Defines the options of the command that finds batches, uploads and rejected inputs."""

from service.cli.arguments import Commands, add, age_filters, short_text, with_pages


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
    find.add_argument("text", type=short_text, metavar="TEXT", help="an id, or at least 3 characters of a file's name")
    age_filters(find, "stored or changed")
