"""Implements the command that finds batches, uploads and rejected inputs. It ends like those of `pending`."""

import asyncio
from argparse import Namespace
from collections.abc import Sequence

from service.cli.operations import opened_operations
from service.cli.output import CommandError, print_rows, warn
from service.operators.errors import NotFound
from service.postgres.queries import NamedRow
from service.settings import Settings
from service.wiring import CELL_SECONDS, settings_of_cells


async def find(settings: Settings, options: Namespace) -> int:
    """Print what has an id, or a part of a file's name, in every state; of all cells where their databases are known.

    Exit status 1 also where the database of a cell cannot be asked.
    """
    cells = settings_of_cells(settings)
    if not cells:
        rows = await _find(settings, options)
        if isinstance(rows, NotFound):
            raise CommandError(str(rows))
        print_rows(rows, options.json)
        _warn_of_more(rows, options)
        return 0
    all_rows: list[NamedRow] = []
    failed, missing = 0, ""
    results = await asyncio.gather(*(_find_in_time(of_cell, options) for of_cell in cells))
    for of_cell, found in zip(cells, results, strict=True):
        if isinstance(found, NotFound):
            missing = str(found)
        elif isinstance(found, CommandError):
            failed += 1
            warn(f"cell {of_cell.cell}: {found}")
        else:
            all_rows += [{"cell": of_cell.cell, **row} for row in found]
            _warn_of_more(found, options)
    if not all_rows and not failed:
        raise CommandError(missing)
    print_rows(all_rows, options.json)
    return 1 if failed else 0


async def _find_in_time(of_cell: Settings, options: Namespace) -> Sequence[NamedRow] | NotFound | CommandError:
    """Search one cell, for a limited time. Returns its error, so that the other cells are searched."""
    try:
        async with asyncio.timeout(CELL_SECONDS):
            return await _find(of_cell, options)
    except TimeoutError:
        return CommandError(f"the database has not answered within {CELL_SECONDS:.0f} s")
    except CommandError as error:
        return error


async def _find(settings: Settings, options: Namespace) -> Sequence[NamedRow] | NotFound:
    """Search one database. Returns NotFound where nothing is found: other cells may have it. Raises CommandError."""
    async with opened_operations(settings) as operations:
        try:
            return await operations.search.find(
                options.text,
                page=options.limit,
                older_than=options.older_than,
                newer_than=options.newer_than,
                since=options.since,
                until=options.until,
            )
        except NotFound as error:
            return error


def _warn_of_more(rows: Sequence[NamedRow], options: Namespace) -> None:
    if len(rows) == options.limit:
        warn("There may be more rows: give a longer text, an age, or a higher --limit")
