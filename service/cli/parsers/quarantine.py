"""Defines the options of the commands on rejected inputs."""

import argparse
from datetime import datetime

from service.cli.arguments import (
    CURSOR,
    Commands,
    add,
    age_filters,
    group,
    row_id,
    short_text,
    with_confirmation,
    with_json,
    with_operator,
    with_pages,
)


def add_quarantine(commands: Commands) -> None:
    """Add the commands on rejected inputs."""
    inputs = group(
        commands, "quarantine", "show, edit, replay and discard rejected inputs (dead letters); resume paused topics"
    )
    listing = with_pages(
        add(inputs, "cli.quarantine.quarantine_list", "list", "list rejected inputs, the newest first")
    )
    _quarantine_filters(listing)
    listing.add_argument("--state", choices=("open", "replayed", "discarded"), help="only in this state (default: all)")
    listing.add_argument("--before", type=row_id, metavar="ID", help=f"only ids below this one; {CURSOR}")
    show = with_json(
        add(inputs, "cli.quarantine.quarantine_show", "show", "show one rejected input with all its fields")
    )
    show.add_argument("id", type=row_id, metavar="ID")
    replay = with_json(
        add(
            inputs,
            "cli.quarantine.quarantine_replay",
            "replay",
            "process open rejected inputs again like new ones, the oldest first",
        )
    )
    _selected_inputs(with_operator(replay))
    _apart(replay)
    edit = with_json(
        add(
            inputs,
            "cli.quarantine.quarantine_edit",
            "edit",
            "correct the value of one open rejected input in your editor (VISUAL, EDITOR), process that like a new one,"
            " and close the input with it",
        )
    )
    edit.add_argument("id", type=row_id, metavar="ID")
    edit.add_argument("--file", metavar="FILE", help="take the corrected value from this file (-: standard input)")
    edit.add_argument("--dry-run", action="store_true", help="only validate it, and show how it differs")
    _apart(edit)
    with_operator(edit)
    discard = add(
        inputs,
        "cli.quarantine.quarantine_discard",
        "discard",
        "close open rejected inputs without processing them; cannot be undone",
    )
    _selected_inputs(with_confirmation(discard))
    resume = with_operator(
        add(
            inputs,
            "cli.quarantine.quarantine_resume",
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
    command.add_argument("--batch", type=short_text, help="only of this batch, as far as that could be read")
    command.add_argument("--file", type=short_text, metavar="TEXT", help="only if the file name contains this text")
    command.add_argument(
        "--contains",
        type=short_text,
        metavar="TEXT",
        help="only if key, value or error contain this text, upper or lower case; finds Å also where it is escaped",
    )
    command.add_argument(
        "--release",
        type=short_text,
        metavar="VERSION",
        help="only what this release of the service rejected (unknown: a release before 0.2.0)",
    )
    age_filters(command, "first rejected")


def _apart(command: argparse.ArgumentParser) -> None:
    """Add how an input that has killed a process is replayed: by such a command, which may be killed."""
    command.add_argument("--in-this-process", action="store_true", help=argparse.SUPPRESS)
    command.add_argument("--first-at", type=datetime.fromisoformat, help=argparse.SUPPRESS)
    command.add_argument("--repeated-by", default="", help=argparse.SUPPRESS)
