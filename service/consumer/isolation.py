"""Reads the records that may have crashed a pod, in small portions, with nothing else in progress."""

import asyncio
import math
from typing import Final

from service.consumer.crash_marks import CrashMarks, IsolationRange, killed
from service.consumer.deferred import DeferredRecords
from service.consumer.offsets import OffsetCommitter
from service.consumer.partitions import Assignment, Partition, PartitionRead
from service.consumer.paused_topics import PausedTopics
from service.consumer.reader import POLL_MS, PollReader
from service.kafka.deliveries import scan
from service.kafka.record_batches import RecordBatch
from service.kafka.unpacking import whole

WRITTEN_SECONDS: Final = 0.05
"""Pause between two checks whether the row has reached the isolated records."""


class Isolation:
    """Reads the isolated partitions of one consumer."""

    def __init__(
        self,
        assignment: Assignment,
        marks: CrashMarks,
        paused: PausedTopics,
        deferred: DeferredRecords,
        offsets: OffsetCommitter,
        reader: PollReader,
    ) -> None:
        self._assignment = assignment
        self._marks = marks
        self._paused = paused
        self._deferred = deferred
        self._offsets = offsets
        self._reader = reader

    def next(self) -> Partition | None:
        """Return the next partition with isolated records, None where there is none."""
        for partition in self._assignment.partitions.values():
            if partition.row is not None and partition.isolation and partition.tp.topic not in self._paused.names:
                return partition
        return None

    async def read(self, partition: Partition) -> list[PartitionRead]:
        """Read and mark the next portion of isolated records: first their record batch, before it is unpacked.

        The offsets before it are committed first, so that after a crash the next pod begins with this portion. Crashes
        are then counted for the records that are tried again, not for those behind them.
        """
        read, isolation = PartitionRead(partition, partition.epoch), partition.isolation
        await self._deferred.wait()
        while partition.unwritten and not read.stale:  # noqa: ASYNC110  it is written in many places
            # Records of other cells were passed, and no transaction has written that yet.
            await asyncio.sleep(WRITTEN_SECONDS)
        await self._offsets.commit()
        if read.stale or isolation is None:
            return []
        self._reader.skip(partition)
        batch = await self._reader.next_batch(partition, POLL_MS)
        if read.epoch != partition.epoch:
            return []
        if batch is None or batch.first >= isolation.end:
            if batch or await self._assignment.membership.brokers.is_at_the_end(partition.tp):
                await self._marks.end_isolation(partition.tp)
                partition.isolation = None
            return []
        if batch.first == isolation.culprit and isolation.is_batch and not batch.is_empty:
            partition.fetched.popleft()
            read.opened(batch)
            read.deliveries.append(killed(partition.tp, whole(batch, "it is skipped")))
        else:
            await self._portion(read, isolation, batch)
        read.position = partition.position
        return [read]

    async def _portion(self, read: PartitionRead, isolation: IsolationRange, batch: RecordBatch) -> None:
        """Read the next records of the batch. It is marked before it is unpacked, and they before they are decoded."""
        partition = read.partition
        if not self._reader.is_open(partition):
            if not isolation.is_unpacked:
                await self._marks.mark(partition.tp, batch.first, batch.next_offset - batch.first, unpacking=True)
            await self._reader.open(read)
            if not self._reader.is_open(partition):
                return  # an operator has skipped it meanwhile
        _, records, _ = await self._reader.take(1 if isolation.culprit is not None else isolation.portion, math.inf)
        if records and records[0].offset == isolation.culprit:
            # In doubt it is ours: the pods of another cell may survive it, and would find that it is not theirs.
            is_ours = scan(records[0], self._reader.slice) is not False
            read.add(records, [killed(partition.tp, records[0])] if is_ours else [])
            return
        if records and records[0].offset < isolation.end:
            await self._marks.mark(partition.tp, records[0].offset, records[-1].offset - records[0].offset + 1)
        read.add(records, await self._reader.decode(partition.tp, records))
