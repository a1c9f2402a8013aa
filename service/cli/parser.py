"""Defines the command line of `els` (`python -m service`). Imports only what `--help` needs, so that it stays quick.

Parsed options name the function of a command by `module` and `command`; it is called with the settings and the options.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from service import __version__
from service.operators import parameters

_T = TypeVar("_T")

Commands = Any
"""The type that `add_subparsers` returns; argparse has no public name for it."""

_CURSOR = "the cursor for the next page is printed to stderr"


def _read(parameter: Callable[[str], _T]) -> Callable[[str], _T]:
    """Make a parameter a `type` of argparse that keeps the message of its ValueError."""

    def read(text: str) -> _T:
        try:
            return parameter(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


_short_text = _read(parameters.short_text)
_reason = _read(parameters.reason)
_id = _read(parameters.row_id)
_position = _read(parameters.position)
_page = _read(parameters.page)
_age = _read(parameters.age)
_pending_cursor = _read(parameters.pending_cursor)
_interval = _read(parameters.interval)


def parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line."""
    whole = argparse.ArgumentParser(
        prog=_program(),
        description="Essay Lifecycle Service: assigns uploaded essays to the slots of their batches.",
        epilog="Settings are environment variables, see docs/configuration.md. Exit status: 0 done; 1 a dependency "
        "failed or the command failed; 2 configuration or usage error.",
    )
    whole.add_argument("--version", action="version", version=f"els {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    _add_process(commands)
    _add_pending(_group(commands, "pending", "content that waits for the registration of its batch"))
    _add_quarantine(_group(commands, "quarantine", "rejected inputs (dead letters), and paused topics"))
    _add_batches(_group(commands, "batches", "registered batches"))
    return whole


def _program() -> str:
    """Returns the name under which the user started this process, for usage lines."""
    return "els" if sys.argv[0].rpartition("/")[2] == "els" else "python -m service"


def _add_process(commands: Commands) -> None:
    run = _add(commands, "cli.commands.run", "run", "run a pod (consumer, relay, purge, HTTP) until SIGTERM")
    run.add_argument(
        "--roles", default="", metavar="ROLE,…", help="only these roles: consumer, relay, purge (default: all)"
    )
    relay = _add(commands, "cli.commands.relay", "relay", "run a pod that only publishes the outbox, until SIGTERM")
    relay.add_argument("--once", action="store_true", help="publish what is in the outbox, then end")
    _add(commands, "cli.commands.migrate", "migrate", "migrate the schema, views and grants to this version")
    _with_json(
        _add(commands, "cli.commands.check", "check", "check settings, connections, schema, topics and retentions")
    )
    purge = _add(
        commands, "cli.commands.purge_now", "purge", "run one purge round: expire, report and delete what is due"
    )
    _with_json(purge).add_argument("--dry-run", action="store_true", help="only count what is due; change nothing")
    audit = _add(
        commands, "cli.commands.audit_all", "audit", "compare inputs, tables and output topics with each other"
    )
    _with_pages(audit).add_argument(
        "--whole",
        action="store_true",
        help="the topics still hold every record ever written: report missing records as violations",
    )
    top = _with_json(_add(commands, "cli.top.top", "top", "show the state of the service, live; q quits"))
    top.add_argument(
        "--interval", type=_interval, default=2, metavar="SECONDS", help="time between two reads (default 2)"
    )
    top.add_argument(
        "--once", action="store_true", help="read once and end; exit status 1 if something needs attention"
    )
    top.add_argument("--svg", metavar="FILE", help="with --once: also write the screen to an SVG file")
    topics = _group(commands, "topics", "Kafka topics of the service")
    _with_json(_add(topics, "cli.commands.topics_create", "create", "create the topics that are missing"))


def _add_pending(pending: Commands) -> None:
    listing = _with_pages(
        _add(pending, "cli.operators.pending_list", "list", "list pending content, the longest waiting first")
    )
    listing.add_argument("--batch", type=_short_text, help="only of this batch")
    listing.add_argument(
        "--state",
        choices=("pending", "expired", "removed"),
        default="pending",
        help="only in this state (default pending)",
    )
    listing.add_argument(
        "--after",
        type=_pending_cursor,
        metavar="TIME/ARRIVAL",
        help=f"only rows after this one (waiting_since/arrival); {_CURSOR}",
    )
    _pending_filters(listing)
    show = _with_json(_add(pending, "cli.operators.pending_show", "show", "show one content with all its fields"))
    show.add_argument("batch", type=_short_text, metavar="BATCH")
    show.add_argument("text", type=_short_text, metavar="TEXT_STORAGE_ID")
    remove = _with_confirmation(
        _add(pending, "cli.operators.pending_remove", "remove", "remove single contents that are pending or expired")
    )
    remove.add_argument("batch", type=_short_text, metavar="BATCH")
    remove.add_argument("texts", type=_short_text, metavar="TEXT_STORAGE_ID", nargs="+")
    clear = _with_confirmation(
        _add(pending, "cli.operators.pending_clear", "clear", "remove all content that waits for a batch")
    )
    clear.add_argument("batch", type=_short_text, metavar="BATCH")
    _pending_filters(clear)
    restore = _with_operator(
        _add(pending, "cli.operators.pending_restore", "restore", "make expired content pending again")
    )
    restore.add_argument("batch", type=_short_text, metavar="BATCH")
    restore.add_argument(
        "texts", type=_short_text, metavar="TEXT_STORAGE_ID", nargs="*", help="only these (default: all of the batch)"
    )


def _add_quarantine(commands: Commands) -> None:
    listing = _with_pages(
        _add(commands, "cli.operators.quarantine_list", "list", "list rejected inputs, the newest first")
    )
    _quarantine_filters(listing)
    listing.add_argument("--state", choices=("open", "replayed", "discarded"), help="only in this state")
    listing.add_argument("--before", type=_id, metavar="ID", help=f"only ids below this one; {_CURSOR}")
    show = _with_json(
        _add(commands, "cli.operators.quarantine_show", "show", "show one rejected input with all its fields")
    )
    show.add_argument("id", type=_id, metavar="ID")
    replay = _with_json(
        _add(commands, "cli.operators.quarantine_replay", "replay", "process rejected inputs again, like new ones")
    )
    _selected_inputs(_with_operator(replay))
    discard = _add(commands, "cli.operators.quarantine_discard", "discard", "discard rejected inputs permanently")
    _selected_inputs(_with_confirmation(discard))
    resume = _with_operator(_add(commands, "cli.operators.quarantine_resume", "resume", "resume a paused topic"))
    resume.add_argument("topic", metavar="TOPIC")


def _add_batches(commands: Commands) -> None:
    listing = _with_pages(
        _add(commands, "cli.operators.batches_list", "list", "list registered batches in the order of their ids")
    )
    listing.add_argument("--state", choices=("registered", "ready", "failed"), help="only in this state")
    listing.add_argument("--user", type=_short_text, metavar="USER", help="only of this user")
    listing.add_argument("--after", type=_short_text, metavar="BATCH", help=f"only batches after this one; {_CURSOR}")
    _age_filters(listing)
    show = _with_pages(_add(commands, "cli.operators.batches_show", "show", "show one batch and its slots"))
    show.add_argument("batch", type=_short_text, metavar="BATCH")
    show.add_argument(
        "--after", type=_position, default=0, metavar="POSITION", help=f"only slots after this one; {_CURSOR}"
    )
    republish = _add(
        commands, "cli.operators.batches_republish", "republish", "publish the events of a complete batch again"
    )
    _with_operator(republish).add_argument("batch", type=_short_text, metavar="BATCH")


def _selected_inputs(command: argparse.ArgumentParser) -> None:
    command.add_argument("ids", type=_id, metavar="ID", nargs="*", help="ids of rejected inputs")
    command.add_argument("--all", action="store_true", help="all open inputs")
    _quarantine_filters(command)


def _quarantine_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--topic", type=_short_text, help="only of this topic")
    command.add_argument("--reason", type=_short_text, metavar="WORD", help="only with this reason")
    _age_filters(command)


# -- options that several commands share


def _group(commands: Commands, name: str, help_text: str) -> Commands:
    return commands.add_parser(name, help=help_text).add_subparsers(required=True, metavar="COMMAND")


def _add(commands: Commands, function: str, name: str, help_text: str) -> argparse.ArgumentParser:
    module, command = function.rsplit(".", 1)
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + "."
    )
    added.set_defaults(module=module, command=command)
    return added


def _with_json(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")
    return command


def _with_pages(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument(
        "--limit", type=_page, default=50, metavar="N", help="maximum number of rows (default 50, at most 1000)"
    )
    return _with_json(command)


def _pending_filters(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument(
        "--file", type=_short_text, metavar="TEXT", help="only if the file name contains this text, in any case"
    )
    return _age_filters(command)


def _age_filters(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--older-than", type=_age, metavar="AGE", help="only what is older than this: 90s, 5m, 2h, 1d")
    command.add_argument("--newer-than", type=_age, metavar="AGE", help="only what is newer than this")
    return command


def _with_operator(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options that the log of operator actions records."""
    command.add_argument(
        "--why", type=_reason, default="", metavar="TEXT", help="reason, for the log of operator actions"
    )
    command.add_argument(
        "--who", type=_short_text, metavar="NAME", help="name for the same log (default: this account)"
    )
    return command


def _with_confirmation(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of a command that asks for confirmation before it removes something."""
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    return _with_operator(command)
