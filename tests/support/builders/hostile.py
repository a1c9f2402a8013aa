"""Makes record batches that Apache Kafka accepts, and in which one count or one length is as large as possible."""

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args, get_origin

import cramjam
from aiokafka import codec
from pydantic import BaseModel

from service.domain.incoming import ENVELOPE_OF
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import ASSOCIATIONS_CONFIRMED, BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from tests.support.builders.batches import HEADER_BYTES, record_batch, signed
from tests.support.builders.inputs import MEBIBYTE, confirmation, content, failure, registration

LARGEST = {
    BATCH_REGISTERED: 31 * MEBIBYTE,
    ASSOCIATIONS_CONFIRMED: 31 * MEBIBYTE,
    CONTENT_PROVISIONED: 1_100_000,
    VALIDATION_FAILED: 1_100_000,
}
"""Bytes of a record batch, as `topics create` allows them."""
MOST_MEMORY = 100 * MEBIBYTE
"""Bytes that a test unpacks to make a batch."""

Compress = Callable[[bytes], bytes]


def xerial(body: bytes) -> bytes:
    """Compresses with Snappy as Java's library does it, in blocks of 32 KiB."""
    blocks = [bytes(cramjam.snappy.compress_raw(body[at : at + 32_768])) for at in range(0, len(body), 32_768)]
    return b"\x82SNAPPY\0\0\0\0\1\0\0\0\1" + b"".join(len(each).to_bytes(4) + each for each in blocks)


CODECS: dict[str, tuple[int, Compress]] = {
    "none": (0, bytes),
    "gzip": (1, lambda body: gzip.compress(body, 1)),
    "snappy": (2, xerial),
    "lz4": (3, codec.lz4_encode),  # whose frames Kafka accepts
    "zstd": (4, lambda body: bytes(cramjam.zstd.compress(body, 1))),
}


class Hostile(NamedTuple):
    """A record batch for a topic; `records` is the number of offsets that it takes."""

    topic: str
    name: str
    batch: bytes
    records: int = 1


def varint(number: int) -> bytes:
    """Encodes an integer as record batches do."""
    number = (number << 1) ^ (number >> 63)
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def record(
    number: int, *, key: bytes | None = None, value: bytes | None = b"", headers: int = 0, block: bytes = b""
) -> bytes:
    """Builds a record; `headers` is the number that it states, and `block` are their bytes."""
    body = b"\0" + varint(0) + varint(number)
    for part in (key, value):
        body += varint(-1) if part is None else varint(len(part)) + part
    body += varint(headers) + block
    return varint(len(body)) + body


def batch(body: bytes, records: int, name: str) -> bytes:
    """Builds a record batch of records."""
    header = bytearray(record_batch([b""])[:HEADER_BYTES])
    header[23:27] = (records - 1).to_bytes(4)
    header[57:61] = records.to_bytes(4)
    number, compress = CODECS[name]
    return signed(bytes(header), compress(body), number)


def _many_headers(size: int) -> tuple[bytes, int]:
    # Of more than these, not compressed, a small broker takes its own life.
    count = min(size, 8 * MEBIBYTE) // 2 if size < MOST_MEMORY else size // 2
    return record(0, headers=count, block=b"\0\1" * count), 1


