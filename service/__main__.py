"""Runs one command and exits with its status.

Exit status 0: done. 1: a dependency failed or the command failed; the last line says why. 2: configuration or usage
error. 130: interrupted. 143: ended by SIGTERM, except for a pod, which drains and exits with 0.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import uvloop

from service.cli import parser as commandline

STATUS_FAILED = 1
STATUS_USAGE = 2
STATUS_INTERRUPTED = 128 + signal.SIGINT
STATUS_TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status."""
    options = commandline.parser().parse_args(arguments)
    # Imported only once the command is known: `--help` stays quick, and a pod loads only what it needs.
    from service.cli.output import CommandError, UsageError  # noqa: PLC0415
    from service.runtime.logging import set_cell  # noqa: PLC0415
    from service.settings import SettingsError, load_settings  # noqa: PLC0415

    # The command itself reports a lost connection, in one line; the clients would repeat it.
    for client in ("aiokafka", "psycopg"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
    try:
        settings = load_settings(needs_database=options.command not in ("topics_create", "topics_alter"))
        set_cell(None if settings.slice.is_all else settings.cell)
        command = getattr(import_module(f"service.{options.module}"), options.command)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status: int = runner.run(command(settings, options))
            return status
    except (SettingsError, UsageError) as error:
        print(error, file=sys.stderr)
        return STATUS_USAGE
    except CommandError as error:
        print(error, file=sys.stderr)
        return STATUS_FAILED
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except BrokenPipeError:
        # Python flushes standard output at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STATUS_FAILED


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(STATUS_TERMINATED)


def entry_point() -> NoReturn:
    """Run the process of `els` or `python -m service`. Never returns."""
    # In a container this is process 1: the kernel drops signals that process 1 does not handle.
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())


if __name__ == "__main__":
    entry_point()
