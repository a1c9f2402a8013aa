"""Implements the command that checks the environment."""

from argparse import Namespace

from service.cli.output import print_json, print_rows
from service.environment import check_environment
from service.settings import Settings


async def check(settings: Settings, options: Namespace) -> int:
    """Print a row for each check. Exit status 1 if something must be corrected."""
    rows = await check_environment(settings)
    if options.json:  # a contract: the field stays `told`
        print_json([{"check": each.about, "ok": each.is_good, "told": each.message} for each in rows])
    else:
        results = (("ok" if each.is_good else "NOT OK", each) for each in rows)
        print_rows([{"check": each.about, "result": is_, "message": each.message} for is_, each in results], False)
    return 0 if all(each.is_good for each in rows) else 1
