"""Implements the command that finds batches, uploads and rejected inputs. It ends like those of `pending`."""

from argparse import Namespace

from service.cli.operations import opened_operations
from service.cli.output import print_rows, warn
from service.settings import Settings


async def find(settings: Settings, options: Namespace) -> int:
    """Print what has an id, or a part of a file's name, in every state."""
    async with opened_operations(settings) as operations:
        rows = await operations.search.find(
            options.text,
            page=options.limit,
            older_than=options.older_than,
            newer_than=options.newer_than,
            since=options.since,
            until=options.until,
        )
    print_rows(rows, options.json)
    if len(rows) == options.limit:
        warn("There may be more rows: give a longer text, an age, or a higher --limit")
    return 0
