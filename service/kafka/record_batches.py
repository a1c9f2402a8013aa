"""Reads the record batches of a fetch with aiokafka's reader, and with a lenient one where that fails.

No bytes that a broker sends may raise: aiokafka raises for a header name that is not UTF-8, for a wrong checksum and
for a malformed record, and would fetch the same bytes again, as would every other pod. It also inflates a record batch
as a whole, however large that becomes. Here undecodable bytes of a header name are escaped, and what cannot be read
becomes one record whose value is `Unreadable`.

The layout of a record batch (magic 2) is in Kafka's protocol guide, under "Record Batch".
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

import cramjam
from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch

LARGEST_INFLATED: Final = 64 * 1024 * 1024
"""Bytes: twice the largest record that an input topic accepts, and far more than producers put into one batch."""

_OVERHEAD: Final = struct.Struct(">qi")
_LAYOUT: Final = struct.Struct(">qiibIhiqqqhii")
_MAGIC: Final = 2
_CODEC: Final = 0x07


class Unreadable(bytes):
    """Raw bytes in which no record could be read, from the offset `first` on. `why` is the reason.

    `corrupt` says that their checksum is wrong: they may be intact when they are fetched again.
    """

    first: int
    why: str
    corrupt: bool

    def __new__(cls, raw: bytes, first: int, why: str, *, corrupt: bool = False) -> "Unreadable":
        self = super().__new__(cls, raw)
        self.first, self.why, self.corrupt = first, why, corrupt
        return self


class Record(NamedTuple):
    """A record with the fields that aiokafka expects."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = -1
    timestamp_type: int = 0
    checksum: None = None


class _MalformedError(ValueError):
    """A record batch or a record violates its format; the message says how."""


class Records:
    """The fetched record batches of one partition. Replaces aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._begin = self._end = 0
        self._find_next()
        self.leader_epoch: int = _LAYOUT.unpack_from(data)[2] if self.has_next() else -1
        """The epoch of the leader that appended the first batch, as the partition's leader at that time."""

    def size_in_bytes(self) -> int:
        """Return the size of the fetched bytes."""
        return len(self._data)

    def has_next(self) -> bool:
        """Return whether another whole batch follows: the last one of a fetch may be cut off."""
        return self._begin < self._end <= len(self._data)

    def next_batch(self) -> "RecordBatch":
        """Return the next batch."""
        raw = self._data[self._begin : self._end]
        self._find_next()
        return RecordBatch(raw)

    def _find_next(self) -> None:
        self._begin = self._end
        if len(self._data) - self._begin >= _LAYOUT.size:
            self._end += max(_OVERHEAD.size + _OVERHEAD.unpack_from(self._data, self._begin)[1], _LAYOUT.size)


