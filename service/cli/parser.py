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

_CURSOR = "the cursor for the next page is printed on standard error"


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
        epilog="Settings are environment variables, see docs/configuration.md. Exit status: 0 done; 1 failed, or done "
        "only in part (the last line on standard error says why); 2 the command line or a setting is wrong; 130 "
        "interrupted; 143 ended by SIGTERM (a pod finishes its work on SIGTERM and exits with 0).",
    )
    whole.add_argument("--version", action="version", version=f"els {__version__}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    _add_process(commands)
    _add_pending(
        _group(commands, "pending", "show and change content that waits for the registration of its batch, or expired")
    )
    _add_quarantine(
        _group(commands, "quarantine", "show, replay and discard rejected inputs (dead letters); resume paused topics")
    )
    _add_batches(_group(commands, "batches", "show registered batches; publish their events again"))
    return whole


def _program() -> str:
    """Returns the name under which the user started this process, for usage lines."""
    return "els" if sys.argv[0].rpartition("/")[2] == "els" else "python -m service"


def _add_process(commands: Commands) -> None:
    run = _add(commands, "cli.commands.run", "run", "run a pod (one process of the service) until SIGTERM")
    run.add_argument(
        "--roles",
        default="",
        metavar="ROLE,…",
        help="run only these of the roles consumer, relay and purge (default: all)",
    )
    relay = _add(
        commands,
        "cli.commands.relay",
        "relay",
        "run a pod that only publishes the outbox (events that wait for Kafka), until SIGTERM",
    )
    relay.add_argument(
        "--once", action="store_true", help="publish what is in the outbox, then end; exit status 1 if rows remain"
    )
    _add(
        commands,
        "cli.commands.migrate",
        "migrate",
        "migrate the schema, views and grants of the database to this version",
    )
    _with_json(
        _add(commands, "cli.commands.check", "check", "check settings, connections, schema, topics and retentions")
    )
    purge = _add(
        commands,
        "cli.commands.purge_now",
        "purge",
        "run one purge round now: expire content, report late batches and delete old rows",
    )
    _with_json(purge).add_argument("--dry-run", action="store_true", help="only count what is due; change nothing")
    audit = _add(
        commands, "cli.commands.audit_all", "audit", "compare input topics, tables and output topics; list violations"
    )
    _with_pages(audit, "violations to list").add_argument(
        "--whole",
        action="store_true",
        help="report records that are missing from the topics as violations; only if no record was ever deleted",
    )
    top = _with_json(
        _add(commands, "cli.top.top", "top", "show the state of the whole service and keep it up to date; q ends it")
    )
    top.add_argument(
        "--interval", type=_interval, default=2, metavar="SECONDS", help="time between two updates (default 2)"
    )
    top.add_argument(
        "--once", action="store_true", help="show it once and end; exit status 1 if something needs attention"
    )
    top.add_argument("--svg", metavar="FILE", help="with --once: also write the screen to an SVG file")
    topics = _group(commands, "topics", "create the Kafka topics of the service")
    _with_json(
        _add(
            topics,
            "cli.commands.topics_create",
            "create",
            "create missing topics; report existing ones whose configuration is too small",
        )
    )


def _add_pending(pending: Commands) -> None:
    listing = _with_pages(
        _add(
            pending,
            "cli.operators.pending_list",
            "list",
            "list pending, expired or removed content, the longest waiting first",
        )
    )
    listing.add_argument("--batch", type=_short_text, help="only of this batch")
    listing.add_argument(
        "--state",
        choices=("pending", "expired", "removed"),
        default="pending",
        help="state of the content (default pending)",
    )
    listing.add_argument(
        "--after",
        type=_pending_cursor,
        metavar="TIME/ARRIVAL",
        help=f"only rows after this one (waiting_since/arrival); {_CURSOR}",
    )
    _pending_filters(listing)
    show = _with_json(
        _add(pending, "cli.operators.pending_show", "show", "show one text (content) with all its fields")
    )
    show.add_argument("batch", type=_short_text, metavar="BATCH")
    show.add_argument("text", type=_short_text, metavar="TEXT_STORAGE_ID")
    remove = _with_confirmation(
        _add(
            pending,
            "cli.operators.pending_remove",
            "remove",
            "remove single texts that are pending or expired; cannot be undone",
        )
    )
    remove.add_argument("batch", type=_short_text, metavar="BATCH")
    remove.add_argument("texts", type=_short_text, metavar="TEXT_STORAGE_ID", nargs="+")
    clear = _with_confirmation(
        _add(
            pending,
            "cli.operators.pending_clear",
            "clear",
            "remove all pending and expired content of a batch, or what matches the filters; cannot be undone",
        )
    )
    clear.add_argument("batch", type=_short_text, metavar="BATCH")
    _pending_filters(clear)
    restore = _with_json(
        _add(
            pending,
            "cli.operators.pending_restore",
            "restore",
            "make expired content and failures pending again: of a batch, what matches the filters, or all",
        )
    )
    restore.add_argument(
        "batch", type=_short_text, metavar="BATCH", nargs="?", help="only of this batch; or give --all or a filter"
    )
    restore.add_argument(
        "texts",
        type=_short_text,
        metavar="TEXT_STORAGE_ID",
        nargs="*",
        help="only these texts (default: all that expired, failures included)",
    )
    restore.add_argument("--all", action="store_true", help="all that expired, of all batches")
    restore.add_argument("--dry-run", action="store_true", help="only count what matches; change nothing")
    _pending_filters(_with_operator(restore), "expired")


def _add_quarantine(commands: Commands) -> None:
    listing = _with_pages(
        _add(commands, "cli.operators.quarantine_list", "list", "list rejected inputs, the newest first")
    )
    _quarantine_filters(listing)
    listing.add_argument("--state", choices=("open", "replayed", "discarded"), help="only in this state (default: all)")
    listing.add_argument("--before", type=_id, metavar="ID", help=f"only ids below this one; {_CURSOR}")
    show = _with_json(
        _add(commands, "cli.operators.quarantine_show", "show", "show one rejected input with all its fields")
    )
    show.add_argument("id", type=_id, metavar="ID")
    replay = _with_json(
        _add(
            commands,
            "cli.operators.quarantine_replay",
            "replay",
            "process open rejected inputs again like new ones, the oldest first",
        )
    )
    _selected_inputs(_with_operator(replay))
    discard = _add(
        commands,
        "cli.operators.quarantine_discard",
        "discard",
        "close open rejected inputs without processing them; cannot be undone",
    )
    _selected_inputs(_with_confirmation(discard))
    resume = _with_operator(
        _add(
            commands,
            "cli.operators.quarantine_resume",
            "resume",
            "resume a topic that was paused after consecutive rejections",
        )
    )
    resume.add_argument("topic", metavar="TOPIC")


def _add_batches(commands: Commands) -> None:
    listing = _with_pages(
        _add(commands, "cli.operators.batches_list", "list", "list registered batches in the order of their ids")
    )
    listing.add_argument("--state", choices=("registered", "ready", "failed"), help="only in this state (default: all)")
    listing.add_argument("--user", type=_short_text, metavar="USER", help="only batches that this user registered")
    listing.add_argument("--after", type=_short_text, metavar="BATCH", help=f"only batches after this one; {_CURSOR}")
    _age_filters(listing, "registered")
    show = _with_pages(_add(commands, "cli.operators.batches_show", "show", "show one batch and its slots"), "slots")
    show.add_argument("batch", type=_short_text, metavar="BATCH")
    show.add_argument(
        "--after", type=_position, default=0, metavar="POSITION", help=f"only slots after this one; {_CURSOR}"
    )
    republish = _add(
        commands,
        "cli.operators.batches_republish",
        "republish",
        "publish BatchEssaysReady and BatchValidationErrors of a complete batch again",
    )
    _with_operator(republish).add_argument("batch", type=_short_text, metavar="BATCH")


def _selected_inputs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "ids", type=_id, metavar="ID", nargs="*", help="ids of rejected inputs; or give --all or a filter"
    )
    command.add_argument("--all", action="store_true", help="all open rejected inputs")
    _quarantine_filters(command)


