"""How much of what a broker sends is unpacked, decoded and kept: each bound, with its reason.

Whoever may write to an input topic chooses every count and every length in a record batch, and a compressed batch may
hold a thousand times its size. A pod with 512 MiB must survive all of it. Without records, it takes 120 MiB.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.domain.topics import INCOMING_TOPICS, LISTING_TOPICS

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE

MOST_VALUES = 1_000_000
WHOLE_BYTES = 4 * MEBIBYTE
"""Quarantine keeps a value that is too large, or a record batch that cannot be read, whole up to this size."""
KEPT_BYTES = MEBIBYTE
"""Beyond it, quarantine keeps so many bytes."""

VALUE_COST = 64
"""Bytes of memory that a JSON value takes at least, whatever its length: `[0]` has two."""

RECORD_COST = 500
"""Bytes of memory that a record takes, beside those of its key, value and headers."""


@dataclass(frozen=True, slots=True)
class InputLimits:
    """The bounds, in bytes where they are not counts."""

    value_bytes: Mapping[str, int] = field(
        default_factory=lambda: dict.fromkeys(INCOMING_TOPICS, MEBIBYTE) | dict.fromkeys(LISTING_TOPICS, 16 * MEBIBYTE)
    )
    """The largest value accepted, by topic."""
    json_values: int = MOST_VALUES
    """JSON values in a record. A registration of 100,000 essays has 100,000; a parser makes an object of each."""
    key_bytes: int = 64 * KIBIBYTE
    """The longest key. A batch id, which is at most 255 characters, is what producers of this contract use."""
    headers: int = 1_000
    """Headers of a record: an empty one takes 2 bytes in a batch, and 70 as an object."""
    header_bytes: int = 64 * KIBIBYTE
    """The names and values of all headers of a record."""
    fetched_bytes: int = 4 * MEBIBYTE
    """Record batches that are fetched and not unpacked yet. One more per broker may arrive, as large as a topic has."""
    inflated_bytes: int = 40 * MEBIBYTE
    """A record batch uncompressed: more than the largest that a topic accepts. One at a time is unpacked."""
    compressed_parts: int = 65_536
    """Members of gzip and blocks of Snappy in a batch: empty ones would take much time and inflate to nothing."""
    poll_bytes: int = 8 * MEBIBYTE
    """What the records of a poll take, decoded. Up to three polls are held: one in the database, one that is read
    meanwhile, and deferred records."""


DEFAULT_LIMITS = InputLimits()