class RecordBatch:
    """One record batch, with the attributes and methods that aiokafka uses. None of them raises."""

    __slots__ = ("_corrupt", "_raw", "_reader", "base_offset", "is_control_batch", "next_offset")

    is_transactional = False
    producer_id = None  # used by aiokafka only with the isolation level read_committed

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._reader = DefaultRecordBatch(raw)
        self.base_offset: int = self._reader.base_offset
        is_known = self._reader.magic == _MAGIC
        self._corrupt = is_known and not self._reader.validate_crc()
        self.next_offset: int = max(self._reader.next_offset if is_known else 0, self.base_offset + 1)
        self.is_control_batch: bool = is_known and not self._corrupt and self._reader.is_control_batch

    def validate_crc(self) -> bool:
        """Return True: a wrong checksum is reported by reading the batch, not by an exception of aiokafka."""
        return True

    def __iter__(self) -> Iterator[Any]:
        if self._reader.magic != _MAGIC:
            yield self._unreadable(f"its format is {self._reader.magic}, and only {_MAGIC} is supported")
            return
        if self._corrupt:
            yield self._unreadable("its checksum is wrong", corrupt=True)
            return
        if self._reader.compression_type:
            try:
                self._inflate()
            except _MalformedError as error:
                yield self._unreadable(str(error))
                return
        read = 0
        try:
            for record in self._reader:
                read += 1
                yield record
        except Exception:  # noqa: BLE001  aiokafka's reader raises many kinds of errors
            yield from islice(self._leniently(), read, None)

    def _inflate(self) -> None:
        """Replace the raw bytes by those of the same batch, uncompressed. Raises _MalformedError."""
        fields = list(_LAYOUT.unpack_from(self._raw))
        body = _inflate(self._reader.compression_type, self._raw[_LAYOUT.size :])
        fields[1] = _LAYOUT.size - _OVERHEAD.size + len(body)
        fields[5] &= ~_CODEC
        self._raw = _LAYOUT.pack(*fields) + body
        self._reader = DefaultRecordBatch(self._raw)

    def _leniently(self) -> Iterator[Record]:
        """Yield every record whose bounds are known. If the others are not, the batch follows as one unreadable record.

        That record has the batch's last offset. A readable record with that offset is left out, since it is in the raw
        bytes.
        """
        read: list[Record] = []
        why = None
        try:
            for record in self._one_by_one():
                read.append(record)  # noqa: PERF402  those before the malformed one count
        except _MalformedError as error:
            why = f"{error}, after {len(read)} records"
        for record in read:
            if why is None or record.offset < self.next_offset - 1:
                yield record
        if why is not None:
            yield self._unreadable(why)

    def _one_by_one(self) -> Iterator[Record]:
        """Yield the records one by one. Raises _MalformedError."""
        reader, offset = ByteReader(memoryview(self._raw)[_LAYOUT.size :]), self.base_offset - 1
        for _ in range(_LAYOUT.unpack_from(self._raw)[-1]):
            record = _read(reader.take(reader.integer()), self.base_offset, offset + 1)
            if not offset < record.offset < self.next_offset:
                raise _MalformedError(f"the offset {record.offset} is not in its range")
            offset = record.offset
            yield record
        if not reader.at_end:
            raise _MalformedError("bytes follow its last record")

    def _unreadable(self, why: str, *, corrupt: bool = False) -> Record:
        """Return the batch as one record at its last offset, so that the position behind it is the end of the batch.

        That holds wherever in the batch the fetch began.
        """
        last = self.next_offset - 1
        message = f"the record batch of the offsets {self.base_offset} to {last} can't be read: {why}"
        return Record(last, None, Unreadable(self._raw, self.base_offset, message, corrupt=corrupt))


class FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """The fetched records of one partition. Those of another leader than before are dropped, once.

    An unclean election truncates a log, which may grow beyond the consumer's position before the next fetch: then no
    error says that other records are at its offsets. Whoever asks `new_leaders` must check that before going on.
    """

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Return the next records, or none where another leader has appended them."""
        if self._partition_records is not None:
            known = _leader_epochs(self._assignment)
            tp, epoch = self._topic_partition, self._partition_records._records.leader_epoch  # noqa: SLF001
            if known.setdefault(tp, epoch) != epoch:
                known[tp] = epoch
                _new_leaders(self._assignment).add(tp)
                self._partition_records = None
                return []
        records: list[Any] = super().getall(max_records)
        return records


def new_leaders(assignment: Any) -> set[TopicPartition]:
    """Return the partitions of aiokafka's assignment whose records were dropped, and forget them."""
    found = set(_new_leaders(assignment))
    _new_leaders(assignment).clear()
    return found


def _leader_epochs(assignment: Any) -> dict[TopicPartition, int]:
    return assignment.__dict__.setdefault("els_leader_epochs", {})  # type: ignore[no-any-return]


def _new_leaders(assignment: Any) -> set[TopicPartition]:
    return assignment.__dict__.setdefault("els_new_leaders", set())  # type: ignore[no-any-return]


def install() -> None:
    """Make all consumers of this process read with these classes. aiokafka looks them up by these names."""
    fetcher.MemoryRecords = Records
    fetcher.FetchResult = FetchResult


