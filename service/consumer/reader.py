"""Reads and decodes the next poll, within bounds of records and bytes."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Final

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from service.consumer.partitions import Assignment, PartitionRead
from service.domain.delivery import Delivery, contexts
from service.kafka import deliveries
from service.kafka.group import ConsumerOptions
from service.runtime import tracing

POLL_MS = 250
"""How long a poll waits for the first record. It bounds the delay of a stop."""
SLICE = 250
"""Records that are read and decoded before other tasks of the event loop run."""
POLL_BYTES = 16 * 1024 * 1024
"""A poll ends at this many bytes, however few its records are. As many more may be deferred."""
BACKLOG_LIMIT: Final = 4
"""How many polls' worth of records may be deferred. Beyond that, the partitions that they came from are not read."""


class PollReader:
    """Reads polls from the assigned partitions."""

    def __init__(self, assignment: Assignment, options: ConsumerOptions) -> None:
        self._assignment = assignment
        self._options = options
        self.idle = asyncio.Event()
        """Cleared while a poll is in the database. Meanwhile the next poll goes on reading what arrives."""
        self.idle.set()

    async def read(self, paused: Collection[str], deferred_bytes: int) -> list[PartitionRead]:
        """Read the next poll from all partitions that are not paused, isolated, or beyond the backlog limit."""
        partitions = self._assignment.partitions.values()
        is_full = (
            sum(len(each.deferred) for each in partitions) > BACKLOG_LIMIT * self._options.max_poll_records
            or deferred_bytes > POLL_BYTES
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
        """Read and decode at most `records` records of these partitions."""
        partitions = [self._assignment.partitions[tp] for tp in tps]
        reads = {each.tp: PartitionRead(each, each.epoch, []) for each in partitions}
        number = weight = 0
        with tracing.step("receive") as step:
            while number < records and weight < POLL_BYTES and not any(read.stale for read in reads.values()):
                # Slice by slice, since the size of a record is known only after it is fetched.
                remaining = min(SLICE, records - number)
                try:
                    fetched = await self._assignment.membership.fetch(
                        tps, remaining, wait_ms, enough=self.idle if number else None
                    )
                    self._assignment.check_leaders()
                except OffsetOutOfRangeError as error:
                    for tp in error.args[0]:
                        reads[tp].partition.lose()
                    break
                for tp, some in fetched.items():
                    reads[tp].deliveries += await self.decode(some)
                    number += len(some)
                    remaining -= len(some)
                    weight += sum(len(record.value or b"") for record in some)
                if remaining and self.idle.is_set():
                    break
            for read in reads.values():
                step.about(len(read.deliveries), contexts(read.deliveries))
        for read in reads.values():
            if not read.deliveries and not read.stale:
                read.position = await self._assignment.membership.position(read.partition.tp)
        return [
            read
            for read in reads.values()
            if not read.stale and (read.deliveries or read.position > read.partition.reached)
        ]

    async def decode(self, records: Sequence[ConsumerRecord]) -> list[Delivery]:
        """Decode records of one partition."""
        return await deliveries.decode_all(records, self._options.max_bytes)
