"""Reads the overview: the verdict in words, what needs action and what to do, and the plots of the last hour."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from service.console.pages.reads import ConsolePage, Query, Reads
from service.console.samples import PLOTS
from service.operators.errors import OperationError

HELP: Final[Mapping[str, tuple[str, str]]] = {
    "recovery": ("system", "run `els recover`"),
    "incomplete_batches": ("system", "have the registrations sent again, then run `els recover`"),
    "broker": ("system", "see which pods"),
    "pods": ("system", "see which pods, and why"),
    "consumers": ("system", "see the pods, and start one with the role consumer"),
    "lag": ("topics", "see which partition does not move"),
    "purge": ("system", "see the pods, and start one with the role purge"),
    "clocks": ("do/health-acknowledge", "acknowledge it, if the clocks are right now"),
    "open_transaction": ("topics", "see which partition waits, and end the producer's transaction"),
    "progress": ("topics", "see which partition is not applied"),
    "paused_topics": ("topics", "see why the topic is paused, then resume it"),
    "output_topics": ("topics", "stop the relays, then use the added partitions"),
    "relays": ("system", "see the pods, and start one with the role relay"),
    "outbox": ("outbox", "see which events wait"),
    "outbox_blocked": ("outbox", "see which batches are blocked, and why"),
    "quarantine": ("quarantine", "see why inputs were rejected, then replay or discard them"),
    "pending_content": ("waiting", "see which registrations are missing"),
    "confirmations": ("late", "see which classes are not confirmed"),
    "transactions": ("system", "end the old transaction in the database"),
    "replication_slots": ("system", "drop the replication slot, or start who uses it"),
    "standbys": ("system", "look at the standby"),
    "lost_inputs": ("topics", "see what was lost, then acknowledge it"),
    "expired_content": ("waiting", "see what expired, and restore it"),
    "late_batches": ("late", "see which uploads are missing"),
    "servers": ("do/health-acknowledge", "acknowledge it"),
}
"""The page that helps with a kind of lines of ops.health, and what to do."""


_VIEW: Final = re.compile(r": (?:ops\.|pg_)[a-z_]+(?= and |$)")

CELL_STATE_SECONDS: Final = 5.0
"""How long the overview waits for one of several cells."""


class Line(NamedTuple):
    """A line of the verdict: what is so, its runbook, the page that helps, and what to do there."""

    text: str
    runbook: str
    page: str
    to_do: str


def lines(conditions: Sequence[str], kinds: Sequence[str]) -> list[Line]:
    """Take the lines of ops.health apart, without the views that they name: the page that helps is linked."""
    found = []
    for condition, kind in zip(conditions, kinds, strict=True):
        text, runbook = re.fullmatch(r"(.*?)(?: \(docs/([^()]+)\))?", condition, re.DOTALL).groups("")  # type: ignore[union-attr]
        text = _VIEW.sub("", text).replace("run health acknowledge clocks", "acknowledge it")
        found.append(Line(text, runbook, *HELP.get(kind, ("system", "see the runbook"))))
    return found


class CellState(NamedTuple):
    """What the overview shows of one of several cells."""

    cell: int
    health: Mapping[str, Any] | None
    """None where it cannot be read."""
    lag: int | None


_TOTALS: Final = ("pending", "quarantine_open", "topics_stopped", "outbox_rows", "outbox_blocked", "relays")


async def _overview_of_all(cells: Mapping[int, Reads], _: Query) -> Mapping[str, Any]:
    states = await asyncio.gather(*(_state(cell, reads) for cell, reads in cells.items()))
    known = [each.health for each in states if each.health]
    lags = [each.lag for each in states if each.lag is not None]
    conditions = [
        (each.cell, line, kind)
        for each in states
        if each.health
        for kind in ("actions", "notices")
        for line in lines(each.health[kind], each.health[f"{kind[:-1]}_kinds"])
    ]
    return {
        "states": states,
        "total": {name: sum(health[name] for health in known) for name in _TOTALS}
        | {"lag": sum(lags) if lags else None},
        "actions": [(cell, line) for cell, line, kind in conditions if kind == "actions"],
        "notices": [(cell, line) for cell, line, kind in conditions if kind == "notices"],
    }


async def _state(cell: int, reads: Reads) -> CellState:
    health, lag = await asyncio.gather(_health_in_time(reads), _lag(reads))
    return CellState(cell, health, lag)


async def _health_in_time(reads: Reads) -> Mapping[str, Any] | None:
    with suppress(OperationError, TimeoutError):  # the page says so, as all do
        async with asyncio.timeout(CELL_STATE_SECONDS):
            return await reads.health()
    return None


async def _lag(reads: Reads) -> int | None:
    """Returns how many records a cell has not read yet; None where that is not known."""
    if reads.samples:
        lag = reads.samples.latest()["lag"]
        return None if lag is None else int(lag)
    offsets = await reads.broker()
    return None if offsets is None else sum(offsets.lag.values())


async def _overview(reads: Reads, _: Query) -> Mapping[str, Any]:
    health = None
    with suppress(OperationError):  # the page says so, as all do
        health = await reads.health()
    return {
        "health": health,
        "actions": lines(health["actions"], health["action_kinds"]) if health else [],
        "notices": lines(health["notices"], health["notice_kinds"]) if health else [],
        "plots": PLOTS if reads.samples else {},
        "latest": reads.samples.latest() if reads.samples else {"lag": await _lag(reads)},
        "begin": reads.samples.begin if reads.samples else None,
    }


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage(
            "",
            "Overview",
            "overview.html",
            _overview,
            shows_persons=False,
            needs_database=False,
            read_all=_overview_of_all,
            template_of_all="cells.html",
        ),
    )
