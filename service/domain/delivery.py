"""Defines a delivery: a Kafka record with the event in it, or with its rejection. Also the limits of the intake."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from service.domain.events import Incoming, Reason, Rejection
from service.domain.topics import LARGEST_VALUE, ORDINARY_RECORD, RECORD_ROOM


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


class Unreadable(bytes):
    """The value of a record that is not decoded: its first bytes, or those of its record batch. `why` is the reason.

    `first` is the lowest offset that it stands for, and `digest` the fingerprint of all of its bytes. `corrupt` says
    that their checksum is wrong: they may be intact when they are fetched again.
    """

    first: int
    why: str
    reason: Reason
    digest: bytes
    corrupt: bool

    def __new__(
        cls, raw: "bytes | memoryview", first: int, why: str, reason: Reason, digest: bytes, *, corrupt: bool = False
    ) -> "Unreadable":
        self = super().__new__(cls, raw)
        self.first, self.why, self.reason, self.digest, self.corrupt = first, why, reason, digest, corrupt
        return self


class _Keyed(Protocol):
    @property
    def key(self) -> "bytes | memoryview | None": ...
    @property
    def value(self) -> "bytes | memoryview | None": ...


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """The consecutive rejections, and the rejected bytes of a day, that pause a topic; the largest published events.

    With `ready_waits`, BatchEssaysReady of a batch with a class waits until the class is confirmed.
    """

    consecutive_rejections: int = 1_000
    rejected_bytes: int = 1024 * 1024 * 1024
    event_bytes: int = ORDINARY_RECORD - RECORD_ROOM
    large_event_bytes: int = LARGEST_VALUE
    ready_waits: bool = True


def fingerprint(record: _Keyed) -> bytes:
    """Return the identity of a record within its topic: SHA-256 over key and value. Null and empty differ."""
    if isinstance(record.value, Unreadable):
        return record.value.digest
    digest = sha256()
    for part in (record.key, record.value):
        digest.update(b"-" if part is None else b"%d:" % len(part))
        digest.update(part or b"")
    return digest.digest()