def _quarantine_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--topic", type=_short_text, help="only of this topic")
    command.add_argument(
        "--reason", type=_short_text, metavar="REASON", help="only with this reason; docs/events.md lists the reasons"
    )
    _age_filters(command, "first rejected")


# -- options that several commands share


def _group(commands: Commands, name: str, help_text: str) -> Commands:
    return commands.add_parser(name, help=help_text, description=_sentence(help_text)).add_subparsers(
        required=True, metavar="COMMAND"
    )


def _add(commands: Commands, function: str, name: str, help_text: str) -> argparse.ArgumentParser:
    module, command = function.rsplit(".", 1)
    added: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=_sentence(help_text))
    added.set_defaults(module=module, command=command)
    return added


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _with_json(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument("--json", action="store_true", help="print JSON, for scripts")
    return command


def _with_pages(command: argparse.ArgumentParser, rows: str = "rows") -> argparse.ArgumentParser:
    command.add_argument(
        "--limit", type=_page, default=50, metavar="N", help=f"maximum number of {rows} (default 50, at most 1000)"
    )
    return _with_json(command)


def _pending_filters(command: argparse.ArgumentParser, since: str = "stored") -> argparse.ArgumentParser:
    command.add_argument(
        "--file", type=_short_text, metavar="TEXT", help="only if the file name contains this text, upper or lower case"
    )
    return _age_filters(command, since)


def _age_filters(command: argparse.ArgumentParser, since: str) -> argparse.ArgumentParser:
    command.add_argument(
        "--older-than", type=_age, metavar="AGE", help=f"only what was {since} longer ago than this (90s, 5m, 2h, 1d)"
    )
    command.add_argument("--newer-than", type=_age, metavar="AGE", help=f"only what was {since} within this time")
    return command


def _with_operator(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options that the log of operator actions records."""
    command.add_argument(
        "--why", type=_reason, default="", metavar="TEXT", help="why you do this, for the log of operator actions"
    )
    command.add_argument(
        "--who",
        type=_short_text,
        metavar="NAME",
        help="who you are, for the same log (default: the name of this account)",
    )
    return command


def _with_confirmation(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options of a command that asks for confirmation before it removes something."""
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    return _with_operator(command)
