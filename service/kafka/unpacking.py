"""Reads the records of a record batch, within bounds, whatever its bytes.

No bytes raise. What cannot be read, or exceeds a bound of `InputLimits`, becomes a record whose value is `Unreadable`:
as many of its bytes as quarantine keeps. A batch that inflates to little is read by aiokafka's reader, which is fast
and makes objects of all headers of a record at once; others are read here, record by record, after measuring each.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiokafka.record.default_records import DefaultRecordBatch

from service.domain.delivery import Delivery, Unreadable, fingerprint
from service.domain.events import Reason
from service.domain.input_limits import KEPT_BYTES, RECORD_COST, VALUE_COST, WHOLE_BYTES, InputLimits
from service.kafka.byte_reader import ByteReader, MalformedError
from service.kafka.inflating import TooLargeError, inflate
from service.kafka.record_batches import LAYOUT, OVERHEAD, RecordBatch

_CODEC: Final = 0x07
SMALL_BYTES: Final = 1024 * 1024
"""A batch that inflates to at most so much is unpacked on the event loop, within some milliseconds. Its records have at
most half a million headers, which take 40 MB for a moment."""
_SMALL_RAW_BYTES: Final = SMALL_BYTES // 4


class Record(NamedTuple):
    """A record, with those fields of aiokafka's that are used here."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp: int = -1


class Bytes(NamedTuple):
    """What identifies a record."""

    key: bytes | memoryview | None
    value: bytes | memoryview | None


@dataclass(slots=True)
class Unpacking:
    """The records of a batch that are still to be read."""

    records: Iterator[Any]
    """They have the attributes of `Record`."""
    is_small: bool = True
    """Whether reading them does not block the event loop."""
    mean_cost: int | None = None
    """What a record takes in memory, decoded, on average; None where each has to be looked at."""


