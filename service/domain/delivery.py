"""Defines a delivery: a Kafka record with the event in it, or with its rejection. Also the limits of the intake."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from service.domain.events import Incoming, Rejection
from service.domain.topics import LARGEST_RECORD, ORDINARY_RECORD, RECORD_ROOM


@dataclass(slots=True)
class Delivery:
    """One record as it arrived, with the event that was decoded from it, or with its rejection."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    event: Incoming | Rejection
    was_not_full: bool = False
    """Whether its batch was not full when the record was first evaluated. It decides the reason of an excess."""
    timestamp: int = -1
    """The record's time in milliseconds, as its producer states it: it may be any number."""


class _Keyed(Protocol):
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...


def contexts(deliveries: Iterable[Delivery]) -> Iterator[tuple[str | None, str | None]]:
    """Yield the trace contexts (traceparent, tracestate) of the deliveries that are not rejections."""
    for delivery in deliveries:
        if not isinstance(delivery.event, Rejection):
            yield delivery.event.traceparent, delivery.event.tracestate


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """The number of consecutive rejections that pause a topic, and the largest sizes of published events in bytes."""

    consecutive_rejections: int = 1_000
    event_bytes: int = ORDINARY_RECORD - RECORD_ROOM
    large_event_bytes: int = LARGEST_RECORD - RECORD_ROOM


def fingerprint(record: _Keyed) -> bytes:
    """Return the identity of a record within its topic: SHA-256 over key and value. Null and empty differ."""
    digest = sha256()
    for part in (record.key, record.value):
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")
    return digest.digest()
