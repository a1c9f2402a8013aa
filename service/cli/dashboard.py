"""Formats the snapshots of `top`, as text for a terminal or as JSON."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.cli.output import cell
from service.cli.snapshots import Rates, Snapshot
from service.domain.topics import INCOMING_TOPICS

UPPER_LINES = 19
"""Lines above the latest events, frames included."""

COLOURS = {"action needed": "red", "notice": "yellow", "fine": "green"}


def screen(snapshot: Snapshot, speed: Rates, lines: int) -> RenderableType:
    """Format a snapshot for people, in at most so many lines."""
    upper = (_verdict(snapshot), _numbers(snapshot, speed), _lag(snapshot))
    return Group(*upper, latest(snapshot.events[: max(1, lines - UPPER_LINES - len(snapshot.attention))]))


def _verdict(snapshot: Snapshot) -> RenderableType:
    attention, level = snapshot.attention, snapshot.level
    if snapshot.broker_error:
        attention.append(f"the broker is unavailable: {snapshot.broker_error}")
        level = "action needed"
    colour = COLOURS[level]
    text = Text("\n".join(cell(each) for each in attention or [level]), style=f"bold {colour}")
    return Panel(text, title=level if attention else None, title_align="left", border_style=colour)


def _numbers(snapshot: Snapshot, speed: Rates) -> RenderableType:
    table = Table.grid(padding=(0, 4, 0, 1), expand=True)
    health = snapshot.health or {}
    now = health.get("at")
    rows = (
        ("records in", speed_text(speed.arriving), "contents waiting", count(health, "pending")),
        ("outbox rows written", speed_text(speed.written), "for batches", count(health, "batches_waiting")),
        ("outbox rows published", speed_text(speed.published), "longest wait", age(now, health.get("oldest_pending"))),
        (
            "unpublished events",
            count(health, "outbox_rows"),
            "expired in last 24 h",
            count(health, "expired_last_day"),
        ),
        (
            "oldest of them",
            age(now, health.get("oldest_outbox_row")),
            "open in quarantine",
            count(health, "quarantine_open"),
        ),
        ("batches blocked", count(health, "outbox_blocked"), "topics paused", count(health, "topics_stopped")),
        ("relays", count(health, "relays"), "oldest transaction", _span(health.get("oldest_transaction"))),
    )
    for _ in range(2):
        table.add_column(style="cyan")
        table.add_column(justify="right", min_width=12)
    for row in rows:
        table.add_row(*row)
    return Panel(table, title=f"{now:%Y-%m-%d %H:%M:%S}Z" if now else "the database is unavailable", title_align="left")


def _lag(snapshot: Snapshot) -> RenderableType:
    table = Table.grid(padding=(0, 4, 0, 1), expand=True)
    table.add_column(style="cyan")
    table.add_column(justify="right", min_width=12)
    table.add_column(style="red", min_width=8)
    paused = (snapshot.health or {}).get("stopped") or ()
    for topic in INCOMING_TOPICS:
        behind = "?" if snapshot.offsets is None else f"{snapshot.offsets.lag[topic]:,}"
        table.add_row(topic, behind, "PAUSED" if topic in paused else "")
    return Panel(table, title="consumer lag (records behind)", title_align="left")


def latest(events: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Format the latest events."""
    table = Table.grid(padding=(0, 2, 0, 1), expand=True)
    table.add_column(style="dim", width=9)
    table.add_column(width=16, style="cyan")
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    for event in events:
        # Text, not markup: text from producers must not be able to style a terminal.
        cells = (Text(cell(event[name])) for name in ("what", "about", "told"))
        table.add_row(f"{event['at']:%H:%M:%S}Z", *cells)
    return Panel(table, title="latest events", title_align="left")


def count(health: Mapping[str, Any], name: str) -> str:
    """Format a number of ops.health."""
    return f"{health[name]:,}" if health else "?"


def speed_text(rate: float | None) -> str:
    """Format a rate."""
    return "?" if rate is None else f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s"


def age(now: datetime | None, since: datetime | None) -> str:
    """Format how long ago something was, by the clock of the database."""
    return _span(now - since) if now and since else "–"


def _span(span: timedelta | None) -> str:
    """Format a duration in its two largest units, for example "2h 5m"."""
    if span is None:
        return "–"
    seconds = max(0, int(span.total_seconds()))
    for unit, size, less in (("d", 86400, 3600), ("h", 3600, 60), ("m", 60, 1)):
        if seconds >= size:
            smaller = {3600: "h", 60: "m", 1: "s"}[less]
            return f"{seconds // size}{unit} {seconds % size // less}{smaller}"
    return f"{max(0.0, span.total_seconds()):.1f}s"


def as_json(snapshot: Snapshot, speed: Rates) -> dict[str, Any]:
    """Returns the snapshot as an object for scripts. Its fields are a contract."""
    health = dict(snapshot.health) if snapshot.health else None
    if health and health["oldest_transaction"] is not None:
        health["oldest_transaction"] = health["oldest_transaction"].total_seconds()
    return {
        "level": snapshot.level,
        "well": snapshot.level != "action needed",
        "attention": snapshot.attention,
        "broker": snapshot.broker_error,
        "health": health,
        "rates": speed,
        "lag": None if snapshot.offsets is None else snapshot.offsets.lag,
        "events": list(snapshot.events),
    }
