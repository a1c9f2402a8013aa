"""What a fetch brought, record by record: aiokafka's reader where it can, our own where that gives up.

What must hold: no bytes that a broker hands over raise. aiokafka raises for a header's name that is not UTF-8, for a
checksum that does not fit, for a malformed record; it would meet the same bytes again, and so would every pod after
this one. And it inflates a record batch whole, however large that becomes. Here a name is read as well as can be,
and what can't be read comes through as one record whose value is `Unreadable`.

The layout of a record batch (magic 2) is in Kafka's protocol guide, under "Record Batch".
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import cramjam
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch

LARGEST_INFLATED: Final = 64 * 1024 * 1024
"""Bytes: twice the largest record that a topic of ours takes, and far more than producers put into one batch."""

_OVERHEAD: Final = struct.Struct(">qi")
_LAYOUT: Final = struct.Struct(">qiibIhiqqqhii")
_MAGIC: Final = 2
_CODEC: Final = 0x07


class Unreadable(bytes):
    """Raw bytes in which no record could be read, from the offset `first` on.

    `corrupt` where their checksum does not fit: a fetch made again may bring them whole.
    """

    first: int
    why: str
    corrupt: bool

    def __new__(cls, raw: bytes, first: int, why: str, *, corrupt: bool = False) -> "Unreadable":
        self = super().__new__(cls, raw)
        self.first, self.why, self.corrupt = first, why, corrupt
        return self


class Record(NamedTuple):
    """As aiokafka has it."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = -1
    timestamp_type: int = 0
    checksum: None = None


class _Broken(ValueError):
    """A record batch, or a record, is not what its format says; the message says how."""


class Records:
    """Takes the place of aiokafka's `MemoryRecords`: the record batches of one partition that a fetch brought."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._begin = self._end = 0
        self._find_next()

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        """Whether a whole batch is left: the last one of a fetch may be cut off."""
        return self._begin < self._end <= len(self._data)

    def next_batch(self) -> "Batch":
        raw = self._data[self._begin : self._end]
        self._find_next()
        return Batch(raw)

    def _find_next(self) -> None:
        self._begin = self._end
        if len(self._data) - self._begin >= _LAYOUT.size:
            self._end += max(_OVERHEAD.size + _OVERHEAD.unpack_from(self._data, self._begin)[1], _LAYOUT.size)


class Batch:
    """One record batch, of which nothing raises. What aiokafka asks of a batch it finds here."""

    __slots__ = ("_corrupt", "_raw", "_reader", "base_offset", "is_control_batch", "next_offset")

    is_transactional = False
    producer_id = None  # these are of interest to those who read only what is committed

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._reader = DefaultRecordBatch(raw)
        self.base_offset: int = self._reader.base_offset
        is_known = self._reader.magic == _MAGIC
        self._corrupt = is_known and not self._reader.validate_crc()
        self.next_offset: int = max(self._reader.next_offset if is_known else 0, self.base_offset + 1)
        self.is_control_batch: bool = is_known and not self._corrupt and self._reader.is_control_batch

    def validate_crc(self) -> bool:
        """Who reads the batch finds out."""
        return True

    def __iter__(self) -> Iterator[Any]:
        if self._reader.magic != _MAGIC:
            yield self._unreadable(f"its format is {self._reader.magic}; brokers have written {_MAGIC} for years")
            return
        if self._corrupt:
            yield self._unreadable("its checksum does not fit", corrupt=True)
            return
        if self._reader.compression_type:
            try:
                self._inflate()
            except _Broken as error:
                yield self._unreadable(str(error))
                return
        read = 0
        try:
            for record in self._reader:
                read += 1
                yield record
        except Exception:  # noqa: BLE001  aiokafka's reader gives up with what comes to its mind
            yield from islice(self._leniently(), read, None)

    def _inflate(self) -> None:
        """Become the same batch, uncompressed. Raises _Broken."""
        fields = list(_LAYOUT.unpack_from(self._raw))
        body = _inflate(self._reader.compression_type, self._raw[_LAYOUT.size :])
        fields[1] = _LAYOUT.size - _OVERHEAD.size + len(body)
        fields[5] &= ~_CODEC
        self._raw = _LAYOUT.pack(*fields) + body
        self._reader = DefaultRecordBatch(self._raw)

    def _leniently(self) -> Iterator[Record]:
        """Every record whose bounds can be told; where they can't, the batch as a whole is unreadable as well.

        That takes the last offset: a record that has it already lies in the raw bytes.
        """
        read: list[Record] = []
        why = None
        try:
            for record in self._one_by_one():
                read.append(record)  # noqa: PERF402  those before the broken one count
        except _Broken as error:
            why = f"{error}, after {len(read)} records"
        for record in read:
            if why is None or record.offset < self.next_offset - 1:
                yield record
        if why is not None:
            yield self._unreadable(why)

    def _one_by_one(self) -> Iterator[Record]:
        """Raises _Broken."""
        reading, offset = _Reading(memoryview(self._raw)[_LAYOUT.size :]), self.base_offset - 1
        for _ in range(_LAYOUT.unpack_from(self._raw)[-1]):
            record = _read(reading.some(reading.integer()), self.base_offset, offset + 1)
            if not offset < record.offset < self.next_offset:
                raise _Broken(f"an offset of {record.offset} leads out of it")
            offset = record.offset
            yield record
        if not reading.at_end:
            raise _Broken("there is more")

    def _unreadable(self, why: str, *, corrupt: bool = False) -> Record:
        """At the batch's last offset: whoever goes past it is past the batch, wherever in it the fetch began."""
        last = self.next_offset - 1
        told = f"the record batch of the offsets {self.base_offset} to {last} can't be read: {why}"
        return Record(last, None, Unreadable(self._raw, self.base_offset, told, corrupt=corrupt))