async def unpack(batch: RecordBatch, most_value_bytes: int, limits: InputLimits) -> Unpacking:
    """Inflate a batch, in a thread unless it is small. The records are read from the result one by one."""
    if batch.is_empty:
        return Unpacking(iter(()))
    if why := _unusable(batch):
        return Unpacking(iter([whole(batch, why, corrupt=batch.is_corrupt)]), mean_cost=len(batch))
    inflated: bytes | bytearray = batch.raw
    body = memoryview(inflated)[LAYOUT.size :]
    try:
        if batch.codec:
            inflated = await _inflated(batch.codec, body, limits)
            body = memoryview(inflated)
    except MalformedError as error:
        reason = Reason.TOO_LARGE if isinstance(error, TooLargeError) else Reason.UNREADABLE
        return Unpacking(iter([whole(batch, str(error), reason)]), mean_cost=len(batch))
    reader = _BatchReader(batch, body, most_value_bytes, limits)
    if len(body) > SMALL_BYTES:
        return Unpacking(reader.carefully(), is_small=False)
    records = reader.quickly()
    if records is None:
        return Unpacking(reader.carefully())
    cost = len(body) + VALUE_COST * inflated.count(b",")
    return Unpacking(iter(records), mean_cost=RECORD_COST + cost // max(1, len(records)))


def cost_of(record: Record | Delivery) -> int:
    """Return what a record takes in memory, decoded."""
    value = record.value or b""
    return (
        RECORD_COST + len(record.key or b"") + len(value) + VALUE_COST * value.count(b",") + _bytes_of(record.headers)
    )


def whole(batch: RecordBatch, why: str, reason: Reason = Reason.UNREADABLE, *, corrupt: bool = False) -> Record:
    """Return the batch as one record at its last offset, so that the position behind it is the end of the batch.

    That holds wherever in the batch the fetch began.
    """
    last = batch.next_offset - 1
    message = f"the record batch of the offsets {batch.base_offset} to {last} can't be read: {why}"
    return Record(last, None, _kept(batch.raw, batch.base_offset, message, reason, corrupt=corrupt))


async def _inflated(codec: int, body: memoryview, limits: InputLimits) -> bytes | bytearray:
    if len(body) <= _SMALL_RAW_BYTES:
        try:
            return inflate(codec, body, min(SMALL_BYTES, limits.inflated_bytes), limits)
        except TooLargeError:
            pass
    return await asyncio.to_thread(inflate, codec, body, limits.inflated_bytes, limits)


def _unusable(batch: RecordBatch) -> str | None:
    if batch.magic != 2:
        return f"its format is {batch.magic}, and only 2 is supported"
    return "its checksum is wrong" if batch.is_corrupt else None


def _kept(raw: bytes | memoryview, first: int, why: str, reason: Reason, *, corrupt: bool = False) -> Unreadable:
    """Return as many of the bytes as quarantine keeps, with the identity of all of them."""
    most = len(raw)
    if most > WHOLE_BYTES:
        most = KEPT_BYTES
        why += f"; of its {len(raw)} bytes, the first {most} are kept"
    return Unreadable(raw[:most], first, why, reason, fingerprint(Bytes(None, raw)), corrupt=corrupt)


class _BatchReader:
    """Reads the records of one inflated batch."""

    def __init__(self, batch: RecordBatch, body: memoryview, most_value_bytes: int, limits: InputLimits) -> None:
        self._batch = batch
        self._body = body
        self._most_value_bytes = most_value_bytes
        self._limits = limits

    def quickly(self) -> list[Any] | None:
        """Return all records, read by aiokafka's reader; None where it cannot, or where one exceeds a bound."""
        fields = list(LAYOUT.unpack_from(self._batch.raw))
        fields[1] = LAYOUT.size - OVERHEAD.size + len(self._body)
        fields[5] &= ~_CODEC
        raw = LAYOUT.pack(*fields) + self._body if self._batch.codec else self._batch.raw
        try:
            records = list(DefaultRecordBatch(raw))
        except Exception:  # noqa: BLE001  it raises many kinds of errors
            return None
        if any(map(self._exceeds, records)):
            return None
        first = self._batch.first
        return records if first <= self._batch.base_offset else [each for each in records if each.offset >= first]

    def _exceeds(self, record: Any) -> bool:
        limits, headers = self._limits, record.headers
        if record.key is not None and len(record.key) > limits.key_bytes:
            return True
        return bool(headers) and (len(headers) > limits.headers or _bytes_of(headers) > limits.header_bytes)

    def carefully(self) -> Iterator[Record]:
        """Yield every record whose bounds are known. If the others are not, the batch follows as one unreadable record.

        That record has the batch's last offset. A readable record with that offset is left out, since it is in the raw
        bytes.
        """
        last, read = self._batch.next_offset - 1, 0
        held = None
        try:
            for record in self._one_by_one():
                if held is not None:
                    yield held
                held, read = record, read + 1
        except MalformedError as error:
            if held is not None and held.offset < last:
                yield held
            yield whole(self._batch, f"{error}, after {read} records")
        else:
            if held is not None:
                yield held

    def _one_by_one(self) -> Iterator[Record]:
        """Yield the records one by one. Raises MalformedError."""
        batch = self._batch
        reader, offset = ByteReader(self._body), batch.base_offset - 1
        fields = LAYOUT.unpack_from(batch.raw)
        appended_at = fields[8] if fields[5] & 0x08 else None  # the log's time, where the topic says so
        for _ in range(fields[-1]):
            record = self._read(reader.take(reader.integer()), offset + 1, fields[7], appended_at)
            if not offset < record.offset < batch.next_offset:
                raise MalformedError(f"the offset {record.offset} is not in its range")
            offset = record.offset
            if offset >= batch.first:
                yield record
        if not reader.at_end:
            raise MalformedError("bytes follow its last record")

    def _read(self, raw: memoryview, next_offset: int, first_timestamp: int, appended_at: int | None) -> Record:
        """Read one record, whatever the names of its headers. A malformed one is Unreadable, at `next_offset`."""
        reader, limits = ByteReader(raw), self._limits
        try:
            reader.take(1)  # its attributes, which are unused
            timestamp = first_timestamp + reader.integer()
            if appended_at is not None:
                timestamp = appended_at
            offset = self._batch.base_offset + reader.integer()
            key, value = reader.nullable(), reader.nullable()
            count, length = reader.integer(), reader.rest
            if (
                len(key or b"") > limits.key_bytes
                or len(value or b"") > self._most_value_bytes
                or count > limits.headers
                or length > limits.header_bytes + 6 * limits.headers
            ):
                return self._too_large(offset, timestamp, key, value, count, length)
            headers = [_header(reader) for _ in range(count)]
        except MalformedError as error:
            why = f"the record at offset {next_offset} can't be read: {error}"
            return Record(next_offset, None, _kept(raw, next_offset, why, Reason.UNREADABLE))
        if _bytes_of(headers) > limits.header_bytes:
            return self._too_large(offset, timestamp, key, value, count, length)
        return Record(
            offset,
            None if key is None else bytes(key),
            None if value is None else bytes(value),
            headers,
            timestamp,
        )

    def _too_large(
        self,
        offset: int,
        timestamp: int,
        key: memoryview | None,
        value: memoryview | None,
        headers: int,
        header_bytes: int,
    ) -> Record:
        """Return a record without its headers, and with the first bytes of its key and value."""
        limits = self._limits
        for what, size, most in (
            ("the key has {} bytes", len(key or b""), limits.key_bytes),
            ("the value has {} bytes", len(value or b""), self._most_value_bytes),
            ("the record has {} headers", headers, limits.headers),
            ("the headers have {} bytes", header_bytes, limits.header_bytes),
        ):
            if size > most:
                why = f"{what.format(size)}, more than {most}"
                break
        kept_key = None if key is None else bytes(key[: limits.key_bytes])
        kept = _kept(value or memoryview(b""), offset, why, Reason.TOO_LARGE)
        kept.digest = fingerprint(Bytes(key, value))
        return Record(offset, kept_key, kept, (), timestamp)


def _header(reader: ByteReader) -> tuple[str, bytes | None]:
    name = bytes(reader.take(reader.integer())).decode("utf-8", "backslashreplace")
    value = reader.nullable()
    return name, None if value is None else bytes(value)


def _bytes_of(headers: Sequence[tuple[str, bytes | None]]) -> int:
    return sum(len(name) + len(value or b"") for name, value in headers)
