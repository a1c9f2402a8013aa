"""Reads the overview: the verdict in words, what needs action and what to do, and the plots of the last hour."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.console.pages.reads import ConsolePage, Query, Reads
from service.console.samples import PLOTS
from service.operators.errors import OperationError

WHERE: Final[Mapping[str, tuple[str, str]]] = {
    "ops.pending_batches": ("waiting", "see which registrations are missing"),
    "ops.expired_content": ("waiting", "see what expired, and restore it"),
    "ops.quarantine": ("quarantine", "see why inputs were rejected, then replay or discard them"),
    "ops.stopped_topics": ("topics", "see why the topic is paused, then resume it"),
    "ops.lost_inputs": ("topics", "see what was lost, then acknowledge it"),
    "ops.progress": ("topics", "see which partition is behind"),
    "ops.output_topics": ("system", "see what the check says of the topics"),
    "ops.outbox_backlog": ("outbox", "see which events wait"),
    "ops.outbox_blocked": ("outbox", "see which batches are blocked, and why"),
    "ops.batches": ("late", "see which batches are not finished"),
    "no pod publishes events": ("system", "start a pod with the role relay"),
    "health acknowledge": ("do/health-acknowledge", "acknowledge it, where it is correct"),
    "run recover": ("system", "run `els recover` (docs/recovery.md)"),
    "pg_stat_activity": ("system", "end the old transaction in the database"),
}
"""What to do about a line of ops.health that contains this text: a page, and what to do there."""


def advice(line: str) -> tuple[str, str] | None:
    """Returns the page that helps with a line of ops.health, and what to do there."""
    return next((where for text, where in WHERE.items() if re.search(rf"{re.escape(text)}\b", line)), None)


async def _overview(reads: Reads, _: Query) -> Mapping[str, Any]:
    health, error = None, None
    try:
        health = await reads.health()
    except OperationError as unavailable:
        error = str(unavailable)
    actions, notices = _lines(health) if health else ([], [])
    return {
        "health": health,
        "error": error,
        "actions": [(line, advice(line)) for line in actions],
        "notices": [(line, advice(line)) for line in notices],
        "plots": PLOTS,
        "latest": reads.samples.latest(),
        "begin": reads.samples.begin,
    }


def _lines(health: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Returns what needs action, and what only should be seen."""
    return list(health["attention"]), []


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (ConsolePage("", "Overview", "overview.html", _overview, shows_persons=False),)
