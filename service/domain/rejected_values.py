"""Reads which batch, file and correlation id a rejected record is about, as far as that can be read.

A rejected value may be anything: no JSON, of the wrong types, nested without end, cut off, many megabytes. So at most
`WHOLE` bytes are parsed as JSON. Of anything else only the beginning and the end are searched for the fields' names.
"""

import re
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from service.domain.delivery import Delivery, Unreadable
from service.domain.events import Reason, Rejection
from service.domain.scanning import scanned_batch_id
from service.domain.topics import BATCH_REGISTERED

WHOLE = 64 * 1024
"""Longest value that is parsed as JSON; of a longer one, as many bytes at its beginning and at its end are searched."""

LONGEST_BATCH_ID = 255
LONGEST_FILE_NAME = 1_024

_SUBJECT_FIELDS = ("batch_id", "entity_id", "original_file_name", "correlation_id")
# Each attempt begins at a name and ends at the next quote, so that the time is linear in the bytes.
_FIELD = re.compile(
    rb'"(%b)"\s{0,20}:\s{0,20}"((?:[^"\\]|\\.){0,8192})"' % "|".join(_SUBJECT_FIELDS).encode(), re.DOTALL
)


class RejectedSubject(NamedTuple):
    """What a rejected record is about. Each is None where it could not be read."""

    batch_id: str | None = None
    original_file_name: str | None = None
    correlation_id: UUID | None = None


def read_subject(delivery: Delivery) -> RejectedSubject:
    """Read the subject of a record that is rejected. Never raises; every text can be stored."""
    if not isinstance(delivery.event, Rejection):
        event = delivery.event
        found: dict[str, Any] = {name: getattr(event, name, None) for name in _SUBJECT_FIELDS}
    elif isinstance(delivery.value, Unreadable) or delivery.event.reason is Reason.KILLED_THE_PROCESS:
        found = {}  # the bytes of a whole record batch, or what must not be decoded in this process
    else:
        found = _fields(delivery.value or b"")
        # First what cells go by, which skip a record by it before they know whether it is rejected.
        if scanned := scanned_batch_id(delivery.value or b""):
            found = found | {"batch_id": scanned}
    batch_id = _identity(found.get("batch_id")) or _identity(found.get("entity_id"))
    if batch_id is None and delivery.topic == BATCH_REGISTERED:
        batch_id = _identity(_decoded(delivery.key))  # the Batch Orchestrator's key is the batch id
    name = found.get("original_file_name")
    return RejectedSubject(
        batch_id,
        _storable(name)[:LONGEST_FILE_NAME] if isinstance(name, str) else None,
        _uuid(found.get("correlation_id")),
    )


def _fields(value: bytes) -> dict[str, Any]:
    if len(value) <= WHOLE:
        try:
            envelope = orjson.loads(value)
        except orjson.JSONDecodeError:
            return _searched(value)
        if not isinstance(envelope, dict):
            return {}
        data = envelope.get("data")
        return (data if isinstance(data, dict) else {}) | {"correlation_id": envelope.get("correlation_id")}
    return _searched(value[-WHOLE:]) | _searched(value[:WHOLE])


def _searched(part: bytes) -> dict[str, Any]:
    """Return the first text that follows each of the names."""
    found: dict[str, Any] = {}
    for name, raw in _FIELD.findall(part):
        found.setdefault(name.decode(), _text(raw))
    return found


def _text(raw: bytes) -> str:
    """Decode a text between its quotes; one that is not valid JSON as it is."""
    try:
        return str(orjson.loads(b'"%b"' % raw))
    except orjson.JSONDecodeError:
        return raw.decode("utf-8", "replace")


def _decoded(key: bytes | None) -> str | None:
    try:
        return (key or b"").decode()
    except UnicodeDecodeError:
        return None


def _identity(value: object) -> str | None:
    """Return an id that a batch can have, or None."""
    if isinstance(value, str) and 1 <= len(value) <= LONGEST_BATCH_ID and value == _storable(value):
        return value
    return None


def _uuid(value: object) -> UUID | None:
    try:
        return value if isinstance(value, UUID) else UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _storable(text: str) -> str:
    """Replace what PostgreSQL can not store as text."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
