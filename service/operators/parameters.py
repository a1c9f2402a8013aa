"""Parses the parameters of operator actions, for the command line and the JSON API.

Each function takes the text of a parameter and returns its value. Raises ValueError, whose message says what the
parameter must be.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

MAX_ROWS = 1000
"""Maximum number of rows on one page, and of inputs or contents in one request."""

MAX_ID_LENGTH = 255
MAX_REASON_LENGTH = 2000

_SPAN = "[0-9]{1,9}[smhd]?"
AGE = f"({_SPAN}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}.*)"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CENTURY = 36_525 * 86400

_MAX_BIGINT = 2**63 - 1


def short_text(text: str) -> str:
    """Check text of 1 to `MAX_ID_LENGTH` characters, the longest id."""
    if not 1 <= len(reason(text)) <= MAX_ID_LENGTH:
        raise ValueError(f"must have from 1 to {MAX_ID_LENGTH} characters")
    return text


def reason(text: str) -> str:
    """Check text that PostgreSQL can store, at most `MAX_REASON_LENGTH` characters."""
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("must be text in UTF-8")
    if len(text) > MAX_REASON_LENGTH:
        raise ValueError(f"must have at most {MAX_REASON_LENGTH} characters")
    return text


def number(text: str, least: int, most: int) -> int:
    """Parse a number from `least` to `most`."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ValueError(f"must be a number from {least} to {most}")
    return value


def row_id(text: str) -> int:
    """Parse the id of a row."""
    return number(text, 1, _MAX_BIGINT)


def notice(text: str) -> int | str:
    """Parse what is acknowledged: the id of a row, or a kind of notices."""
    return row_id(text) if text.isdigit() else short_text(text)


def log_number(text: str) -> int:
    """Parse the number of a partition, or an offset."""
    return number(text, 0, _MAX_BIGINT)


def position(text: str) -> int:
    """Parse the position of a slot; 0 is before the first."""
    return number(text, 0, 100_000)


def page(text: str) -> int:
    """Parse the number of rows of a page."""
    return number(text, 1, MAX_ROWS)


def interval(text: str) -> int:
    """Parse the seconds between two reads."""
    return number(text, 1, 3600)


def age(text: str) -> float:
    """Parse an age such as 90s, 5m, 2h or 1d, or the time of what is so old, such as 2026-11-29. Returns seconds."""
    if re.fullmatch("[0-9]{8}", text):  # which is also how a date may be written
        raise ValueError("must have a unit, like 90s or 2h, or dashes, like 2026-11-29")
    if re.fullmatch(_SPAN, text):
        seconds = float(text.rstrip("smhd")) * _UNITS.get(text[-1], 1)
    else:
        try:
            seconds = max(0.0, (datetime.now(UTC) - since(text)).total_seconds())
        except ValueError:
            raise ValueError("must be an age like 90s, 2h or 1d, or a time like 2026-11-29") from None
    if seconds > _CENTURY:
        raise ValueError("must be at most a hundred years")
    return seconds


def since(text: str) -> datetime:
    """Parse a time such as 2026-11-24T08:00, or a date, which begins at its midnight. Without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min  # noqa: DTZ901  rejected below
    if not 1900 <= at.year <= 9000:
        raise ValueError("must be a date or a time, like 2026-11-24 or 2026-11-24T08:00")
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def until(text: str) -> datetime:
    """Parse a time as `since` does; a date includes the whole day."""
    is_date = re.fullmatch("[0-9]{4}-?[0-9]{2}-?[0-9]{2}", text) is not None
    return since(text) + (timedelta(days=1, microseconds=-1) if is_date else timedelta(0))


def moment(text: str) -> datetime:
    """Parse a time as `since` does, or how long ago it was, such as 2h or 1d."""
    return _moment(text, since)


def moment_end(text: str) -> datetime:
    """Parse a time likewise; a date includes the whole day."""
    return _moment(text, until)


def age_since(text: str) -> float:
    """Parse a time as `moment` does. Returns the seconds that have passed since then, 0 for a time that comes."""
    return _passed(moment(text))


def age_until(text: str) -> float:
    """Parse a time as `moment_end` does. Returns the same."""
    return _passed(moment_end(text))


def _moment(text: str, read: Callable[[str], datetime]) -> datetime:
    if re.fullmatch(_SPAN, text) and not text.isdigit():
        return datetime.now(UTC) - timedelta(seconds=age(text))
    try:
        return read(text)
    except ValueError as error:
        raise ValueError(f"{error}, or an age like 2h or 1d") from None


def _passed(at: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - at).total_seconds())


def batch_cursor(text: str) -> tuple[datetime, str]:
    """Parse the cursor after a page of batches, as `batch_cursor_text` formats it."""
    given, _, batch_id = text.partition("/")
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        at = datetime.min  # noqa: DTZ901  rejected below
    if at.tzinfo is None or not 1900 <= at.year <= 9000 or not batch_id:
        raise ValueError("must be a time, a slash and a batch id, as printed with the previous page")
    return at, short_text(batch_id)


def batch_cursor_text(registered_at: datetime, batch_id: str) -> str:
    """Format the cursor that `batch_cursor` parses."""
    return f"{registered_at.isoformat().replace('+00:00', 'Z')}/{batch_id}"


def pending_cursor(text: str) -> tuple[datetime, int]:
    """Parse the cursor after a page of pending content, as `pending_cursor_text` formats it."""
    time, _, arrival = text.rpartition("/")
    try:
        since, at = datetime.fromisoformat(time), number(arrival, 0, _MAX_BIGINT)
    except ValueError:
        since, at = datetime.min, 0  # noqa: DTZ901  rejected below
    if since.tzinfo is None or not 1900 <= since.year <= 9000:
        raise ValueError("must be a time, a slash and a number, as printed with the previous page")
    return since, at


def pending_cursor_text(since: datetime, arrival: int) -> str:
    """Format the cursor that `pending_cursor` parses."""
    return f"{since.isoformat().replace('+00:00', 'Z')}/{arrival}"
