"""Implements the commands on notices. They end like those of `pending`."""

from argparse import Namespace

from service.cli.operations import opened_operations, operator_of
from service.settings import Settings


async def health_acknowledge(settings: Settings, options: Namespace) -> int:
    """Mark losses of inputs as seen, and clocks that do not agree."""
    async with opened_operations(settings) as operations:
        seen = await operations.notices.acknowledge(operator_of(options), options.ids or None)
    for notice in seen:
        print(f"Acknowledged: {notice}.")
    return 0
