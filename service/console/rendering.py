"""Renders the templates of the console. Everything from outside is escaped, and made harmless for the eye."""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from service import __version__
from service.console import wording
from service.runtime.text import plain_lines

FOLDER: Final = Path(__file__).parent

_RUNBOOK: Final = re.compile(r"docs/([a-z]+\.md#[a-z0-9-]+)")

CURRENT_CELL: Final[ContextVar[int | None]] = ContextVar("current_cell", default=None)
"""The cell, of several, that the page is about which is rendered now: its links lead to what else that cell has."""

_SPANS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def environment() -> Environment:
    """Build the environment of the templates."""
    jinja = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=_shown,
    )
    jinja.filters |= {"ago": ago, "number": number, "clock": clock, "json": pretty, "exact": exact, "linked": linked}
    jinja.globals |= {"href": href, "current_cell": CURRENT_CELL.get, "version": __version__}
    jinja.globals |= {"outcome": wording.outcome, "facts": wording.facts, "input_of": wording.input_of}
    return jinja


def _shown(value: object) -> object:
    """Remove what could change how the rest of a page is read: control characters, marks of direction."""
    if value is None:
        return "–"
    return plain_lines(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def exact(text: str | None) -> Markup:
    """Returns text for the field of a form, from where it comes back: escaped, and otherwise as it is."""
    return escape(text or "")


def href(path: str, **query: object) -> Markup:
    """Returns the address of a page, with those parameters that are given, and the present cell.

    A batch is shown by the cell that has it.
    """
    given = {name: value for name, value in query.items() if value not in (None, "")}
    if (cell := CURRENT_CELL.get()) is not None and path != "batch":
        given.setdefault("cell", cell)
    address = f"/console/{path}" + (f"?{urlencode(given)}" if given else "")
    return Markup(address.replace("&", "&amp;"))  # noqa: S704  urlencode leaves no other character of HTML


def linked(text: str) -> Markup:
    """Returns text with links to the sections of runbooks that it names, like docs/operations.md#elsoutboxblocked."""
    link = Markup('<a href="{}">the runbook</a>')
    parts = _RUNBOOK.split(plain_lines(text))
    return Markup("").join(
        link.format(href("runbook", name=part)) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


def span(seconds: float) -> str:
    """Returns a duration for people, like 3 min or 2 d 4 h."""
    seconds = max(0, int(seconds))
    for place, (unit, name) in enumerate(_SPANS):
        if seconds >= unit:
            text = f"{seconds // unit} {name}"
            if place < 2 and (rest := seconds % unit // _SPANS[place + 1][0]):
                text += f" {rest} {_SPANS[place + 1][1]}"
            return text
    return "0 s"


def ago(since: datetime | timedelta | None) -> Markup | str:
    """Returns how long ago something was, with its time for who points at it."""
    if since is None:
        return "–"
    if isinstance(since, timedelta):
        return span(since.total_seconds())
    template = Markup('<time datetime="{}" title="{}">{}</time>')
    return template.format(since.isoformat(), clock(since), span((datetime.now(UTC) - since).total_seconds()))


def clock(at: datetime | float | None) -> str:
    """Returns a time in UTC, to the second."""
    if at is None:
        return "–"
    at = datetime.fromtimestamp(at, UTC) if isinstance(at, float) else at.astimezone(UTC)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def number(value: float | None) -> str:
    """Returns a number with separators, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == int(value) or value >= 100 else f"{value:,.1f}"


def pretty(value: Mapping[str, Any] | list[Any] | None) -> str:
    """Returns JSON for people."""
    return "" if not value else orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()
