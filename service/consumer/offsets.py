"""Commits the offsets of the group: those that the rows of the database are known to contain."""

import asyncio

import structlog
from aiokafka.errors import IllegalStateError, KafkaError

from service.consumer.partitions import Assignment
from service.kafka.broker_view import Stalled
from service.runtime.loop import Throttle

COMMIT_SECONDS = 0.2
"""Pause between two commits, instead of one commit per poll: after a crash, uncommitted records are only read again."""

_log = structlog.get_logger(__name__)


class OffsetCommitter:
    """Commits the offsets of the assigned partitions."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._failing = Throttle()

    async def commit_periodically(self) -> None:
        """Commit until cancelled.

        Raises Stalled where the coordinator does not answer: the client would wait for longer than a rebalance takes.
        """
        timeout = self._assignment.membership.brokers.silence_timeout
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            try:
                async with asyncio.timeout(timeout):
                    await self.commit()
            except TimeoutError:
                raise Stalled(f"no answer to a commit of offsets for {timeout:.0f} s") from None

    async def commit(self) -> None:
        """Commit the offsets that changed. Only logs errors: the next commit, or the next owner, makes up for them."""
        offsets = {
            partition: partition.row
            for partition in self._assignment.partitions.values()
            if partition.row is not None and partition.row != partition.committed
        }
        if not offsets:
            return
        try:
            await self._assignment.membership.commit(
                {partition.tp: (offset, partition.row_epoch) for partition, offset in offsets.items()}
            )
        except (KafkaError, IllegalStateError) as error:
            if self._failing.due():
                _log.info("offsets_not_committed", error=type(error).__name__)
        else:
            self._failing.over()
            for partition, offset in offsets.items():
                partition.committed = offset
