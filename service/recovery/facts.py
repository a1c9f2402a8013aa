"""What a recovery reads from the topics: announcements and inputs, as values that fit into the ledger."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from service.domain.delivery import Delivery
from service.domain.events import (
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Rejection,
    ValidationFailed,
)
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.kafka.deliveries import TopicRecord
from service.store import progress
from service.store.recovery import Content

LONGEST_ID: Final = 255
LONGEST_TRACE: Final = 512
LONGEST_NAME: Final = 1_000_000
"""Characters of a file name: as many as an input may have."""


class Published(NamedTuple):
    """A record of an output topic, of this service or of an older one. The first three fields order the records."""

    at: int
    """The time of the record in milliseconds."""
    partition: int
    offset: int
    topic: str
    event_id: str
    stamp: str
    """The time of the event, as it states it."""
    correlation_id: str | None
    traceparent: str | None
    tracestate: str | None
    values: list[Any]
    """What the event states, by topic: see `_VALUES`."""

    @property
    def order(self) -> tuple[int, int, int]:
        return self[:3]

    def named(self, name: str) -> Any:
        """Return a field of the event's data; None where it is missing."""
        return self.values[_VALUES[self.topic].index(name)]

    def has(self, name: str) -> bool:
        """Tell whether announcements on this topic state the field."""
        return name in _VALUES[self.topic]

    def replaced(self, **values: object) -> "Published":
        """Return the announcement with other values of these fields."""
        return self._replace(values=_replaced(_VALUES[self.topic], self.values, values))

    @property
    def time(self) -> datetime:
        """When the event happened, to the microsecond."""
        return time_of(self.stamp) or progress.time_of(self.at) or datetime.fromtimestamp(0, UTC)

    @property
    def content(self) -> Content:
        """What the announcement states of its content."""
        named = dict(zip(_VALUES[self.topic], self.values, strict=True))
        return Content(
            named["text_storage_id"],
            named.get("file_upload_id"),
            named.get("original_file_name"),
            correlation_id=uuid_of(self.correlation_id),
            traceparent=self.traceparent,
            tracestate=self.tracestate,
        )


_VALUES: Final[Mapping[str, tuple[str, ...]]] = {
    SLOT_ASSIGNED: ("essay_id", "text_storage_id", "file_upload_id", "original_file_name"),
    EXCESS_CONTENT: ("text_storage_id", "original_file_name", "reason"),
    PENDING_EXPIRED: ("text_storage_id", "file_upload_id", "original_file_name", "stored_at", "expired_at"),
    BATCH_COMPLETED: ("essays_for_processing",),
    BATCH_READY: ("ready_essays",),
    VALIDATION_ERRORS: ("failed_essays", "error_summary"),
    READINESS_TIMEOUT: (),
    BATCH_CANCELLED: ("reason", "failed_count"),
}
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    SLOT_ASSIGNED: ("essay_id", "text_storage_id"),
    EXCESS_CONTENT: ("text_storage_id",),
    PENDING_EXPIRED: ("text_storage_id", "file_upload_id", "original_file_name"),
    BATCH_COMPLETED: (),
    BATCH_READY: (),
    VALIDATION_ERRORS: (),
    READINESS_TIMEOUT: (),
    BATCH_CANCELLED: ("reason",),
}
_LISTS: Final = ("essays_for_processing", "ready_essays", "failed_essays")


