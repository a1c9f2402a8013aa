"""The command line, run.

Exit status: 0 done; 1 not done, and the last line says why; 2 the command or a setting is wrong; 143 ended by
SIGTERM, which is no failure of `run`: that drains and ends with 0.
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

FAILED = 1
USAGE = 2
TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    options = commandline.parser().parse_args(arguments)
    # A command imports what it needs, when it is known which it is: `--help` is quick and a pod small.
    from service.cli.output import Failed, UsageError  # noqa: PLC0415
    from service.settings import SettingsError, load_settings  # noqa: PLC0415

    # What a client says of a lost connection, the command says itself, in its one line.
    for client in ("aiokafka", "psycopg"):
        logging.getLogger(client).setLevel(logging.CRITICAL)
    try:
        settings = load_settings()
        command = getattr(import_module(f"service.{options.module}"), options.command)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status: int = runner.run(command(settings, options))
            return status
    except (SettingsError, UsageError) as error:
        return _told(str(error), USAGE)
    except Failed as error:
        return _told(str(error), FAILED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _told(why: str, status: int) -> int:
    print(why, file=sys.stderr)
    return status


def _terminate(*_: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def entry_point() -> NoReturn:
    """Runs the process of `els` and of `python -m service`."""
    # In a container we are process 1, which no signal ends that it does not handle itself.
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(main())


if __name__ == "__main__":
    entry_point()
