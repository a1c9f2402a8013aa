"""Notes up to which time of the database each partition is applied. The purge goes no further (the brake).

The number of partitions is asked for at the same time: one that nobody reads yet keeps the brake on.
"""

import math
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import psycopg
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from service.consumer.partitions import Assignment, Partition
from service.consumer.paused_topics import PausedTopics
from service.postgres.errors import is_refusal
from service.postgres.pool import Database
from service.store import progress

APPLIED_SECONDS: Final = 5.0
"""Pause between two requests for the ends of partitions, which tell up to which time these are applied."""


OPEN_SECONDS: Final = 60.0
"""A transaction of a producer that is open for longer is noted. SPEC names this bound."""


class AppliedTimes:
    """Asks for the partitions of the topics and for the ends of the assigned ones, and notes when rows reach these."""

    def __init__(self, database: Database, assignment: Assignment, paused: PausedTopics) -> None:
        self._database = database
        self._assignment = assignment
        self._paused = paused
        self._ends: dict[TopicPartition, tuple[int, datetime]] = {}
        """Ends that the rows have not reached yet, each with the time at which it was asked for."""
        self._ends_at: dict[TopicPartition, float] = {}
        self._open: dict[TopicPartition, tuple[int, float]] = {}
        """Where transactions are open, each with the time since when."""
        self._noted: dict[TopicPartition, bool] = {}
        """Of which partitions it is noted whether one has been open for long."""

    def forget(self, tp: TopicPartition) -> None:
        """Forget the end of a partition: its topic may have been created again."""
        self._ends.pop(tp, None)
        self._noted.pop(tp, None)

    async def note(self, located: Sequence[Partition]) -> None:
        """Note up to which time the partitions are applied, except for paused topics, which have unread records.

        Raises psycopg.Error where the database refuses. The intake and the watchdog report other errors.
        """
        try:
            await self._note(located)
            await self._note_transactions(located)
        except (psycopg.Error, KafkaError, TimeoutError) as error:
            if is_refusal(error):
                raise

    async def _note(self, located: Sequence[Partition]) -> None:
        wanted = [
            each.tp
            for each in located
            if each.tp not in self._ends and time.monotonic() - self._ends_at.get(each.tp, -math.inf) > APPLIED_SECONDS
        ]
        counts: dict[str, int] = {}
        if wanted:
            async with self._database.transaction() as conn:
                now = await progress.read_clock(conn)
            counts = await self._assignment.membership.brokers.partition_counts()
            # After the time was read: everything that was there then is below these ends, also in open transactions.
            ends = await self._assignment.membership.brokers.ends(wanted, whole_log=True)
            # Below what is applied, the topic was created anew: the pod will notice it when it fetches.
            rows = {each.tp: each.row or 0 for each in located}
            self._ends |= {tp: (end, now) for tp, end in ends.items() if end >= rows[tp]}
            self._ends_at |= dict.fromkeys(wanted, time.monotonic())
        known = {each.tp: each for each in located if each.tp.topic not in self._paused.names}
        reached = {
            tp: (known[tp].row_epoch, end, at)
            for tp, (end, at) in self._ends.items()
            if tp in known and (known[tp].row or 0) >= end
        }
        if counts or reached:
            async with self._database.transaction() as conn:
                if counts:
                    await progress.note_input_topics(conn, counts, now)
                await progress.mark_applied(conn, reached)
                await progress.check_server(conn)
        self._ends = {tp: each for tp, each in self._ends.items() if tp in known and tp not in reached}

    async def _note_transactions(self, located: Sequence[Partition]) -> None:
        now, are_open = time.monotonic(), {}
        for tp in (each.tp for each in located):
            offset = self._assignment.membership.brokers.open_transaction(tp)
            if offset is None:
                self._open.pop(tp, None)
            elif self._open.get(tp, (-1, now))[0] != offset:
                self._open[tp] = (offset, now)
            are_open[tp] = tp in self._open and now - self._open[tp][1] >= OPEN_SECONDS
        changed = {tp: is_open for tp, is_open in are_open.items() if self._noted.get(tp) is not is_open}
        if changed:
            async with self._database.transaction() as conn:
                await progress.note_open_transactions(conn, changed)
            self._noted |= changed
