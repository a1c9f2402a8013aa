"""Takes the record batches of a fetch from aiokafka as they are: neither inflated nor read.

aiokafka unpacks in the fetch, on the event loop and without bounds: a record batch of 4 kB may take 1.5 GB. It also
raises for a wrong checksum and for a malformed record, and would fetch the same bytes again, as would every other pod.
Here each record batch is one record to aiokafka, and `unpacking` reads what is in it. A record batch of an aborted
transaction is returned as well, without records: aiokafka would drop it, and its offsets would look like missing ones.

The layout of a record batch (magic 2) is in Kafka's protocol guide, under "Record Batch".
"""

import asyncio
import struct
from collections import deque
from collections.abc import Container, Iterable, Iterator
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
LARGEST_MARKER: Final = 128
"""Bytes of a record batch that may be a marker: it has a key of 4 bytes and a value of 6."""
_ABORT: Final = struct.Struct(">hh").pack(0, 0)
"""The key of a marker that aborts a transaction: its version and its type."""


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
        self._aborted: deque[tuple[int, int]] = deque()
        self._aborting: set[int] = set()
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

    def hide(self, aborted: Iterable[tuple[int, int]]) -> None:
        """Return the batches of these transactions without records.

        Each is a producer's number and the offset at which its transaction begins, in the order of these offsets.
        """
        self._aborted = deque(aborted)

    def next_batch(self) -> "RecordBatch":
        """Return the next batch."""
        batch = RecordBatch(self._data[self._begin : self._end])
        self._find_next()
        if self._aborted or self._aborting:
            self._check_aborted(batch)
        return batch

    def _check_aborted(self, batch: "RecordBatch") -> None:
        while self._aborted and self._aborted[0][1] <= batch.base_offset:
            self._aborting.add(self._aborted.popleft()[0])
        if not batch.is_readable:
            if len(batch) <= LARGEST_MARKER:
                # It may be the marker at the end of any of them: what is committed behind it must not be lost.
                self._aborting.clear()
        elif batch.transaction_of in self._aborting:
            if batch.aborts:
                self._aborting.remove(batch.transaction_of)
            batch.is_empty = True

    def _find_next(self) -> None:
        self._begin = self._end
        if len(self._data) - self._begin >= LAYOUT.size:
            self._end += max(OVERHEAD.size + OVERHEAD.unpack_from(self._data, self._begin)[1], LAYOUT.size)


class RecordBatch:
    """One record batch, with the attributes and methods that aiokafka uses. None of them raises."""

    __slots__ = (
        "aborts",
        "base_offset",
        "codec",
        "first",
        "is_corrupt",
        "is_empty",
        "is_readable",
        "magic",
        "next_offset",
        "raw",
        "transaction_of",
    )

    is_control_batch = False  # aiokafka would drop it, and its offsets would look like missing ones
    is_transactional = False
    producer_id = None  # the same

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
        self.is_readable: bool = is_known and not self.is_corrupt
        self.transaction_of: int | None = reader.producer_id if self.is_readable and reader.is_transactional else None
        """The number of the producer whose transaction it belongs to; None where it belongs to none."""
        self.is_empty: bool = self.is_readable and reader.is_control_batch
        """Whether it has no input: it is the marker at the end of a transaction, or its transaction is aborted."""
        self.aborts: bool = self.is_empty and _is_abort(reader)
        """Whether it is the marker that aborts its transaction."""

    def __len__(self) -> int:
        return len(self.raw)

    def validate_crc(self) -> bool:
        """Return True: a wrong checksum is reported by reading the batch, not by an exception of aiokafka."""
        return True

    def __iter__(self) -> Iterator[FetchedBatch]:
        """Yield this batch, as aiokafka's only record, at its last offset."""
        yield FetchedBatch(self.next_offset - 1, self)


def _is_abort(reader: DefaultRecordBatch) -> bool:
    try:
        return bool(next(reader).key == _ABORT)
    except Exception:  # noqa: BLE001  it raises many kinds of errors
        return False


class FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """The fetched records of one partition. Those of another leader than before are dropped, once.

    An unclean election truncates a log, which may grow beyond the consumer's position before the next fetch: then no
    error says that other records are at its offsets. Whoever asks `new_leaders` must check that before going on.
    """

    _partition_records: Any

    def __init__(self, tp: TopicPartition, *, partition_records: Any, **rest: Any) -> None:
        super().__init__(tp, partition_records=partition_records, **rest)
        if isinstance(partition_records._records, Records):  # noqa: SLF001
            partition_records._records.hide(partition_records._aborted_transactions)  # noqa: SLF001

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
