"""Reads polls: takes record batches from the membership, and unpacks and decodes their records within bounds."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from service.consumer.partitions import Assignment, Partition, PartitionRead
from service.domain.delivery import Delivery
from service.kafka.deliveries import OpenBatch, decode_all, open_batch
from service.kafka.group import ConsumerOptions
from service.kafka.record_batches import RecordBatch
from service.kafka.unpacking import cost_of
from service.runtime import metrics

_log = structlog.get_logger(__name__)

POLL_MS = 250
"""How long a poll waits for the first record. It bounds the delay of a stop."""
SLICE = 250
"""Records that are read and decoded before other tasks of the event loop run."""
MOST_BATCHES: Final = 2_000
"""Record batches that are opened in a poll. They may have no records."""
BACKLOG_LIMIT: Final = 4
"""How many polls' worth of records may be deferred. Beyond that, the partitions that they came from are not read."""


@dataclass(slots=True)
class _Opened:
    """The batch that is being read. It is stale when its partition has another epoch."""

    partition: Partition
    epoch: int
    batch: OpenBatch


class PollReader:
    """Reads polls from the assigned partitions. One record batch is open at a time, since it may be large."""

    def __init__(self, assignment: Assignment, options: ConsumerOptions) -> None:
        self._assignment = assignment
        self._options = options
        self.slice = options.of
        self._opened: _Opened | None = None
        self._working: tuple[TopicPartition, float] | None = None
        self.idle = asyncio.Event()
        """Cleared while a poll is in the database. Meanwhile the next poll goes on reading what arrives."""
        self.idle.set()

    def begin(self) -> None:
        """Forget what was read in a membership before."""
        self._opened = self._working = None

    def hanging(self, seconds: float) -> TopicPartition | None:
        """Return the partition whose records have been unpacked or decoded for longer than this, without an end."""
        tp, since = self._working or (None, math.inf)
        return tp if time.monotonic() - since > seconds else None

    async def read(self, paused: Collection[str], deferred_bytes: int) -> list[PartitionRead]:
        """Read the next poll from all partitions that are not paused, isolated, or beyond the backlog limit."""
        partitions = self._assignment.partitions.values()
        is_full = (
            sum(len(each.deferred) for each in partitions) > BACKLOG_LIMIT * self._options.max_poll_records
            or deferred_bytes > self._options.limits.poll_bytes
        )
        tps = [
            each.tp
            for each in partitions
            if each.row is not None
            and not (is_full and each.deferred)
            and not each.isolation
            and each.tp.topic not in paused
        ]
        if not tps:
            await asyncio.sleep(0.05)
            return []
        return await self.read_from(tps, self._options.max_poll_records, POLL_MS)

    async def read_from(self, tps: Sequence[TopicPartition], records: int, wait_ms: int) -> list[PartitionRead]:
        """Read and decode at most `records` records of these partitions, within the budget of a poll."""
        partitions = [self._assignment.partitions[tp] for tp in tps]
        reads = {each.tp: PartitionRead(each, each.epoch) for each in partitions}
        turns: deque[Partition] = deque(each for each in partitions if each.fetched)
        number, opened, left = 0, 0, self._options.limits.poll_bytes
        unread = self._options.max_poll_records * self._options.of.cells
        # Also where batches have no records, since their transactions are aborted.
        while (
            number < records
            and unread > 0
            and opened < MOST_BATCHES
            and left > 0
            and not any(map(_is_stale, reads.values()))
        ):
            if not self._continued(tps):
                while turns and not turns[0].fetched:
                    turns.popleft()
                if not turns:
                    if (number or opened) and self.idle.is_set():
                        break
                    enough = self.idle if number or opened else None
                    if not await self.fetch(partitions, wait_ms, enough) and self.idle.is_set():
                        break
                    turns.extend(each for each in partitions if each.fetched)
                    continue
                await self.open(reads[turns[0].tp])
                opened += 1
                turns.rotate(-1)
                continue
            partition, taken, cost = await self.take(min(SLICE, records - number), left)
            deliveries = await self.decode(partition.tp, taken)
            reads[partition.tp].add(taken, deliveries)
            number += len(deliveries)
            unread -= len(taken)
            left -= cost if len(deliveries) == len(taken) else sum(cost_of(each) for each in deliveries)
            await asyncio.sleep(0)
        for read in reads.values():
            read.position = read.partition.position
        return [
            read
            for read in reads.values()
            if not read.stale and (read.deliveries or read.position > read.partition.reached)
        ]

    def skip(self, partition: Partition) -> None:
        """Go on behind what operators have skipped, also where it cannot be fetched."""
        while (end := partition.end_of_skipped(first := partition.position)) is not None:
            if partition.fetched and end < partition.fetched[0].next_offset:
                if self.is_open(partition):
                    return  # it is left out when it is read
                partition.fetched[0].first = end
            elif partition.fetched:
                if self.is_open(partition):
                    self._opened = None
                partition.fetched.popleft()
                partition.covered = max(partition.covered, end)
            else:
                partition.covered = end
                self._assignment.membership.rewind(partition.tp, end)
            _report_skipped(partition, first, end)

    async def fetch(self, partitions: Sequence[Partition], wait_ms: int, enough: asyncio.Event | None = None) -> bool:
        """Fetch record batches of these partitions, and note them there. Returns whether there are any."""
        for each in partitions:
            self.skip(each)
        by_tp = {each.tp: (each, each.epoch) for each in partitions}
        try:
            fetched = await self._assignment.membership.fetch(list(by_tp), wait_ms, enough)
            self._assignment.check_leaders()
        except OffsetOutOfRangeError as error:
            for tp in error.args[0]:
                self._assignment.lose(tp)
            return False
        for tp, batches in fetched.items():
            partition, epoch = by_tp[tp]
            if partition.epoch == epoch:
                partition.fetched.extend(batches)
        return bool(fetched)

    def _continued(self, tps: Collection[TopicPartition]) -> bool:
        """Whether the open batch is of these partitions. Otherwise closes it: it is unpacked anew at its turn."""
        opened = self._opened
        if opened is None:
            return False
        if opened.epoch == opened.partition.epoch and opened.partition.tp in tps:
            return True
        self._opened = None
        return False

    async def next_batch(self, partition: Partition, wait_ms: int) -> RecordBatch | None:
        """Return the batch of the next records of the partition, None where none arrives."""
        if not partition.fetched:
            await self.fetch([partition], wait_ms)
        return partition.fetched[0] if partition.fetched else None

    def is_open(self, partition: Partition) -> bool:
        """Whether the batch of its next records is inflated already."""
        return self._continued([partition.tp])

    async def open(self, read: PartitionRead) -> None:
        """Inflate the next batch of the partition, unless an operator has skipped the rest of what is fetched."""
        self.skip(read.partition)
        if not read.partition.fetched:
            return
        batch, tp = read.partition.fetched[0], read.partition.tp
        read.opened(batch)
        with self._work(tp):
            opened = await open_batch(tp, batch, self._options.limits)
        self._opened = _Opened(read.partition, read.epoch, opened)

    async def fetch_each(self, tps: Sequence[TopicPartition], wait_ms: int) -> None:
        """Fetch until there is something of each of these partitions, for `wait_ms` at most."""
        until = time.monotonic() + wait_ms / 1000
        while (
            missing := [
                partition for tp in tps if (partition := self._assignment.partitions.get(tp)) and not partition.fetched
            ]
        ) and (left := until - time.monotonic()) > 0:
            await self.fetch(missing, round(left * 1000))

    async def take(self, most: int, most_cost: float) -> tuple[Partition, list[Any], int]:
        """Read records of the open batch. Returns its partition, the records, and what they take.

        Raises LookupError where none is open.
        """
        opened = self._opened
        if opened is None:
            raise LookupError("no record batch is open")
        with self._work(opened.partition.tp):
            taken, cost = await opened.batch.take(most, most_cost)
        if opened.partition.skipped:
            taken = _without_skipped(opened.partition, taken)
        if opened.batch.is_done:
            self._opened = None
            if opened.epoch == opened.partition.epoch:
                opened.partition.fetched.popleft()
        return opened.partition, taken, cost

    async def decode(self, tp: TopicPartition, records: Sequence[Any]) -> list[Delivery]:
        """Decode records of one partition."""
        with self._work(tp):
            return await decode_all(tp, records, self._options.limits, self._options.of)

    @contextmanager
    def _work(self, tp: TopicPartition) -> Iterator[None]:
        """Note what is worked on; where the work is cancelled, its thread goes on, and the note stays."""
        self._working = (tp, time.monotonic())
        yield
        self._working = None


def _is_stale(read: PartitionRead) -> bool:
    return read.stale


def _without_skipped(partition: Partition, taken: list[Any]) -> list[Any]:
    kept = []
    for record in taken:
        if partition.end_of_skipped(record.offset) is None:
            kept.append(record)
        else:
            _report_skipped(partition, record.offset, record.offset + 1)
    return kept


def _report_skipped(partition: Partition, first: int, end: int) -> None:
    """Count and log what is skipped, unless the row contains it: a pod begins behind the last record."""
    if partition.row is not None and end <= partition.row:
        return
    topic, number = partition.tp
    metrics.LOST_INPUTS.labels(topic).inc(end - first)
    _log.error("inputs_lost", topic=topic, partition=number, first_offset=first, next_offset=end, cause="skipped")