class ByteReader:
    """Reads values from the bytes of a record batch, one after the other."""

    __slots__ = ("_at", "_bytes")

    def __init__(self, data: memoryview) -> None:
        self._bytes = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether all bytes are read."""
        return self._at == len(self._bytes)

    def integer(self) -> int:
        """Read a variable-length, zig-zag encoded integer. Raises _MalformedError, as do the other methods."""
        value = shift = 0
        while shift < 70 and self._at < len(self._bytes):
            byte = self._bytes[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise _MalformedError("an integer has no end")

    def take(self, length: int) -> memoryview:
        """Read exactly `length` bytes."""
        if not 0 <= length <= len(self._bytes) - self._at:
            raise _MalformedError(f"the length {length} exceeds it")
        self._at += length
        return self._bytes[self._at - length : self._at]

    def nullable(self) -> bytes | None:
        """Read bytes with their length before them; the length -1 stands for None."""
        length = self.integer()
        return None if length == -1 else bytes(self.take(length))


def _read(raw: memoryview, base_offset: int, next_offset: int) -> Record:
    """Read one record, also with header names that are not UTF-8. A malformed one is Unreadable, at `next_offset`."""
    reader = ByteReader(raw)
    try:
        reader.take(1)  # its attributes, which are unused
        reader.integer()  # its time, which is not used
        offset = base_offset + reader.integer()
        key, value = reader.nullable(), reader.nullable()
        headers = [_header(reader) for _ in range(reader.integer())]
        return Record(offset, key, value, headers)
    except _MalformedError as error:
        why = f"the record at offset {next_offset} can't be read: {error}"
        return Record(next_offset, None, Unreadable(bytes(raw), next_offset, why))


def _header(reader: ByteReader) -> tuple[str, bytes | None]:
    name = bytes(reader.take(reader.integer())).decode("utf-8", "backslashreplace")
    return name, reader.nullable()


def _inflate(codec: int, data: bytes) -> bytes:
    """Return the data uncompressed, in bounded memory. Raises _MalformedError."""
    try:
        match codec:
            case 1:
                return _inflate_gzip(data)
            case 2:
                return _inflate_snappy(data)
            case 3:
                return _inflate_into(cramjam.lz4.decompress_into, data)
            case 4:
                return _inflate_into(cramjam.zstd.decompress_into, data)
    except _MalformedError:
        raise
    except Exception as error:
        raise _MalformedError(f"it can't be inflated: {type(error).__name__}: {error}") from error
    raise _MalformedError(f"its compression {codec} is unknown")


def _inflate_gzip(data: bytes) -> bytes:
    inflated = b""
    while data:  # usually one member, but there may be more
        member = zlib.decompressobj(wbits=31)
        inflated += member.decompress(data, LARGEST_INFLATED + 1 - len(inflated))
        _check_size(len(inflated))
        if not member.eof:
            raise _MalformedError("its compressed data is cut off")
        data = member.unused_data
    return inflated


def _inflate_into(inflate: Callable[[bytes, bytearray], int], data: bytes) -> bytes:
    """Inflate into a buffer that grows until the result fits: these codecs do not report the size that they need."""
    room = max(64 * 1024, 16 * len(data))
    while True:
        inflated = bytearray(min(room, LARGEST_INFLATED))
        try:
            return bytes(memoryview(inflated)[: inflate(data, inflated)])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise
        _check_size(room)
        room *= 8


def _inflate_snappy(data: bytes) -> bytes:
    """Inflate raw Snappy, or the blocks that Java's library writes: a header of 16 bytes, then each with its length."""
    if not data.startswith(b"\x82SNAPPY\0"):
        _check_size(cramjam.snappy.decompress_raw_len(data))
        return bytes(cramjam.snappy.decompress_raw(data))
    blocks, reader = bytearray(), ByteReader(memoryview(data)[16:])
    while not reader.at_end:
        block = bytes(reader.take(int.from_bytes(reader.take(4))))
        _check_size(len(blocks) + cramjam.snappy.decompress_raw_len(block))
        blocks += cramjam.snappy.decompress_raw(block)
    return bytes(blocks)


def _check_size(size: int) -> None:
    """Raise _MalformedError where a batch inflates to too many bytes."""
    if size > LARGEST_INFLATED:
        raise _MalformedError(f"it inflates to more than {LARGEST_INFLATED} bytes")
