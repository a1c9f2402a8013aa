"""Poison-record isolation: finds the record that kills the process, and rejects it unread.

A pod marks the partitions that it takes over, once, and removes the marks when it gives them back. A mark that is still
there belonged to a pod that crashed: it may have died of the next poll of that partition. The pod that follows takes
those records in small portions, each marked before it is decoded. Every crash narrows the mark, down to one record, and
a record that was alone in three crashes is rejected unread. As long as nothing crashes, nothing is written: harmless
records cost no commit of their own.
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

CRASHES: Final = 3
"""A record that was alone in so many crashes is rejected."""

PORTION: Final = 16
"""Each crash narrows a mark to a sixteenth: a poll of 2,000 records is down to one after three crashes."""


@dataclass(frozen=True, slots=True)
class IsolationRange:
    """The records of a partition that a pod may have died of: from the next one to `end` (exclusive)."""

    end: int
    portion: int
    """How many records to take at once."""
    culprit: int | None = None
    """The offset of the record that was alone in too many crashes."""


def isolation_range(mark: Mark, position: int, poll: int) -> IsolationRange:
    """What a mark that was left behind says about a partition that continues at `position`, in polls of `poll`."""
    if mark.records is None or position >= mark.offset + mark.records:
        return IsolationRange(position + poll, max(1, poll // PORTION))
    if mark.records == 1 and mark.crashes >= CRASHES:
        return IsolationRange(mark.offset + 1, 1, mark.offset)
    return IsolationRange(mark.offset + mark.records, max(1, mark.records // PORTION))


class CrashMarks:
    """The marks of this pod."""

    def __init__(self, database: Database) -> None:
        self.pod: Final = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._database = database

    async def claim(self, tps: Sequence[TopicPartition]) -> Mapping[TopicPartition, Mark]:
        """Mark partitions as taken over by this pod. Returns the marks that crashed pods left behind."""
        if not tps:
            return {}
        try:
            async with self._database.transaction() as conn:
                return await crash_marks.claim_marks(conn, self.pod, tps)
        except Exception as error:  # noqa: BLE001  whatever it is, the partitions are ours
            # A pod works without its marks; only a record that kills it is not found.
            _log.warning("marks_not_claimed", error=type(error).__name__)
            return {}

    async def release(self, tps: Iterable[TopicPartition], seconds: float) -> None:
        """Remove the marks, within so many seconds. A mark that stays costs the next owner about a second."""
        tps = list(tps)
        if not tps:
            return
        try:
            async with asyncio.timeout(seconds), self._database.transaction() as conn:
                await crash_marks.release_marks(conn, self.pod, tps)
        except Exception as error:  # noqa: BLE001  whatever it is, nothing is lost by it
            _log.warning("marks_not_released", error=type(error).__name__)

    async def end_isolation(self, tp: TopicPartition) -> None:
        """No record of the partition is isolated any more."""
        async with self._database.transaction() as conn:
            await crash_marks.widen_mark(conn, self.pod, tp)

    async def decode(
        self,
        tp: TopicPartition,
        isolation: IsolationRange,
        records: Sequence[ConsumerRecord],
        decode: Callable[[Sequence[ConsumerRecord]], Awaitable[list[Delivery]]],
    ) -> list[Delivery]:
        """Decode isolated records after they are marked; reject the culprit without decoding it."""
        if records[0].offset == isolation.culprit:
            why = f"the process crashed {CRASHES} times while it handled this record alone"
            return [delivery_of(records[0], Rejection(Reason.KILLED_THE_PROCESS, why))]
        if records[0].offset < isolation.end:
            span = records[-1].offset - records[0].offset + 1
            async with self._database.transaction() as conn:
                await crash_marks.set_mark(conn, self.pod, tp, records[0].offset, span)
        return await decode(records)
