"""What may be said in a parameter, on the command line and over HTTP.

Each takes the text that was written and returns what it means, or raises ValueError with what it must be.
"""

import re
from datetime import datetime

MOST_ROWS = 1000
"""On one page, or of one request."""

LONGEST_ID = 255
LONGEST_REASON = 2000

AGE = "[0-9]{1,9}[smhd]?"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CENTURY = 36_525 * 86400

_LARGEST = 2**63 - 1


def words(text: str) -> str:
    """What PostgreSQL can keep, and no identity is longer."""
    if not 1 <= len(reason(text)) <= LONGEST_ID:
        raise ValueError(f"must have from 1 to {LONGEST_ID} characters")
    return text


def reason(text: str) -> str:
    """Text that PostgreSQL can keep."""
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must be text in UTF-8")
    if len(text) > LONGEST_REASON:
        raise ValueError(f"must have at most {LONGEST_REASON} characters")
    return text


def number(text: str, least: int, most: int) -> int:
    """A number within bounds."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ValueError(f"must be a number from {least} to {most}")
    return value


def row_id(text: str) -> int:
    """The number of a row."""
    return number(text, 1, _LARGEST)


def position(text: str) -> int:
    """Of a slot; 0 is before the first."""
    return number(text, 0, 100_000)


def page(text: str) -> int:
    """How many rows."""
    return number(text, 1, MOST_ROWS)


def interval(text: str) -> int:
    """Seconds between two looks."""
    return number(text, 1, 3600)


def age(text: str) -> float:
    """Seconds."""
    if re.fullmatch(AGE, text) is None:
        raise ValueError("must be a number and s, m, h or d, like 90s or 2h")
    seconds = float(text.rstrip("smhd")) * _UNITS.get(text[-1], 1)
    if seconds > _CENTURY:
        raise ValueError("must be a hundred years at most")
    return seconds


def place(text: str) -> tuple[datetime, int]:
    """Where a page of waiting content ended: `place_text` wrote it."""
    time, _, arrival = text.rpartition("/")
    try:
        since, at = datetime.fromisoformat(time), number(arrival, 0, _LARGEST)
    except ValueError:
        since, at = datetime.min, 0  # noqa: DTZ901  rejected below
    if since.tzinfo is None or not 1900 <= since.year <= 9000:
        raise ValueError("must be a time, a slash and a number, as the page before said")
    return since, at


def place_text(since: datetime, arrival: int) -> str:
    """What `place` reads."""
    return f"{since.isoformat().replace('+00:00', 'Z')}/{arrival}"
