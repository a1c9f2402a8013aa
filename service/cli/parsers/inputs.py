"""Defines the options of the command on inputs that cannot be read."""

import argparse

from service.cli.arguments import Commands, add, group, number, short_text, with_confirmation, with_json


def add_inputs(commands: Commands) -> None:
    """Add the command on inputs that cannot be read."""
    inputs = group(commands, "inputs", "skip a record of an input topic that cannot be read at all")
    skip = with_json(
        add(
            inputs,
            "cli.inputs.inputs_skip",
            "skip",
            "let pods skip a record that they cannot read; it is kept in quarantine as far as it can be obtained",
        )
    )
    skip.add_argument("topic", type=short_text, metavar="TOPIC")
    skip.add_argument("partition", type=number, metavar="PARTITION")
    skip.add_argument("offset", type=number, metavar="OFFSET")
    skip.add_argument(
        "--batch", action="store_true", help="skip its whole record batch, where pods crash when they unpack it"
    )
    skip.add_argument("--dry-run", action="store_true", help="only show what would be skipped")
    skip.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    with_confirmation(skip)