def _many_records(size: int) -> tuple[bytes, int]:
    count = max(1, min(size // 10, 200_000))
    return b"".join(map(record, range(count))), count


def _large_headers(size: int) -> tuple[bytes, int]:
    count = max(1, size // MEBIBYTE)
    block = varint(1) + b"h" + varint(MEBIBYTE) + b"x" * MEBIBYTE
    return b"".join(record(number, headers=1, block=block) for number in range(count)), count


def _stating(count: int, place: int) -> tuple[bytes, int]:
    """Builds a record that states `count` for one of its counts and lengths, and does not have it."""
    stated = [varint(1) + b"k", varint(1) + b"v", varint(1), varint(1) + b"h", varint(1) + b"h"]
    stated[place] = varint(count) + stated[place][1:]
    body = b"\0\0\0" + b"".join(stated)
    return varint(len(body)) + body, 1


LENGTHS: dict[str, Callable[[int], tuple[bytes, int]]] = {
    "one long value": lambda size: (record(0, value=bytes(size)), 1),
    "one long key": lambda size: (record(0, key=bytes(size)), 1),
    "one header with a long value": lambda size: (
        record(0, headers=1, block=varint(1) + b"h" + varint(size) + bytes(size)),
        1,
    ),
    "one header with a long name": lambda size: (record(0, headers=1, block=varint(size) + bytes(size) + b"\1"), 1),
    "many empty headers": _many_headers,
    "many empty records": _many_records,
    "many records with a large header": _large_headers,
    "a longer record than there is": lambda _: (varint(2**31 - 1) + record(0)[1:], 1),
    "a longer key than there is": lambda _: _stating(2**31 - 1, 0),
    "a longer value than there is": lambda _: _stating(2**31 - 1, 1),
    "more headers than there are": lambda _: _stating(2**31 - 1, 2),
    "a longer header name than there is": lambda _: _stating(2**31 - 1, 3),
    "a longer header value than there is": lambda _: _stating(2**31 - 1, 4),
    "a number of headers below 0": lambda _: _stating(-(2**31), 2),
    "more records than there are": lambda _: (record(0), 1_000_000),
}
"""Makes the records of a batch of about so many bytes, in which one count or length is as large as possible.

Returns them with the number of records that the batch states."""


def _inflating(mebibytes: int, *, ends: bool = True) -> bytes:
    made = zlib.compressobj(9, wbits=31)
    parts = [made.compress(bytes(MEBIBYTE)) for _ in range(mebibytes)]
    return b"".join([*parts, made.flush()] if ends else parts)


def _gzip_members() -> bytes:
    member = gzip.compress(b"x", mtime=0)
    return member * (MEBIBYTE // len(member))


COMPRESSED_PARTS: Sequence[tuple[str, str, Callable[[], bytes]]] = (
    ("gzip members of one byte", "gzip", _gzip_members),
    ("gzip of a gigabyte", "gzip", lambda: _inflating(1024)),
    ("gzip without an end", "gzip", lambda: _inflating(64, ends=False)),
    ("empty Snappy blocks", "snappy", lambda: xerial(b"")[:16] + b"\0\0\0\1\0" * (MEBIBYTE // 5)),
    ("empty LZ4 frames", "lz4", lambda: bytes(cramjam.lz4.compress(b"")) * 65_000),
    ("empty zstd frames", "zstd", lambda: bytes(cramjam.zstd.compress(b"")) * 65_000),
)
"""Data of a codec that consists of many parts, or of one that never ends: name, codec and what makes it."""


def _filled(begin: bytes, each: bytes, size: int, end: bytes) -> bytes:
    return begin + each * (size // len(each)) + end


def _distinct_keys(size: int) -> bytes:
    return b"{" + b",".join(b'"%d":0' % number for number in range(size // 10)) + b"}"


KINDS: dict[str, Callable[[int], bytes]] = {
    "a long text": lambda size: _filled(b'"', b"x", size, b'"'),
    "a text of escapes": lambda size: _filled(b'"', b"\\u0041", size, b'"'),
    "a text of lone surrogates": lambda size: _filled(b'"', b"\\ud800", size, b'"'),
    "a long number": lambda size: b"1" * size,
    "a long fraction": lambda size: b"0." + b"1" * size,
    "many lists": lambda size: _filled(b"[", b"[0],", size, b"0]"),
    "many empty objects": lambda size: _filled(b"[", b"{},", size, b"0]"),
    "many texts": lambda size: _filled(b"[", b'"e",', size, b'"e"]'),
    "many keys": lambda size: _filled(b"{", b'"":0,', size, b'"":0}'),
    "many different keys": _distinct_keys,
    "a long key": lambda size: _filled(b'{"', b"x", size, b'":0}'),
    "deep lists": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "white space": lambda size: _filled(b"", b" ", size, b"0"),
}
"""Makes JSON of about so many bytes, in which one count or length is as large as possible."""

_SAMPLES: dict[str, Callable[[], bytes]] = {
    CONTENT_PROVISIONED: lambda: content("b", "t"),
    VALIDATION_FAILED: lambda: failure("b", "f"),
    BATCH_REGISTERED: lambda: registration("b", ["e1"]),
    ASSOCIATIONS_CONFIRMED: lambda: confirmation("b", "c"),
}
HERE = "@here@"


class Place(NamedTuple):
    """A place in the JSON of an event: of a field, or of a value in it where `around` is a list or an object."""

    path: tuple[str, ...]
    around: object = HERE


def places(topic: str) -> list[Place]:
    """Returns the event, each of its fields, also those that a sample lacks, and an unknown field of each object."""
    return [Place(()), *_fields(ENVELOPE_OF[topic], ())]


def _fields(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Place]:
    yield Place((*path, "unknown"))
    for name, field in model.model_fields.items():
        yield Place((*path, name))
        for part in (field.annotation, *get_args(field.annotation)):
            if get_origin(part) in (list, tuple):
                yield Place((*path, name), [HERE])
            elif get_origin(part) is dict or part is dict:
                yield Place((*path, name), {"a": HERE})
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from _fields(part, (*path, name))


def value(topic: str, place: Place, kind: str, size: int) -> bytes:
    """Returns the JSON of an event that has a value of this kind at the place."""
    if not place.path:
        return KINDS[kind](size)
    event = json.loads(_SAMPLES[topic]())
    inner = event
    for name in place.path[:-1]:
        inner[name] = inner.get(name) or {}
        inner = inner[name]
    inner[place.path[-1]] = place.around
    return json.dumps(event).encode().replace(f'"{HERE}"'.encode(), KINDS[kind](size))


def largest_value(topic: str) -> int:
    """Returns the bytes of the largest value that a topic accepts, but for the rest of an event."""
    return DEFAULT_LIMITS.value_bytes[topic] - 8_192


VALID: tuple[tuple[str, str, Callable[[], bytes]], ...] = (
    (
        BATCH_REGISTERED,
        "a registration of 100,000 essays",
        lambda: registration("large", [f"{number:0140d}" for number in range(100_000)]),
    ),
    (
        BATCH_REGISTERED,
        "a registration with long texts",
        lambda: registration(
            "texts", ["x" * 255], essay_instructions="x" * 65_536, student_prompt_ref={"a": "x" * 65_000}
        ),
    ),
    (ASSOCIATIONS_CONFIRMED, "many confirmed associations", lambda: _associations(450_000)),
    (
        VALIDATION_FAILED,
        "a failure with many details",
        lambda: value(
            VALIDATION_FAILED, Place(("data", "validation_error_detail", "details"), {"a": HERE}), "many lists", 10**6
        ),
    ),
)
"""The largest events that are applied: topic, name and value."""


def _associations(count: int) -> bytes:
    return value(ASSOCIATIONS_CONFIRMED, Place(("data", "associations")), "many empty objects", count * len(b"{},"))


def values(codec_number: int) -> Iterator[tuple[str, str, bytes]]:
    """Yields JSON of each event in which one length or count is as large as its topic allows.

    Of the pairs of a place and a kind a third occurs, each with one of the codecs, of the larger topics one in 20. All
    pairs are in tests/unit/kafka/test_hostile.py, in a smaller size, and `make prove ARGS=hostile` draws from all.
    """
    for number, (topic, name, valid) in enumerate(VALID):
        if number % len(CODECS) == codec_number:
            yield topic, name, valid()
    for topic in _SAMPLES:
        both = itertools.product(places(topic), KINDS)
        step = len(CODECS) * (20 if largest_value(topic) > MEBIBYTE else 3)
        for place, kind in itertools.islice(both, codec_number, None, step):
            yield topic, f"{kind} at {'.'.join(place.path)}", value(topic, place, kind, largest_value(topic))


def batches(named: str) -> Iterator[Hostile]:
    """Yields the hostile record batches of the codec with this name."""
    for topic in (CONTENT_PROVISIONED, BATCH_REGISTERED):
        size = (
            LARGEST[topic] - 4_096
            if named == "none"
            else MOST_MEMORY
            if topic == CONTENT_PROVISIONED
            else 38 * MEBIBYTE
        )
        for name, records_of in LENGTHS.items():
            body, records = records_of(size)
            made = batch(body, records, named)
            if len(made) <= LARGEST[topic]:
                yield Hostile(topic, f"{named}: {name}", made, records)
    header = bytes(record_batch([b""])[:HEADER_BYTES])
    for name, codec_name, data_of in COMPRESSED_PARTS:
        if codec_name == named:
            yield Hostile(CONTENT_PROVISIONED, name, signed(header, data_of(), CODECS[named][0]))
    for topic, name, large in values(CODECS[named][0]):
        made = batch(record(0, key=b"b", value=large), 1, named)
        if len(made) <= LARGEST[topic]:
            yield Hostile(topic, f"{named}: {name}", made)
    for begin in range(0, 300, 30):
        bodies = b"".join(
            record(number, value=each) for number, each in enumerate(itertools.islice(_named(), begin, begin + 30))
        )
        made = batch(bodies, 30, named)
        if len(made) <= LARGEST[CONTENT_PROVISIONED]:
            yield Hostile(CONTENT_PROVISIONED, f"{named}: contents with long file names", made, 30)


def _named() -> Iterator[bytes]:
    for number in itertools.count():
        yield content("b", f"n{number}", original_file_name="x" * (MEBIBYTE - 1_000))
