"""Defines the command line of `els` (`python -m service`). Imports only what `--help` needs, so that it stays quick.

Parsed options name the function of a command by `module` and `command`; it is called with the settings and the options.
"""

import argparse
import sys
from pathlib import Path

from service import __version__
from service.cli.arguments import (
    Commands,
    add,
    age_filters,
    group,
    interval,
    pending_cursor,
    pending_filters,
    position,
    row_id,
    short_text,
    with_confirmation,
    with_json,
    with_operator,
    with_pages,
)

_CURSOR = "the cursor for the next page is printed on standard error"


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
        group(commands, "pending", "show and change content that waits for the registration of its batch, or expired")
    )
    _add_quarantine(
        group(commands, "quarantine", "show, replay and discard rejected inputs (dead letters); resume paused topics")
    )
    _add_batches(group(commands, "batches", "show registered batches; publish their events again"))
    return whole


def _program() -> str:
    """Returns the name under which the user started this process, for usage lines."""
    return "els" if sys.argv[0].rpartition("/")[2] == "els" else "python -m service"


def _add_process(commands: Commands) -> None:
    run = add(commands, "cli.commands.run", "run", "run a pod (one process of the service) until SIGTERM")
    run.add_argument(
        "--roles",
        default="",
        metavar="ROLE,…",
        help="run only these of the roles consumer, relay and purge (default: all)",
    )
    run.add_argument(
        "--replay",
        action="store_true",
        help="only read all inputs once more, in a consumer group of its own: what was missed is applied",
    )
    relay = add(
        commands,
        "cli.commands.relay",
        "relay",
        "run a pod that only publishes the outbox (events that wait for Kafka), until SIGTERM",
    )
    relay.add_argument(
        "--once", action="store_true", help="publish what is in the outbox, then end; exit status 1 if rows remain"
    )
    add(
        commands,
        "cli.commands.migrate",
        "migrate",
        "migrate the schema, views and grants of the database to this version",
    )
    with_json(
        add(
            commands,
            "cli.environment.check",
            "check",
            "check settings, connections, schema, topics, rights and retentions",
        )
    )
    purge = add(
        commands,
        "cli.commands.purge_now",
        "purge",
        "run one purge round now: expire content, report late batches and delete old rows",
    )
    with_json(purge).add_argument("--dry-run", action="store_true", help="only count what is due; change nothing")
    recover = add(
        commands,
        "cli.recovery.recover",
        "recover",
        "bring a database that is behind its topics, or empty, up to date with them",
    )
    recover.add_argument(
        "--accept-unknown",
        action="store_true",
        help="recover although the output topics do not reach back to the time of the database",
    )
    recover.add_argument(
        "--acts",
        type=Path,
        metavar="FILE",
        help="operator actions of the lost time, a JSON object a line (of ops.operator_actions): list what to repeat",
    )
    recover.add_argument("--abandon", action="store_true", help="end a recovery that has begun, without finishing it")
    recover.add_argument(
        "--fresh", action="store_true", help="the database is empty on purpose: apply all inputs as new ones"
    )
    recover.add_argument("--dry-run", action="store_true", help="only report what would be done; change nothing")
    with_operator(with_json(recover))
    audit = add(
        commands, "cli.commands.audit_all", "audit", "compare input topics, tables and output topics; list violations"
    )
    with_pages(audit, "violations to list").add_argument(
        "--whole",
        action="store_true",
        help="report records that are missing from the topics as violations; only if no record was ever deleted",
    )
    top = with_json(
        add(commands, "cli.top.top", "top", "show the state of the whole service and keep it up to date; q ends it")
    )
    top.add_argument(
        "--interval", type=interval, default=2, metavar="SECONDS", help="time between two updates (default 2)"
    )
    top.add_argument(
        "--once", action="store_true", help="show it once and end; exit status 1 if something needs attention"
    )
    top.add_argument("--svg", metavar="FILE", help="with --once: also write the screen to an SVG file")
    health = group(commands, "health", "mark notices of ops.health as seen")
    acknowledge = add(
        health,
        "cli.operators.health_acknowledge",
        "acknowledge",
        "mark as seen: lost inputs, and clocks that hold the purge",
    )
    acknowledge.add_argument("ids", type=row_id, metavar="ID", nargs="*", help="only these lost inputs (default: all)")
    with_operator(acknowledge)
    send = add(
        commands,
        "cli.sending.send",
        "send",
        "publish events to the input topics, as the neighbouring services do; for trying it out",
    )
    send.add_argument(
        "file", metavar="FILE", help="JSON: one event, or several one after the other; - reads standard input"
    )
    send.add_argument("--force", action="store_true", help="also publish what the service will reject")
    with_json(send)
    topics = group(commands, "topics", "create and alter the Kafka topics of the service")
    with_json(
        add(
            topics,
            "cli.topics.topics_create",
            "create",
            "create missing topics; report existing ones that have too few replicas or take too small records",
        )
    )
    alter = add(
        topics,
        "cli.topics.topics_alter",
        "alter",
        "raise replicas and sizes of existing topics to what is needed; exit status 1 if something remains to be done",
    )
    with_json(alter).add_argument(
        "--dry-run", action="store_true", help="only show what would be altered (exit status 1 if anything)"
    )
    with_json(
        add(
            topics,
            "cli.topics.topics_adopt",
            "adopt",
            "publish to the partitions, too, that were added to the output topics; stop the relays before",
        )
    )


