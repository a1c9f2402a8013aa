"""Implements the command on inputs that cannot be read. It ends like those of `pending`."""

import resource
from argparse import Namespace
from dataclasses import asdict

from service.cli.operations import opened_operations, operator_of
from service.cli.output import confirm, print_json, print_row
from service.operators.apart import MEMORY_BYTES
from service.settings import Settings


async def inputs_skip(settings: Settings, options: Namespace) -> int:
    """Skip a record that cannot be read at all."""
    place = (options.topic, options.partition, options.offset)
    async with opened_operations(settings) as operations:
        if options.in_this_process:
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
            print_json(await operations.inputs.unpack(*place))
            return 0
        by, whole = operator_of(options), options.batch
        if not options.yes or options.dry_run:
            found = await operations.inputs.skip(by, *place, whole_batch=whole, dry_run=True)
            if options.dry_run:
                print_row(asdict(found), options.json)
                return 0
            confirm(
                f"Skip the offsets {found.first_offset} to {found.next_offset - 1} of {options.topic}, partition"
                f" {options.partition}? They will not be applied.",
                yes=False,
            )
        skipped = await operations.inputs.skip(by, *place, whole_batch=whole)
    if options.json:
        print_json(asdict(skipped))
    else:
        print(
            f"Pods skip the offsets {skipped.first_offset} to {skipped.next_offset - 1} within seconds."
            " What could be obtained of them is in quarantine, with the reason skipped."
        )
    return 0
