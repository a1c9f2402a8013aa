"""The command line.

Exit status: 0 done; 1 not done, and the last line says why; 2 the command or a setting is wrong.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence

import uvloop

FAILED = 1
USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    options = _parser().parse_args(arguments)
    # A command imports what it needs, when it is known which it is: `--help` is quick and a pod small.
    from service import commands  # noqa: PLC0415
    from service.settings import SettingsError, load_settings  # noqa: PLC0415

    # What a client says of a lost connection, the command says itself, in its one line.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        settings = load_settings()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            status: int = runner.run(getattr(commands, options.command)(settings, options))
            return status
    except SettingsError as error:
        return _told(str(error), USAGE)
    except commands.Failed as error:
        return _told(str(error), FAILED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _told(why: str, status: int) -> int:
    print(why, file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Essay Lifecycle Service: gives uploaded essays the slots of their batches.",
        epilog="Settings are environment variables, see docs/configuration.md. "
        "Exit status: 0 done, 1 not done, 2 the command or a setting is wrong.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _add(commands, "run", "run", "consume, relay and answer on HTTP until SIGTERM")
    run.add_argument("--roles", default="", metavar="ROLE,…", help="only these: consumer, relay, purge (default: all)")
    _add(commands, "migrate", "migrate", "bring the schema, the views and the grants to this revision")
    _listing(_add(commands, "check", "check", "hold settings, connections, schema and topics against each other"))
    purge = _listing(_add(commands, "purge", "purge_now", "expire, report and delete what has outlived its time"))
    purge.add_argument("--dry-run", action="store_true", help="only count what there is to do; change nothing")
    topics = commands.add_parser("topics", help="the topics of the service").add_subparsers(
        required=True, metavar="COMMAND"
    )
    _listing(_add(topics, "create", "topics_create", "create the topics that are missing"))
    _add_quarantine(commands)
    return parser


def _add_quarantine(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    quarantine = commands.add_parser("quarantine", help="the inputs that could not be processed").add_subparsers(
        required=True, metavar="COMMAND"
    )
    listing = _listing(_add(quarantine, "list", "quarantine_list", "list them, the newest first"))
    listing.add_argument("--topic", help="only of this topic")
    listing.add_argument("--state", choices=("open", "replayed", "discarded"), help="only in this state")
    listing.add_argument("--before", type=int, metavar="ID", help="only below this id: the next page")
    listing.add_argument("--limit", type=_page, default=50, metavar="N", help="so many (default 50, at most 1000)")
    show = _listing(_add(quarantine, "show", "quarantine_show", "show one, whole"))
    show.add_argument("id", type=int)
    resume = _add(quarantine, "resume", "quarantine_resume", "set a stopped topic going again")
    resume.add_argument("topic")


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, command: str, told: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=told, description=told[0].upper() + told[1:] + ".")
    parser.set_defaults(command=command)
    return parser


def _listing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="for scripts: JSON on standard output")
    return parser


def _page(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000")
    return number


if __name__ == "__main__":
    sys.exit(main())