def _add_pending(pending: Commands) -> None:
    listing = with_pages(
        add(
            pending,
            "cli.operators.pending_list",
            "list",
            "list pending, expired or removed content, the longest waiting first",
        )
    )
    listing.add_argument("--batch", type=short_text, help="only of this batch")
    listing.add_argument(
        "--state",
        choices=("pending", "expired", "removed"),
        default="pending",
        help="state of the content (default pending)",
    )
    listing.add_argument(
        "--after",
        type=pending_cursor,
        metavar="TIME/ARRIVAL",
        help=f"only rows after this one (waiting_since/arrival); {_CURSOR}",
    )
    pending_filters(listing)
    show = with_json(add(pending, "cli.operators.pending_show", "show", "show one text (content) with all its fields"))
    show.add_argument("batch", type=short_text, metavar="BATCH")
    show.add_argument("text", type=short_text, metavar="TEXT_STORAGE_ID")
    remove = with_confirmation(
        add(
            pending,
            "cli.operators.pending_remove",
            "remove",
            "remove single texts that are pending or expired; cannot be undone",
        )
    )
    remove.add_argument("batch", type=short_text, metavar="BATCH")
    remove.add_argument("texts", type=short_text, metavar="TEXT_STORAGE_ID", nargs="+")
    clear = with_confirmation(
        add(
            pending,
            "cli.operators.pending_clear",
            "clear",
            "remove all pending and expired content of a batch, or what matches the filters; cannot be undone",
        )
    )
    clear.add_argument("batch", type=short_text, metavar="BATCH")
    pending_filters(clear)
    restore = with_json(
        add(
            pending,
            "cli.operators.pending_restore",
            "restore",
            "make expired content and failures pending again: of a batch, what matches the filters, or all",
        )
    )
    restore.add_argument(
        "batch", type=short_text, metavar="BATCH", nargs="?", help="only of this batch; or give --all or a filter"
    )
    restore.add_argument(
        "texts",
        type=short_text,
        metavar="TEXT_STORAGE_ID",
        nargs="*",
        help="only these texts (default: all that expired, failures included)",
    )
    restore.add_argument("--all", action="store_true", help="all that expired, of all batches")
    restore.add_argument("--dry-run", action="store_true", help="only count what matches; change nothing")
    pending_filters(with_operator(restore), "expired")


def _add_quarantine(commands: Commands) -> None:
    listing = with_pages(
        add(commands, "cli.operators.quarantine_list", "list", "list rejected inputs, the newest first")
    )
    _quarantine_filters(listing)
    listing.add_argument("--state", choices=("open", "replayed", "discarded"), help="only in this state (default: all)")
    listing.add_argument("--before", type=row_id, metavar="ID", help=f"only ids below this one; {_CURSOR}")
    show = with_json(
        add(commands, "cli.operators.quarantine_show", "show", "show one rejected input with all its fields")
    )
    show.add_argument("id", type=row_id, metavar="ID")
    replay = with_json(
        add(
            commands,
            "cli.operators.quarantine_replay",
            "replay",
            "process open rejected inputs again like new ones, the oldest first",
        )
    )
    _selected_inputs(with_operator(replay))
    # How an input that has killed a process is replayed: by such a command, which may be killed.
    replay.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    discard = add(
        commands,
        "cli.operators.quarantine_discard",
        "discard",
        "close open rejected inputs without processing them; cannot be undone",
    )
    _selected_inputs(with_confirmation(discard))
    resume = with_operator(
        add(
            commands,
            "cli.operators.quarantine_resume",
            "resume",
            "resume a topic that was paused after rejections",
        )
    )
    resume.add_argument("topic", metavar="TOPIC")
    resume.add_argument(
        "--skip-refused",
        action="store_true",
        help="do not pause it again before the next valid record, however many are rejected (they go to quarantine)",
    )


def _add_batches(commands: Commands) -> None:
    listing = with_pages(
        add(commands, "cli.operators.batches_list", "list", "list registered batches in the order of their ids")
    )
    listing.add_argument(
        "--state", choices=("registered", "complete", "ready", "failed"), help="only in this state (default: all)"
    )
    listing.add_argument("--user", type=short_text, metavar="USER", help="only batches that this user registered")
    listing.add_argument("--after", type=short_text, metavar="BATCH", help=f"only batches after this one; {_CURSOR}")
    age_filters(listing, "registered")
    show = with_pages(add(commands, "cli.operators.batches_show", "show", "show one batch and its slots"), "slots")
    show.add_argument("batch", type=short_text, metavar="BATCH")
    show.add_argument(
        "--after", type=position, default=0, metavar="POSITION", help=f"only slots after this one; {_CURSOR}"
    )
    republish = add(
        commands,
        "cli.operators.batches_republish",
        "republish",
        "publish again what a full batch announced: its validation errors, its completion, and that it is ready",
    )
    with_operator(republish).add_argument("batch", type=short_text, metavar="BATCH")


def _selected_inputs(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "ids", type=row_id, metavar="ID", nargs="*", help="ids of rejected inputs; or give --all or a filter"
    )
    command.add_argument("--all", action="store_true", help="all open rejected inputs")
    _quarantine_filters(command)


def _quarantine_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--topic", type=short_text, help="only of this topic")
    command.add_argument(
        "--reason", type=short_text, metavar="REASON", help="only with this reason; docs/events.md lists the reasons"
    )
    age_filters(command, "first rejected")


# -- options that several commands share
