"""Makes deliveries of record batches, for the consumer, the audit and the recovery."""

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, NamedTuple

from aiokafka import ConsumerRecord, TopicPartition

from service.domain import incoming
from service.domain.cells import ALL_BATCHES, Slice, cell_of
from service.domain.delivery import Delivery, Unreadable
from service.domain.events import Incoming, Rejection
from service.domain.input_limits import InputLimits
from service.domain.ownership import owner_of
from service.domain.scanning import scanned_batch_id
from service.domain.topics import LARGEST_COMPRESSED
from service.kafka.record_batches import RecordBatch
from service.kafka.unpacking import Unpacking, cost_of, unpack

RECORDS_OF_A_PAGE: Final = 2_000
IN_A_THREAD_BYTES: Final = 256 * 1024
"""Larger values are decoded in a thread, so that they do not block the event loop."""


Fetched = Mapping[TopicPartition, Sequence[ConsumerRecord]]
"""What `getmany` of a client returns that takes record batches."""


IsSkipped = Callable[[TopicPartition, int, int], bool]
"""Returns whether an operator has skipped all offsets of a partition from the first to the last given one."""


class TopicRecord(NamedTuple):
    """A record with the topic that it is read from. `timestamp` is in milliseconds."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int


def decode(topic: str, partition: int, record: Any, limits: InputLimits) -> Delivery:
    """Decode one record of an input topic. It has the attributes of `unpacking.Record`."""
    value = record.value
    event: Incoming | Rejection
    if isinstance(value, Unreadable):
        event = Rejection(value.reason, value.why)
    else:
        event = incoming.decode(topic, value, max_bytes=limits.value_bytes[topic], max_values=limits.json_values)
    return Delivery(
        topic, partition, record.offset, record.key, value, record.headers, event, timestamp=record.timestamp
    )


def decode_own(topic: str, partition: int, record: Any, limits: InputLimits, of: Slice) -> Delivery | None:
    """Decode one record if it belongs to a cell. Returns None for a record of another cell.

    Most of those are recognised before they are decoded.
    """
    if of.is_all:
        return decode(topic, partition, record, limits)
    is_own = scan(record, of)
    if is_own is False:
        return None
    delivery = decode(topic, partition, record, limits)
    return delivery if is_own or owner_of(delivery, of.cells) == of.cell else None


def decode_of_cells(
    topic: str, partition: int, record: Any, limits: InputLimits, cells: Sequence[int], wanted: Container[int]
) -> tuple[int, Delivery] | None:
    """Decode one record if it belongs to one of the wanted cells. Returns the number of that cell, too.

    `cells` has, for the remainder of a hash by their count, the number of the cell that has it.
    """
    batch_id = None if len(cells) == 1 else _scanned(record)
    owner = None if batch_id is None else cells[cell_of(batch_id, len(cells))]
    if owner is not None and owner not in wanted:
        return None
    delivery = decode(topic, partition, record, limits)
    if owner is None:
        owner = cells[0 if len(cells) == 1 else owner_of(delivery, len(cells))]
    return (owner, delivery) if owner in wanted else None


def scan(record: Any, of: Slice) -> bool | None:
    """Tell whether a record belongs to a cell, without decoding it; None where that is not certain."""
    batch_id = _scanned(record)
    return None if batch_id is None else cell_of(batch_id, of.cells) == of.cell


def _scanned(record: Any) -> str | None:
    value = record.value
    return None if value is None or isinstance(value, Unreadable) else scanned_batch_id(value)


async def decode_all(
    tp: TopicPartition, records: Iterable[Any], limits: InputLimits, of: Slice = ALL_BATCHES
) -> list[Delivery]:
    """Decode records of one partition in order, without those of other cells."""
    deliveries = []
    topic, partition = tp
    step = decode if of.is_all else partial(decode_own, of=of)
    for record in records:
        if len(record.value or b"") > IN_A_THREAD_BYTES:
            delivery = await asyncio.to_thread(step, topic, partition, record, limits)
        else:
            delivery = step(topic, partition, record, limits)
        if delivery is not None:
            deliveries.append(delivery)
    return deliveries


class OpenBatch:
    """A record batch whose records are being read. `batch.first` is the offset of the next one that is wanted."""

    def __init__(self, tp: TopicPartition, batch: RecordBatch, unpacking: Unpacking) -> None:
        self.batch = batch
        self.is_done = False
        """Whether all of its records are read."""
        self._tp = tp
        self._unpacking = unpacking

    async def take(self, most: int, most_cost: float) -> tuple[list[Any], int]:
        """Read at most `most` records, until they take more than `most_cost` bytes.

        Returns the records, with the attributes of `unpacking.Record`, and what they take.
        """
        if self._unpacking.is_small:
            return self._take(most, most_cost)
        return await asyncio.to_thread(self._take, most, most_cost)

    def _take(self, most: int, most_cost: float) -> tuple[list[Any], int]:
        cost, mean_cost = 0, self._unpacking.mean_cost
        if mean_cost is not None:
            taken = list(islice(self._unpacking.records, most))
            cost = len(taken) * mean_cost
            self.is_done = len(taken) < most
        else:
            taken = []
            for record in islice(self._unpacking.records, most):
                taken.append(record)
                cost += cost_of(record)
                if cost > most_cost:
                    break
            else:
                self.is_done = len(taken) < most
        self.batch.first = taken[-1].offset + 1 if taken else self.batch.next_offset
        return taken, cost


async def open_batch(tp: TopicPartition, batch: RecordBatch, limits: InputLimits) -> OpenBatch:
    """Inflate a record batch of a partition, in a thread where it is large."""
    return OpenBatch(tp, batch, await unpack(batch, limits.value_bytes.get(tp.topic, LARGEST_COMPRESSED), limits))


async def records_of(
    fetched: Fetched, limits: InputLimits, is_skipped: IsSkipped = lambda *_: False
) -> AsyncIterator[list[TopicRecord]]:
    """Yield pages of the records in fetched batches. A page has records of one partition, and at least one.

    What `is_skipped` is left out. A batch of which that is all is not unpacked.
    """
    for tp, batches in fetched.items():
        page: list[TopicRecord] = []
        total = 0
        for batch in batches:
            if is_skipped(tp, batch.value.first, batch.value.next_offset - 1):
                continue
            opened = await open_batch(tp, batch.value, limits)
            while not opened.is_done:
                taken, cost = await opened.take(RECORDS_OF_A_PAGE, limits.poll_bytes)
                page += [
                    TopicRecord(tp.topic, tp.partition, each.offset, each.key, each.value, each.headers, each.timestamp)
                    for each in taken
                    if not is_skipped(tp, each.offset, each.offset)
                ]
                total += cost
                if len(page) >= RECORDS_OF_A_PAGE or (page and total > limits.poll_bytes):
                    yield page
                    page, total = [], 0
        if page:
            yield page
