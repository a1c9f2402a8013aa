"""Poison-record isolation: finds the record that crashes the process (a poison message), and rejects it undecoded.

A pod marks the partitions that it takes over, once, and removes the marks when it gives them back. A mark that remains
belongs to a pod that crashed, possibly because of a record in the next poll of that partition. The next pod processes
those records in small portions, and marks each portion before it is decoded. Every crash narrows the mark, down to one
record, and a record that was alone in three crashes is rejected undecoded. While nothing crashes, no portion is marked,
so that harmless records need no additional commits.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import structlog
from aiokafka import ConsumerRecord, TopicPartition

from service.domain.delivery import Delivery
from service.domain.events import Reason, Rejection
from service.kafka.deliveries import delivery_of
from service.postgres.pool import Database
from service.store import crash_marks
from service.store.crash_marks import Mark

_log = structlog.get_logger(__name__)

WRITES_PROGRESS: Final = "@progress"
"""The end of the name of each pod that writes rows of els.progress. The trigger of the crash marks looks for it."""

CRASHES: Final = 3
"""A record that was alone in this many crashes is rejected."""

PORTION: Final = 16
"""Each crash narrows a mark to a sixteenth: a poll of 2,000 records is down to one after three crashes."""


@dataclass(frozen=True, slots=True)
class IsolationRange:
    """The records of a partition that may have crashed a pod: from the next one to `end` (exclusive)."""

    end: int
    portion: int
    """How many records are processed at once."""
    culprit: int | None = None
    """The offset of the record that was alone in too many crashes."""


def isolation_range(mark: Mark, position: int, poll: int) -> IsolationRange:
    """Return what to isolate in a partition that continues at `position`, after a crashed pod left this mark.

    `poll` is the largest number of records in a poll.
    """
    if mark.records is None or position >= mark.offset + mark.records:
        return IsolationRange(position + poll, max(1, poll // PORTION))
    if mark.records == 1 and mark.crashes >= CRASHES:
        return IsolationRange(mark.offset + 1, 1, mark.offset)
    return IsolationRange(mark.offset + mark.records, max(1, mark.records // PORTION))


class CrashMarks:
    """Writes and removes the marks of this pod."""

    def __init__(self, database: Database, *, enabled: bool = True) -> None:
        """A replay has no marks (not `enabled`): a mark names the pod that owns a partition in the service's group."""
        self.pod: Final = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}{WRITES_PROGRESS}"
        self._database = database
        self._enabled = enabled

    async def claim(self, tps: Sequence[TopicPartition]) -> Mapping[TopicPartition, Mark]:
        """Mark partitions as taken over by this pod. Returns the marks that crashed pods left behind."""
        if not tps or not self._enabled:
            return {}
        try:
            async with self._database.transaction() as conn:
                return await crash_marks.claim_marks(conn, self.pod, tps)
        except Exception as error:  # noqa: BLE001  no error keeps the partitions from being processed
            # A pod works without marks; only a record that crashes it is not found.
            _log.warning("marks_not_claimed", error=type(error).__name__)
            return {}

    async def release(self, tps: Iterable[TopicPartition], seconds: float) -> None:
        """Remove the marks, within so many seconds. A mark that remains costs the next owner about a second."""
        tps = list(tps)
        if not tps or not self._enabled:
            return
        try:
            async with asyncio.timeout(seconds), self._database.transaction() as conn:
                await crash_marks.release_marks(conn, self.pod, tps)
        except Exception as error:  # noqa: BLE001  no error here loses data
            _log.warning("marks_not_released", error=type(error).__name__)

    async def end_isolation(self, tp: TopicPartition) -> None:
        """Reset the mark of a partition whose isolated records are processed."""
        async with self._database.transaction() as conn:
            await crash_marks.widen_mark(conn, self.pod, tp)

    async def decode(
        self,
        tp: TopicPartition,
        isolation: IsolationRange,
        records: Sequence[ConsumerRecord],
        decode: Callable[[Sequence[ConsumerRecord]], Awaitable[list[Delivery]]],
    ) -> list[Delivery]:
        """Mark isolated records, then decode them. The culprit is rejected without decoding it."""
        if records[0].offset == isolation.culprit:
            why = f"the process crashed {CRASHES} times while it handled this record alone"
            return [delivery_of(records[0], Rejection(Reason.KILLED_THE_PROCESS, why))]
        if records[0].offset < isolation.end:
            span = records[-1].offset - records[0].offset + 1
            async with self._database.transaction() as conn:
                await crash_marks.set_mark(conn, self.pod, tp, records[0].offset, span)
        return await decode(records)
