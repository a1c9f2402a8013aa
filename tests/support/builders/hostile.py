"""Makes record batches that Apache Kafka accepts, and in which one count or one length is as large as possible."""

import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cramjam
from aiokafka import codec

from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from tests.support.builders.batches import HEADER_BYTES, record_batch, signed
from tests.support.builders.inputs import MEBIBYTE, content, failure, registration

LARGEST = {BATCH_REGISTERED: 31 * MEBIBYTE, CONTENT_PROVISIONED: 1_100_000, VALIDATION_FAILED: 1_100_000}
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


def lengths(size: int) -> Iterator[tuple[str, bytes, int]]:
    """Yields bodies of about `size` bytes in which one count or length of a record batch is as large as possible."""
    zeros = bytes(size)
    yield "one long value", record(0, value=zeros), 1
    yield "one long key", record(0, key=zeros), 1
    yield "one header with a long value", record(0, headers=1, block=varint(1) + b"h" + varint(size) + zeros), 1
    yield "one header with a long name", record(0, headers=1, block=varint(size) + zeros + b"\1"), 1
    # Of more than these, not compressed, a small broker takes its own life.
    count = min(size, 8 * MEBIBYTE) // 2 if size < MOST_MEMORY else size // 2
    yield "many empty headers", record(0, headers=count, block=b"\0\1" * count), 1
    yield "more headers than there are", record(0, headers=2**31 - 1), 1
    small = [record(number) for number in range(min(size // 10, 200_000))]
    yield "many empty records", b"".join(small), len(small)
    large = b"x" * MEBIBYTE
    count = max(1, size // MEBIBYTE)
    several = (
        record(number, headers=1, block=varint(1) + b"h" + varint(len(large)) + large) for number in range(count)
    )
    yield "many records with a large header", b"".join(several), count


def compressed_parts() -> Iterator[tuple[str, int, bytes]]:
    """Yields the codec and the bytes of data that consists of many parts, or of one that never ends."""
    member = gzip.compress(b"x", mtime=0)
    yield "gzip members of one byte", 1, member * (MEBIBYTE // len(member))
    yield "empty Snappy blocks", 2, xerial(b"")[:16] + b"\0\0\0\1\0" * (MEBIBYTE // 5)
    yield "empty LZ4 frames", 3, bytes(cramjam.lz4.compress(b"")) * 65_000
    yield "empty zstd frames", 4, bytes(cramjam.zstd.compress(b"")) * 65_000
    inflates = zlib.compressobj(9, wbits=31)
    yield (
        "gzip of a gigabyte",
        1,
        b"".join([*(inflates.compress(bytes(MEBIBYTE)) for _ in range(1024)), inflates.flush()]),
    )
    endless = zlib.compressobj(9, wbits=31)
    yield "gzip without an end", 1, b"".join(endless.compress(bytes(MEBIBYTE)) for _ in range(64))


def values() -> Iterator[tuple[str, str, bytes]]:
    """Yields JSON of each event in which one length or count is as large as its topic allows."""
    for topic, good in (
        (CONTENT_PROVISIONED, content("b", "t")),
        (VALIDATION_FAILED, failure("b", "f")),
        (BATCH_REGISTERED, registration("b", ["e1"])),
    ):
        size = (15 if topic == BATCH_REGISTERED else 1) * MEBIBYTE - 4_096
        event = json.loads(good)
        yield (
            topic,
            "many lists in an unknown field",
            _with(event, ("data", "unknown"), b"[" + b"[0]," * (size // 4) + b"0]"),
        )
        yield (
            topic,
            "many lists in the trace",
            _with(event, ("metadata",), b'{"traceparent":[' + b"[0]," * (size // 4) + b"0]}"),
        )
        yield topic, "many keys", _with(event, ("data", "unknown"), b"{" + b'"":0,' * (size // 5) + b'"":0}')
        yield topic, "a long number", _with(event, ("data", "unknown"), b"1" * size)
        yield topic, "deep lists", _with(event, ("data", "unknown"), b"[" * (size // 2) + b"]" * (size // 2))
        yield topic, "many escapes", _with(event, ("data", "unknown"), b'"' + b"\\u0041" * (size // 6) + b'"')
        yield topic, "many lone surrogates", _with(event, ("data", "unknown"), b'"' + b"\\ud800" * (size // 6) + b'"')
        for path in _texts(event):
            yield topic, f"a long {'.'.join(path)}", _with(event, path, b'"' + b"x" * size + b'"')
    yield (
        VALIDATION_FAILED,
        "many details",
        _with(
            json.loads(failure("b", "f")),
            ("data", "validation_error_detail", "details"),
            b'{"a":[' + b"[]," * (MEBIBYTE // 4) + b"0]}",
        ),
    )
    yield (
        BATCH_REGISTERED,
        "many essays",
        _with(json.loads(registration("b", ["e1"])), ("data", "essay_ids"), b"[" + b'"e",' * 3_000_000 + b'"e"]'),
    )


def _texts(event: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(event, dict):
        for name, part in event.items():
            yield from _texts(part, (*path, name))
    elif isinstance(event, str):
        yield path


def _with(event: dict[str, object], path: tuple[str, ...], value: bytes) -> bytes:
    """Returns the event as JSON with this value at the path."""
    changed = json.loads(json.dumps(event))
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = "@here@"
    return json.dumps(changed).encode().replace(b'"@here@"', value)


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
        for name, body, records in lengths(size):
            made = batch(body, records, named)
            if len(made) <= LARGEST[topic]:
                yield Hostile(topic, f"{named}: {name}", made, records)
    header = bytes(record_batch([b""])[:HEADER_BYTES])
    for name, number, data in compressed_parts():
        if number == CODECS[named][0]:
            yield Hostile(CONTENT_PROVISIONED, name, signed(header, data, number))
    for topic, name, value in values():
        made = batch(record(0, key=b"b", value=value), 1, named)
        if len(made) <= LARGEST[topic]:
            yield Hostile(topic, f"{named}: {name}", made)
    for begin in range(0, 300, 30):
        bodies = b"".join(
            record(place, value=value) for place, value in enumerate(itertools.islice(_named(), begin, begin + 30))
        )
        made = batch(bodies, 30, named)
        if len(made) <= LARGEST[CONTENT_PROVISIONED]:
            yield Hostile(CONTENT_PROVISIONED, f"{named}: contents with long file names", made, 30)


def _named() -> Iterator[bytes]:
    for number in itertools.count():
        yield content("b", f"n{number}", original_file_name="x" * (MEBIBYTE - 1_000))
