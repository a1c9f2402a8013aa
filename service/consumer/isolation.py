"""Reads the records that may have crashed a pod, in small portions, with nothing else in progress."""

from aiokafka.errors import OffsetOutOfRangeError

from service.consumer.crash_marks import CrashMarks
from service.consumer.deferred import DeferredRecords
from service.consumer.offsets import OffsetCommitter
from service.consumer.partitions import Assignment, Partition, PartitionRead
from service.consumer.paused_topics import PausedTopics
from service.consumer.reader import POLL_MS, PollReader


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
        """Read and mark the next portion of isolated records.

        The offsets before it are committed first, so that after a crash the next pod begins with this portion. Crashes
        are then counted for the records that are tried again, not for those behind them.
        """
        epoch, isolation, membership = partition.epoch, partition.isolation, self._assignment.membership
        await self._deferred.wait()
        await self._offsets.commit()
        if partition.epoch != epoch or isolation is None:
            return []
        portion = 1 if isolation.culprit is not None else isolation.portion
        try:
            fetched = await membership.fetch([partition.tp], portion, POLL_MS)
            self._assignment.check_leaders()
        except OffsetOutOfRangeError:
            partition.lose()
            return []
        records = [each for some in fetched.values() for each in some]
        if partition.epoch != epoch or (not records and not await membership.is_at_the_end(partition.tp)):
            return []
        if not records or records[0].offset >= isolation.end:
            await self._marks.end_isolation(partition.tp)
            partition.isolation = None
        if not records:
            return []
        deliveries = await self._marks.decode(partition.tp, isolation, records, self._reader.decode)
        return [PartitionRead(partition, epoch, deliveries)]
