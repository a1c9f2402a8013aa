"""Defines the command line of `els` (`python -m service`). Imports only what `--help` needs, so that it stays quick.

Parsed options name the function of a command by `module` and `command`; it is called with the settings and the options.
"""

import argparse
import sys
from collections.abc import Sequence

from service import __version__
from service.cli.parsers.batches import add_batches
from service.cli.parsers.cells import add_cells
from service.cli.parsers.find import add_find
from service.cli.parsers.health import add_health
from service.cli.parsers.inputs import add_inputs
from service.cli.parsers.pending import add_pending
from service.cli.parsers.privacy import add_privacy
from service.cli.parsers.process import add_process
from service.cli.parsers.quarantine import add_quarantine


class _Parser(argparse.ArgumentParser):
    """Is a parser that reports an unknown argument with the usage of the command, not with that of the whole."""

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse the arguments. Exits with status 2 where they are wrong."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            getattr(options, "parser", self).error(f"unrecognized arguments: {' '.join(unknown)}")
        return options


def parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    whole = _Parser(
        prog=_program(),
        description="Essay Lifecycle Service: assigns uploaded essays to the slots of their batches.",
        epilog="Settings are environment variables, see docs/configuration.md. Exit status: 0 done; 1 failed, or done "
        "only in part (the last line on standard error says why); 2 the command line or a setting is wrong; 130 "
        "interrupted; 143 ended by SIGTERM (a pod finishes its work on SIGTERM and exits with 0).",
    )
    whole.add_argument("--version", action="version", version=f"els {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for add_commands in (
        add_process,
        add_health,
        add_find,
        add_pending,
        add_quarantine,
        add_inputs,
        add_batches,
        add_privacy,
        add_cells,
    ):
        add_commands(commands)
    return whole


def _program() -> str:
    """Returns the name under which the user started this process, for usage lines."""
    return "els" if sys.argv[0].rpartition("/")[2] == "els" else "python -m service"
