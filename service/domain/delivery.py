"""One record as it came, and the limits for what comes and goes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from service.domain.events import Incoming, Refusal
from service.domain.topics import LARGEST_RECORD, ORDINARY_RECORD, RECORD_ROOM


@dataclass(slots=True)
class Delivery:
    """One record as it came, and what it says."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    event: Incoming | Refusal
    was_not_full: bool = False
    """When it was first looked at, its batch was not full, committed: no slot then means beaten to the last one."""


def contexts(deliveries: Iterable[Delivery]) -> Iterator[tuple[str | None, str | None]]:
    """The trace contexts of what could be read."""
    for delivery in deliveries:
        if not isinstance(delivery.event, Refusal):
            yield delivery.event.traceparent, delivery.event.tracestate


@dataclass(frozen=True, slots=True)
class Limits:
    """What an input and an event may weigh, in bytes, and how many refusals in a row stop a topic."""

    refusals_in_a_row: int = 1_000
    event_bytes: int = ORDINARY_RECORD - RECORD_ROOM
    large_event_bytes: int = LARGEST_RECORD - RECORD_ROOM


def fingerprint(delivery: Delivery) -> bytes:
    """What makes two refused inputs of a topic the same: SHA-256 over key and value, null told from empty."""
    digest = sha256()
    for part in (delivery.key, delivery.value):
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")
    return digest.digest()