class Received(NamedTuple):
    """A readable record of an input topic. The first three fields order the records."""

    at: int
    partition: int
    offset: int
    topic: str
    values: list[Any]
    """The fields of the event, without the batch id."""

    @property
    def order(self) -> tuple[int, int, int]:
        return self[:3]

    def named(self, name: str) -> Any:
        """Return a field of the event."""
        return self.values[_FIELDS[self.topic].index(name)]

    def has(self, name: str) -> bool:
        """Tell whether events on this topic have the field."""
        return name in _FIELDS[self.topic]

    def replaced(self, **values: object) -> "Received":
        """Return the input with other values of these fields."""
        return self._replace(values=_replaced(_FIELDS[self.topic], self.values, values))

    @property
    def content(self) -> Content:
        """The content that was received."""
        values = dict(zip(_FIELDS[self.topic], self.values, strict=True))
        return Content(**values | {"correlation_id": UUID(str(values["correlation_id"]))})

    def registration(self, batch_id: str) -> BatchRegistered:
        """Return the registration that was received."""
        values = dict(zip(_FIELDS[self.topic], self.values, strict=True))
        ids = {"essay_ids": tuple(values["essay_ids"]), "correlation_id": UUID(values["correlation_id"])}
        return BatchRegistered(batch_id, **values | ids)

    def failure(self, batch_id: str) -> ValidationFailed:
        """Return the validation failure that was received."""
        values = dict(zip(_FIELDS[self.topic], self.values, strict=True))
        times = {"failed_at": datetime.fromisoformat(str(values["failed_at"]))}
        return ValidationFailed(batch_id, **values | times | {"correlation_id": UUID(str(values["correlation_id"]))})


RECORDS: Final[tuple[type[Any], ...]] = (Published, Received)


def announcement_of(record: TopicRecord) -> tuple[str, Published] | None:
    """Return the batch id and the announcement of a record of an output topic; None where it announces nothing.

    The record may come from anyone: what is no text, or cannot be stored, counts as missing.
    """
    try:
        envelope = orjson.loads(record.value or b"")
        data, trace = envelope["data"], envelope.get("metadata") or {}
        batch_id = text_of(data.get("batch_id")) or text_of(data.get("entity_id"))
        needed = [text_of(data.get(name)) for name in _NEEDED[record.topic]]
        values = [_value(name, data.get(name)) for name in _VALUES[record.topic]]
        orjson.dumps(values)  # refuses what is nested too deep to be written
        if batch_id is None or None in needed:
            return None
        return batch_id, Published(
            record.timestamp,
            record.partition,
            record.offset,
            record.topic,
            str(uuid_of(envelope.get("event_id"))),
            text_of(envelope.get("event_timestamp")) or "",
            text_of(envelope.get("correlation_id")),
            text_of(trace.get("traceparent")),
            text_of(trace.get("tracestate"), LONGEST_TRACE),
            values,
        )
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        return None


def text_of(value: object, longest: int = LONGEST_ID) -> str | None:
    """Return a text that can be stored: not empty, not longer than this, without NUL; else None."""
    return value if isinstance(value, str) and 0 < len(value) <= longest and "\0" not in value else None


def _value(name: str, value: object) -> object:
    if name in _LISTS:
        return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    if name == "failed_count":
        return value if type(value) is int else 0
    if name == "error_summary":
        return value if isinstance(value, dict) else {}
    return text_of(value, LONGEST_NAME if name == "original_file_name" else LONGEST_ID)


def received_of(delivery: Delivery) -> tuple[str, Received] | None:
    """Return the batch id and the input of a record of an input topic; None where it is rejected."""
    event = delivery.event
    if isinstance(event, Rejection):
        return None
    names = _FIELDS[delivery.topic]
    values = [getattr(event, name) for name in names]
    return event.batch_id, Received(delivery.timestamp, delivery.partition, delivery.offset, delivery.topic, values)


def _replaced(names: Sequence[str], values: Sequence[Any], others: Mapping[str, object]) -> list[Any]:
    return [others.get(name, value) for name, value in zip(names, values, strict=True)]


def _fields_of(event: Any) -> tuple[str, ...]:
    return tuple(name for name in event._fields if name != "batch_id")


_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    BATCH_REGISTERED: _fields_of(BatchRegistered),
    CONTENT_PROVISIONED: _fields_of(ContentProvisioned),
    VALIDATION_FAILED: _fields_of(ValidationFailed),
    ASSOCIATIONS_CONFIRMED: _fields_of(AssociationsConfirmed),
}


def time_of(text: object) -> datetime | None:
    """Read a time as events state it; None where it is none."""
    if isinstance(text, str):
        with suppress(ValueError):
            time = datetime.fromisoformat(text)
            return time if time.tzinfo else None
    return None


def uuid_of(text: object) -> UUID | None:
    """Read a UUID; None where it is none."""
    with suppress(ValueError):
        return UUID(str(text))
    return None
