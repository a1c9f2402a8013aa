"""Takes the record batches of a fetch from aiokafka as they are: neither inflated nor read.

aiokafka unpacks in the fetch, on the event loop and without bounds: a record batch of 4 kB may take 1.5 GB. It also
raises for a wrong checksum and for a malformed record, and would fetch the same bytes again, as would every other pod.
Here each record batch is one record to aiokafka, and `unpacking` reads what is in it.

The layout of a record batch (magic 2) is in Kafka's protocol guide, under "Record Batch".
"""

import asyncio
import struct
from collections.abc import Container, Iterator
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

OVERHEAD: Final = struct.Struct(">qi")
LAYOUT: Final = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, checksum, attributes, last offset delta, first and last timestamp, three
numbers of the producer, number of records."""
_MAGIC: Final = 2


class FetchedBatch(NamedTuple):
    """A record batch with the fields that aiokafka expects of a record."""

    offset: int
    value: "RecordBatch"
    key: None = None
    headers: tuple[()] = ()
    timestamp: int = -1
    timestamp_type: int = 0
    checksum: None = None


class Records:
    """The fetched record batches of one partition. Replaces aiokafka's `MemoryRecords`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._begin = self._end = 0
        self._find_next()
        self.leader_epoch: int = LAYOUT.unpack_from(data)[2] if self.has_next() else -1
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
        if len(self._data) - self._begin >= LAYOUT.size:
            self._end += max(OVERHEAD.size + OVERHEAD.unpack_from(self._data, self._begin)[1], LAYOUT.size)


class RecordBatch:
    """One record batch, with the attributes and methods that aiokafka uses. None of them raises."""

    __slots__ = ("base_offset", "codec", "first", "is_corrupt", "is_marker", "magic", "next_offset", "raw")

    is_control_batch = False  # aiokafka would drop it, and its offsets would look like missing ones
    is_transactional = False
    producer_id = None  # used by aiokafka only with the isolation level read_committed

    def __init__(self, raw: bytes) -> None:
        reader = DefaultRecordBatch(raw)
        is_known = reader.magic == _MAGIC
        self.raw = raw
        self.magic: int = reader.magic
        self.base_offset: int = reader.base_offset
        self.first: int = reader.base_offset
        """Records below this offset are not wanted: the fetch began behind them."""
        self.is_corrupt: bool = is_known and not reader.validate_crc()
        self.codec: int = reader.compression_type if is_known else 0
        self.next_offset: int = max(reader.next_offset if is_known else 0, reader.base_offset + 1)
        self.is_marker: bool = is_known and not self.is_corrupt and reader.is_control_batch
        """Whether it is the end of a transaction, and has no input."""

    def __len__(self) -> int:
        return len(self.raw)

    def validate_crc(self) -> bool:
        """Return True: a wrong checksum is reported by reading the batch, not by an exception of aiokafka."""
        return True

    def __iter__(self) -> Iterator[FetchedBatch]:
        """Yield this batch, as aiokafka's only record, at its last offset."""
        yield FetchedBatch(self.next_offset - 1, self)


class FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """The fetched records of one partition. Those of another leader than before are dropped, once.

    An unclean election truncates a log, which may grow beyond the consumer's position before the next fetch: then no
    error says that other records are at its offsets. Whoever asks `new_leaders` must check that before going on.
    """

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        """Return the next records, or none where another leader has appended them."""
        if self._partition_records is None or not isinstance(self._partition_records._records, Records):  # noqa: SLF001
            return super().getall(max_records)  # type: ignore[no-any-return]
        known = _leader_epochs(self._assignment)
        tp, epoch = self._topic_partition, self._partition_records._records.leader_epoch  # noqa: SLF001
        if known.setdefault(tp, epoch) != epoch:
            known[tp] = epoch
            _new_leaders(self._assignment).add(tp)
            self._partition_records = None
            return []
        first = self._partition_records.next_fetch_offset
        records: list[Any] = super().getall(max_records)
        if records:
            records[0].value.first = max(records[0].value.first, first)
        return records


def new_leaders(assignment: Any) -> set[TopicPartition]:
    """Return the partitions of aiokafka's assignment whose records were dropped, and forget them."""
    found = set(_new_leaders(assignment))
    _new_leaders(assignment).clear()
    return found


def fetched_bytes(client_fetcher: Any, but: Container[TopicPartition]) -> int:
    """Return the bytes that aiokafka's fetcher holds of all but these partitions, and that `getmany` did not return."""
    return sum(
        held._partition_records._records.size_in_bytes()  # noqa: SLF001
        for tp, held in client_fetcher._records.items()  # noqa: SLF001
        if tp not in but and isinstance(held, FetchResult) and held.has_more()
    )


def _leader_epochs(assignment: Any) -> dict[TopicPartition, int]:
    return assignment.__dict__.setdefault("els_leader_epochs", {})  # type: ignore[no-any-return]


def _new_leaders(assignment: Any) -> set[TopicPartition]:
    return assignment.__dict__.setdefault("els_new_leaders", set())  # type: ignore[no-any-return]


_TAKES_BATCHES: Final = ContextVar("takes_batches", default=False)


def _records(data: bytes) -> Any:
    return Records(data) if _TAKES_BATCHES.get() else MemoryRecords(data)


async def start(client: AIOKafkaConsumer) -> None:
    """Start a client whose `getmany` then returns record batches: records with a `RecordBatch` as value.

    Other clients of the process are as before. aiokafka looks these classes up by their names; the task that fetches
    is created here, and so inherits the context.
    """
    fetcher.MemoryRecords, fetcher.FetchResult = _records, FetchResult

    async def starting() -> None:
        _TAKES_BATCHES.set(True)
        await client.start()

    await asyncio.create_task(starting())
