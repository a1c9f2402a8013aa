"""Implements the command that checks the environment."""

from argparse import Namespace

from service.cli.output import print_json, print_rows
from service.environment import check_environment
from service.settings import Settings


async def check(settings: Settings, options: Namespace) -> int:
    """Print a row for each check. Exit status 1 if something must be corrected."""
    rows = await check_environment(settings)
    of_cells = any(each.cell is not None for each in rows)
    cells: list[dict[str, object]] = [{"cell": each.cell} if of_cells else {} for each in rows]
    if options.json:  # a contract: the field stays `told`
        found = ({"check": each.about, "ok": each.is_good, "told": each.message} for each in rows)
    else:
        results = (("ok" if each.is_good else "NOT OK", each) for each in rows)
        found = ({"check": each.about, "result": is_, "message": each.message} for is_, each in results)
    table = [{**cell, **row} for cell, row in zip(cells, found, strict=True)]
    if options.json:
        print_json(table)
    else:
        print_rows(table, False)
    return 0 if all(each.is_good for each in rows) else 1
