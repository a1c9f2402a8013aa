"""Builds record batches that other producers may send, but aiokafka's would not."""

import struct
import time
from collections.abc import Callable, Mapping, Sequence

from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

HEADER_BYTES = 61
_LENGTH = slice(8, 12)
_CRC = slice(17, 21)
_ATTRIBUTES = slice(21, 23)
_NAME = "a-name"
_TRANSACTIONAL, _CONTROL = 0x10, 0x20

CODECS: Mapping[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (0, bytes),
    "gzip": (1, codec.gzip_encode),
    "snappy": (2, codec.snappy_encode),
    "bare snappy": (2, lambda body: codec.snappy_encode(body, xerial_compatible=False)),
    "lz4": (3, codec.lz4_encode),
    "zstd": (4, codec.zstd_encode),
}


def record_batch(
    values: Sequence[bytes | None],
    *,
    compression: str = "none",
    name: bytes = b"\xff-name",
    transaction_of: int | None = None,
) -> bytes:
    """Builds a record batch; each record has one header with the name `name`, of six bytes.

    `transaction_of` is the number of the producer whose transaction it belongs to.
    """
    now = round(time.time() * 1000)  # a broker deletes records that are older than the topic's retention
    in_transaction = transaction_of is not None
    builder = DefaultRecordBatchBuilder(2, 0, in_transaction, transaction_of or -1, -1, -1, 1 << 30)
    for number, value in enumerate(values):
        builder.append(number, now, b"key", value, [(_NAME, b"1")])
    built = bytes(builder.build())
    header, body = built[:HEADER_BYTES], built[HEADER_BYTES:].replace(_NAME.encode(), name)
    number, compressed = CODECS[compression]
    return signed(header, bytes(compressed(body)), number | (_TRANSACTIONAL if in_transaction else 0))


def marker(producer: int, *, aborts: bool, key: bytes | None = None) -> bytes:
    """Builds the marker that ends a producer's transaction."""
    builder = DefaultRecordBatchBuilder(2, 0, 1, producer, 0, -1, 1 << 30)
    builder.append(0, 0, struct.pack(">hh", 0, not aborts) if key is None else key, b"\0" * 6, [])
    built = bytes(builder.build())
    return signed(built[:HEADER_BYTES], built[HEADER_BYTES:], _TRANSACTIONAL | _CONTROL)


def signed(header: bytes, body: bytes, codec_number: int = 0) -> bytes:
    """Joins header and body to a batch with the right length and checksum."""
    fields = bytearray(header)
    fields[_LENGTH] = struct.pack(">i", len(header) - _LENGTH.stop + len(body))
    fields[_ATTRIBUTES] = struct.pack(">h", codec_number)
    fields[_CRC] = struct.pack(">I", calc_crc32c(bytes(fields[_ATTRIBUTES.start :]) + body))
    return bytes(fields) + body


def corrupt(batch: bytes) -> bytes:
    """Returns the batch with a wrong checksum."""
    return batch[:-1] + bytes([batch[-1] ^ 1])


def at(offset: int, batch: bytes) -> bytes:
    """Returns the batch with its base offset, as the broker stores it."""
    return struct.pack(">q", offset) + batch[8:]
