"""Formats the snapshots of several cells for `top`: a line for each, their total, and what needs an action in which."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.cli.dashboard import COLOURS, age, as_json, count, latest, speed_text
from service.cli.output import cell
from service.cli.snapshots import Rates, Snapshot

FRAMES = 10
"""Lines of the frames, and of the head and the total of the table."""

_LEVELS = ("fine", "notice", "action needed")

_COLUMNS = ("cell", "state", "behind", "published", "outbox", "oldest", "waiting", "quarantine", "relays")

_SUMS = ("pending", "outbox_rows", "outbox_blocked", "quarantine_open", "relays")
"""Numbers of ops.health whose sum over all cells means something."""


def screen_of_cells(snapshots: Sequence[Snapshot], speeds: Sequence[Rates], lines: int) -> RenderableType:
    """Format the snapshots of all cells for people, in about so many lines."""
    attention = _attention(snapshots)
    room = max(2, (lines - FRAMES - len(snapshots)) // 2)
    events = sorted(_events(snapshots), key=lambda event: event["at"], reverse=True)
    shown = attention[:room]
    if len(attention) > room:
        shown[-1] = f"and {len(attention) - room + 1} more: els top --once --json"
    level = worst(snapshots)
    text = Text("\n".join(map(cell, shown or [level])), style=f"bold {COLOURS[level]}")
    verdict = Panel(text, title=level if shown else None, title_align="left", border_style=COLOURS[level])
    left = max(1, lines - FRAMES - len(snapshots) - len(shown or [level]))
    return Group(verdict, _table(snapshots, speeds), latest(events[:left]))


def worst(snapshots: Sequence[Snapshot], *, with_broker: bool = True) -> str:
    """Returns the level of all cells together: that of the worst. A broker that is down needs an action."""
    if with_broker and any(snapshot.broker_error for snapshot in snapshots):
        return "action needed"
    return max((snapshot.level for snapshot in snapshots), key=_LEVELS.index)


def cells_as_json(snapshots: Sequence[Snapshot], speeds: Sequence[Rates]) -> dict[str, Any]:
    """Returns the snapshots as an object for scripts. Its fields are a contract."""
    level = worst(snapshots, with_broker=False)  # as of one database
    return {
        "level": level,
        "well": level != "action needed",
        "attention": _attention(snapshots, with_broker=False),
        "broker": snapshots[0].broker_error,
        "down": [each.of.cell for each in snapshots if each.health is None],
        "total": {name: _sum(snapshots, name) for name in _SUMS},
        "rates": _total(speeds),
        "lag": _lag(snapshots),
        "cells": [
            {"cell": snapshot.of.cell, **as_json(snapshot, speed)}
            for snapshot, speed in zip(snapshots, speeds, strict=True)
        ],
    }


def _attention(snapshots: Sequence[Snapshot], *, with_broker: bool = True) -> list[str]:
    """Returns what needs an action in any cell, then the notices of all."""
    broker = snapshots[0].broker_error
    found = [f"the broker is unavailable: {broker}"] if broker and with_broker else []
    for level in reversed(_LEVELS):
        found += [
            f"cell {each.of.cell}: {line}" for each in snapshots if each.level == level for line in each.attention
        ]
    return found


def _events(snapshots: Sequence[Snapshot]) -> list[Mapping[str, Any]]:
    return [
        {**event, "about": f"{snapshot.of.cell}: {event['about']}"}
        for snapshot in snapshots
        for event in snapshot.events
    ]


def _table(snapshots: Sequence[Snapshot], speeds: Sequence[Rates]) -> RenderableType:
    table = Table(box=None, expand=True, header_style="cyan", pad_edge=False, padding=(0, 1, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for snapshot, speed in zip(snapshots, speeds, strict=True):
        health = snapshot.health or {}
        state = "DOWN" if snapshot.health is None else snapshot.level
        table.add_row(
            str(snapshot.of.cell),
            Text(state, style=COLOURS[snapshot.level]),
            _lag_text([snapshot]),
            speed_text(speed.published),
            count(health, "outbox_rows"),
            age(health.get("at"), health.get("oldest_outbox_row")),
            count(health, "pending"),
            count(health, "quarantine_open"),
            count(health, "relays"),
        )
    level = worst(snapshots)
    table.add_row(
        "all",
        Text(level, style=COLOURS[level]),
        _lag_text(snapshots),
        speed_text(_total(speeds)["published"]),
        *(f"{_sum(snapshots, 'outbox_rows'):,}", ""),
        *(f"{_sum(snapshots, name):,}" for name in ("pending", "quarantine_open", "relays")),
        style="bold",
    )
    down = sum(each.health is None for each in snapshots)
    title = f"cells: {down} of {len(snapshots)} are down, and not in the total" if down else f"cells: {len(snapshots)}"
    return Panel(table, title=title, title_align="left")


def _sum(snapshots: Sequence[Snapshot], name: str) -> int:
    return sum(int(each.health[name]) for each in snapshots if each.health is not None)


def _lag(snapshots: Sequence[Snapshot]) -> int | None:
    """Returns how many records the cells have still to read, each of which reads all; None where it is not known."""
    lags = [sum(each.offsets.lag.values()) for each in snapshots if each.offsets is not None]
    return sum(lags) if lags else None


def _lag_text(snapshots: Sequence[Snapshot]) -> str:
    lag = _lag(snapshots)
    return "?" if lag is None else f"{lag:,}"


def _total(speeds: Sequence[Rates]) -> dict[str, float | None]:
    """Returns the rates of all cells together. All read the same records, so what arrives is not summed."""
    written = [each.written for each in speeds if each.written is not None]
    published = [each.published for each in speeds if each.published is not None]
    arriving = next((each.arriving for each in speeds if each.arriving is not None), None)
    return {
        "arriving": arriving,
        "written": sum(written) if written else None,
        "published": sum(published) if published else None,
    }
