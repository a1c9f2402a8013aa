"""What can be typed after `els` or `python -m service`. Nothing is imported for it that `--help` does not need.

A command is a function of the module that its `room` names; its options are that function's second argument.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from service import __version__
from service.operators import parameters

_T = TypeVar("_T")

Commands = Any
"""What `add_subparsers` returns, which argparse has no public name for."""


def _read(parameter: Callable[[str], _T]) -> Callable[[str], _T]:
    """How argparse reads an option; what is wrong with it is told in our words."""

    def read(text: str) -> _T:
        try:
            return parameter(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


_words = _read(parameters.words)
_reason = _read(parameters.reason)
_id = _read(parameters.row_id)
_position = _read(parameters.position)
_page = _read(parameters.page)
_age = _read(parameters.age)
_place = _read(parameters.place)
_interval = _read(parameters.interval)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    whole = argparse.ArgumentParser(
        prog=_program(),
        description="Essay Lifecycle Service: gives uploaded essays the slots of their batches.",
        epilog="Settings are environment variables, see docs/configuration.md. "
        "Exit status: 0 done, 1 not done, 2 the command or a setting is wrong.",
    )
    whole.add_argument("--version", action="version", version=f"els {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    _add_process(commands)
    _add_pending(_group(commands, "pending", "the content that waits for its registration"))
    _add_quarantine(_group(commands, "quarantine", "the inputs that could not be processed"))
    _add_batches(_group(commands, "batches", "the batches that are registered"))
    return whole


def _program() -> str:
    """Returns what the user typed to start this process, for usage lines."""
    return "els" if sys.argv[0].rpartition("/")[2] == "els" else "python -m service"


def _add_process(commands: Commands) -> None:
    run = _add(commands, "cli.commands.run", "run", "consume, relay and answer on HTTP until SIGTERM")
    run.add_argument("--roles", default="", metavar="ROLE,…", help="only these: consumer, relay, purge (default: all)")
    relay = _add(commands, "cli.commands.relay", "relay", "publish the outbox, and nothing else, until SIGTERM")
    relay.add_argument("--once", action="store_true", help="end when the outbox is empty")
    _add(commands, "cli.commands.migrate", "migrate", "bring the schema, the views and the grants to this revision")
    _listing(
        _add(
            commands, "cli.commands.check", "check", "hold settings, connections, schema and topics against each other"
        )
    )
    purge = _add(commands, "cli.commands.purge_now", "purge", "expire, report and delete what has outlived its time")
    _listing(purge).add_argument("--dry-run", action="store_true", help="only count what is due; change nothing")
    audit = _add(
        commands, "cli.commands.audit_all", "audit", "hold inputs, tables and output topics against each other"
    )
    _paged(audit).add_argument(
        "--whole", action="store_true", help="the topics still have all that was ever on them: what is missing is wrong"
    )
    top = _listing(_add(commands, "cli.top.top", "top", "show the whole, live; q ends it"))
    top.add_argument("--interval", type=_interval, default=2, metavar="SECONDS", help="between two looks (default 2)")
    top.add_argument("--once", action="store_true", help="look once; status 1 where something asks for attention")
    top.add_argument("--svg", metavar="FILE", help="with --once: the picture as a file, too")
    topics = _group(commands, "topics", "the topics of the service")
    _listing(_add(topics, "cli.commands.topics_create", "create", "create the topics that are missing"))


def _add_pending(pending: Commands) -> None:
    listing = _paged(_add(pending, "cli.operators.pending_list", "list", "list what waits, the longest waiting first"))
    listing.add_argument("--batch", type=_words, help="only of this batch")
    listing.add_argument(
        "--state", choices=("pending", "expired", "removed"), default="pending", help="in this state (default pending)"
    )
    listing.add_argument(
        "--after",
        type=_place,
        metavar="TIME/ARRIVAL",
        help="only behind this row (waiting_since/arrival): the next page",
    )
    _filtered(listing)
    show = _listing(_add(pending, "cli.operators.pending_show", "show", "show one content, whole"))
    show.add_argument("batch", type=_words, metavar="BATCH")
    show.add_argument("text", type=_words, metavar="TEXT_STORAGE_ID")
    remove = _removing(
        _add(pending, "cli.operators.pending_remove", "remove", "take back contents that wait or are expired")
    )
    remove.add_argument("batch", type=_words, metavar="BATCH")
    remove.add_argument("texts", type=_words, metavar="TEXT_STORAGE_ID", nargs="+")
    clear = _removing(_add(pending, "cli.operators.pending_clear", "clear", "take back all that waits for a batch"))
    clear.add_argument("batch", type=_words, metavar="BATCH")
    _filtered(clear)
    restore = _changing(_add(pending, "cli.operators.pending_restore", "restore", "let expired content wait again"))
    restore.add_argument("batch", type=_words, metavar="BATCH")
    restore.add_argument("texts", type=_words, metavar="TEXT_STORAGE_ID", nargs="*", help="only these (default: all)")


def _add_quarantine(commands: Commands) -> None:
    listing = _paged(_add(commands, "cli.operators.quarantine_list", "list", "list them, the newest first"))
    _choosing(listing)
    listing.add_argument("--state", choices=("open", "replayed", "discarded"), help="only in this state")
    listing.add_argument("--before", type=_id, metavar="ID", help="only below this id: the next page")
    show = _listing(_add(commands, "cli.operators.quarantine_show", "show", "show one, whole"))
    show.add_argument("id", type=_id, metavar="ID")
    replay = _listing(
        _add(commands, "cli.operators.quarantine_replay", "replay", "run them through the same code as fresh ones")
    )
    _several(_changing(replay))
    discard = _add(commands, "cli.operators.quarantine_discard", "discard", "close them for good")
    _several(_removing(discard))
    resume = _changing(_add(commands, "cli.operators.quarantine_resume", "resume", "set a stopped topic going again"))
    resume.add_argument("topic", metavar="TOPIC")


def _add_batches(commands: Commands) -> None:
    listing = _paged(_add(commands, "cli.operators.batches_list", "list", "list them in the order of their ids"))
    listing.add_argument("--state", choices=("registered", "ready", "failed"), help="only in this state")
    listing.add_argument("--user", type=_words, metavar="USER", help="only of this user")
    listing.add_argument("--after", type=_words, metavar="BATCH", help="only behind this batch: the next page")
    _aged(listing)
    show = _paged(_add(commands, "cli.operators.batches_show", "show", "show one batch and its slots"))
    show.add_argument("batch", type=_words, metavar="BATCH")
    show.add_argument("--after", type=_position, default=0, metavar="POSITION", help="only slots behind this one")
    republish = _add(commands, "cli.operators.batches_republish", "republish", "announce a complete batch again")
    _changing(republish).add_argument("batch", type=_words, metavar="BATCH")


def _several(command: argparse.ArgumentParser) -> None:
    command.add_argument("ids", type=_id, metavar="ID", nargs="*", help="these")
    command.add_argument("--all", action="store_true", help="all that are open")
    _choosing(command)


def _choosing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--topic", type=_words, help="only of this topic")
    command.add_argument("--reason", type=_words, metavar="WORD", help="only for this reason")
    _aged(command)


# -- what many commands take


def _group(commands: Commands, name: str, told: str) -> Commands:
    return commands.add_parser(name, help=told).add_subparsers(required=True, metavar="COMMAND")


def _add(commands: Commands, function: str, name: str, told: str) -> argparse.ArgumentParser:
    module, command = function.rsplit(".", 1)
    added: argparse.ArgumentParser = commands.add_parser(name, help=told, description=told[0].upper() + told[1:] + ".")
    added.set_defaults(module=module, command=command)
    return added


def _listing(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--json", action="store_true", help="for scripts: JSON on standard output")
    return command


def _paged(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--limit", type=_page, default=50, metavar="N", help="so many (default 50, at most 1000)")
    return _listing(command)


def _filtered(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--file", type=_words, metavar="TEXT", help="only where the file's name has this in it")
    return _aged(command)


def _aged(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--older-than", type=_age, metavar="AGE", help="only what came longer ago: 90s, 5m, 2h, 1d")
    command.add_argument("--newer-than", type=_age, metavar="AGE", help="only what came since then")
    return command


def _changing(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A command that changes something: it is written down."""
    command.add_argument("--why", type=_reason, default="", metavar="TEXT", help="the reason, for the audit")
    command.add_argument("--who", type=_words, metavar="NAME", help="who does it (default: this account)")
    return command


def _removing(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A command that removes something: it asks first."""
    command.add_argument("--yes", action="store_true", help="do not ask")
    return _changing(command)
