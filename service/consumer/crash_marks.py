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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import structlog
from aiokafka import TopicPartition

from service.domain.delivery import Delivery
from service.domain.events import Reason, Rejection
from service.kafka.unpacking import Record
from service.postgres.pool import Database
from service.store import crash_marks
from service.store.crash_marks import Mark

_log = structlog.get_logger(__name__)

WRITES_PROGRESS: Final = "@progress"
"""The end of the name of each pod that writes rows of els.progress. The trigger of the crash marks looks for it."""

CRASHES: Final = 3
"""A record that was alone in this many crashes is rejected."""

HANGING_SECONDS: Final = 5.0
"""Records that are handled for longer than this may be the reason why the pod is stopped."""

PORTION: Final = 16
"""Each crash narrows a mark to a sixteenth: a poll of 2,000 records is down to one after three crashes."""


@dataclass(frozen=True, slots=True)
class IsolationRange:
    """The records of a partition that may have crashed a pod: from the next one to `end` (exclusive)."""

    end: int
    portion: int
    """How many records are processed at once."""
    is_unpacked: bool = False
    """Whether a pod has unpacked their batches: then it did not crash because of that."""
    culprit: int | None = None
    """The offset of the record that was alone in too many crashes."""
    is_batch: bool = False
    """Whether the culprit is the whole batch that begins there."""


def isolation_range(mark: Mark, position: int, poll: int) -> IsolationRange:
    """Return what to isolate in a partition that continues at `position`, after a crashed pod left this mark.

    `poll` is the largest number of records in a poll.
    """
    if mark.records is None or position >= mark.offset + mark.records:
        return IsolationRange(position + poll, max(1, poll // PORTION))
    end = mark.offset + mark.records
    culprit = mark.offset if mark.crashes >= CRASHES else None
    if mark.unpacking:
        return IsolationRange(end, max(1, poll // PORTION), culprit=culprit, is_batch=True)
    return IsolationRange(end, max(1, mark.records // PORTION), is_unpacked=True, culprit=culprit)


class CrashMarks:
    """Writes and removes the marks of this pod."""

    def __init__(
        self, database: Database, hanging: Callable[[float], TopicPartition | None], *, enabled: bool = True
    ) -> None:
        """A replay has no marks (not `enabled`): a mark names the pod that owns a partition in the service's group.

        `hanging` returns the partition whose records have been handled for longer than some seconds.
        """
        self._hanging = hanging
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
        """Remove the marks, within so many seconds. A mark that remains costs the next owner about a second.

        That of a partition whose records hang remains: a pod that hangs is stopped by its liveness probe.
        """
        hanging = self._hanging(HANGING_SECONDS)
        tps = [tp for tp in tps if tp != hanging]
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

    async def mark(self, tp: TopicPartition, offset: int, records: int, *, unpacking: bool = False) -> None:
        """Mark records that are handled next, or that their batch is unpacked next. Raises psycopg.Error."""
        async with self._database.transaction() as conn:
            await crash_marks.set_mark(conn, self.pod, tp, offset, records, unpacking=unpacking)


def killed(tp: TopicPartition, record: Record) -> Delivery:
    """Reject a record undecoded."""
    why = f"the process crashed {CRASHES} times while it handled this record alone"
    rejection = Rejection(Reason.KILLED_THE_PROCESS, why)
    return Delivery(
        tp.topic,
        tp.partition,
        record.offset,
        record.key,
        record.value,
        record.headers,
        rejection,
        timestamp=record.timestamp,
    )