def install() -> None:
    """Have the consumers of this process read by `Records`: aiokafka makes its own reader by this name."""
    fetcher.MemoryRecords = Records


class _Reading:
    """A place in the bytes of a record batch."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, data: memoryview) -> None:
        self._bytes = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._bytes)

    def integer(self) -> int:
        """A variable-length, zig-zag encoded integer. Raises _Broken, as do the others."""
        value = shift = 0
        while shift < 70 and self._at < len(self._bytes):
            byte = self._bytes[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise _Broken("a number has no end")

    def some(self, length: int) -> memoryview:
        """The next bytes, exactly so many."""
        if not 0 <= length <= len(self._bytes) - self._at:
            raise _Broken(f"a length of {length} leads out of it")
        self._at += length
        return self._bytes[self._at - length : self._at]

    def nullable(self) -> bytes | None:
        length = self.integer()
        return None if length == -1 else bytes(self.some(length))


def _read(raw: memoryview, base_offset: int, next_offset: int) -> Record:
    """One record, whatever its headers' names are; where it is broken by itself, its bytes, at the next offset."""
    reading = _Reading(raw)
    try:
        reading.some(1)  # its attributes, which say nothing
        reading.integer()  # its time, which nobody asks for
        offset = base_offset + reading.integer()
        key, value = reading.nullable(), reading.nullable()
        headers = [_header(reading) for _ in range(reading.integer())]
        return Record(offset, key, value, headers)
    except _Broken as error:
        why = f"the record at offset {next_offset} can't be read: {error}"
        return Record(next_offset, None, Unreadable(bytes(raw), next_offset, why))


def _header(reading: _Reading) -> tuple[str, bytes | None]:
    name = bytes(reading.some(reading.integer())).decode("utf-8", "backslashreplace")
    return name, reading.nullable()


def _inflate(codec: int, data: bytes) -> bytes:
    """Uncompressed, in bounded memory. Raises _Broken."""
    try:
        match codec:
            case 1:
                return _gunzipped(data)
            case 2:
                return _unsnapped(data)
            case 3:
                return _into(cramjam.lz4.decompress_into, data)
            case 4:
                return _into(cramjam.zstd.decompress_into, data)
    except _Broken:
        raise
    except Exception as error:
        raise _Broken(f"it can't be inflated: {type(error).__name__}: {error}") from error
    raise _Broken(f"nobody knows its compression, {codec}")


def _gunzipped(data: bytes) -> bytes:
    inflated = b""
    while data:  # one member, as everybody writes it, or more
        member = zlib.decompressobj(wbits=31)
        inflated += member.decompress(data, LARGEST_INFLATED + 1 - len(inflated))
        _bound(len(inflated))
        if not member.eof:
            raise _Broken("it ends too early")
        data = member.unused_data
    return inflated


def _into(inflate: Callable[[bytes, bytearray], int], data: bytes) -> bytes:
    """These codecs inflate into what is there for it; how much they need, they do not say."""
    room = max(64 * 1024, 16 * len(data))
    while True:
        inflated = bytearray(min(room, LARGEST_INFLATED))
        try:
            return bytes(memoryview(inflated)[: inflate(data, inflated)])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
        _bound(room)
        room *= 8


def _unsnapped(data: bytes) -> bytes:
    """Snappy as such, or in the blocks that Java's library writes: a header of 16 bytes, then each with its length."""
    if not data.startswith(b"\x82SNAPPY\0"):
        _bound(cramjam.snappy.decompress_raw_len(data))
        return bytes(cramjam.snappy.decompress_raw(data))
    blocks, reading = bytearray(), _Reading(memoryview(data)[16:])
    while not reading.at_end:
        block = bytes(reading.some(int.from_bytes(reading.some(4))))
        _bound(len(blocks) + cramjam.snappy.decompress_raw_len(block))
        blocks += cramjam.snappy.decompress_raw(block)
    return bytes(blocks)


def _bound(size: int) -> None:
    if size > LARGEST_INFLATED:
        raise _Broken(f"it inflates to more than {LARGEST_INFLATED} bytes")
