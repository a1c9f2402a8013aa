"""Implements the commands on the verdict of ops.health. They end like those of `pending`."""

from argparse import Namespace

from service.cli.operations import opened_operations, operator_of
from service.cli.output import cell, print_json
from service.settings import Settings


async def health_show(settings: Settings, options: Namespace) -> int:
    """Show what needs an action and what is to be seen. Returns 1 if something needs an action."""
    async with opened_operations(settings) as operations:
        verdict = await operations.notices.verdict()
    if options.json:
        conditions = [each._asdict() for each in verdict.conditions]
        print_json({"level": verdict.level, "conditions": conditions})
    else:
        print(verdict.level)
        for each in verdict.conditions:
            print(f"- {each.level}: {each.kind}: {cell(each.line)}")
    return 1 if verdict.level == "action needed" else 0


async def health_acknowledge(settings: Settings, options: Namespace) -> int:
    """Mark notices as seen."""
    kinds = [each for each in options.what if isinstance(each, str)]
    ids = [each for each in options.what if isinstance(each, int)]
    async with opened_operations(settings) as operations:
        seen = await operations.notices.acknowledge(operator_of(options), kinds, ids, dry_run=options.dry_run)
    for notice in seen:
        print(f"{'Would be acknowledged' if options.dry_run else 'Acknowledged'}: {cell(notice)}.")
    return 0
