"""Keeps the rows of the assigned partitions: what each transaction has dealt with."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import psycopg
from aiokafka import TopicPartition
from psycopg import AsyncConnection

from service.consumer.applied import AppliedTimes
from service.consumer.partitions import Assignment, Partition
from service.domain.delivery import Delivery
from service.kafka.group import ConsumerOptions
from service.postgres.errors import is_refusal
from service.postgres.pool import Database
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.runtime.loop import Backoff
from service.store import progress
from service.store.progress import behind_error
from service.store.skipped_inputs import Skipped, send_read_skipped_inputs

KEEP_SECONDS: Final = 1.0
"""Pause between two checks of the database, in which rows are written that are behind what is dealt with."""


class InputSkipped(Exception):
    """An operator has skipped a record that is being handled: the consumer begins anew, and skips it."""


class PollProgress:
    """Writes the rows of some partitions in the transactions that deal with their records."""

    def __init__(self, partitions: Mapping[TopicPartition, Partition], *, replay: bool = False) -> None:
        """A replay writes no rows, and is only refused where nothing may be applied."""
        self._partitions = partitions
        self._replay = replay

    async def write(
        self, conn: AsyncConnection[Any], deliveries: Iterable[Delivery], left: Iterable[Delivery]
    ) -> Callable[[], None]:
        """Move the rows behind these deliveries, except for those that are left. Call the result after the commit.

        Raises psycopg.Error.
        """
        dealt: dict[tuple[str, int], set[int]] = defaultdict(set)
        for delivery in deliveries:
            dealt[delivery.topic, delivery.partition].add(delivery.offset)
        for delivery in left:
            dealt[delivery.topic, delivery.partition].discard(delivery.offset)
        parts = [(self._partitions[TopicPartition(*tp)], offsets) for tp, offsets in dealt.items()]
        steps = [partition.step(offsets) for partition, offsets in parts]
        await (progress.check_server(conn) if self._replay else progress.record_progress(conn, steps))

        def committed() -> None:
            for (partition, offsets), step in zip(parts, steps, strict=True):
                partition.applied(step.next_offset, offsets)

        return committed


class Progress:
    """Keeps the rows of one consumer's partitions."""

    def __init__(
        self,
        database: Database,
        options: ConsumerOptions,
        assignment: Assignment,
        times: AppliedTimes,
        health: Health,
    ) -> None:
        self._database = database
        self._options = options
        self._assignment = assignment
        self._times = times
        self._health = health

    def of(self, partitions: Mapping[TopicPartition, Partition]) -> PollProgress:
        """Return what writes the rows of these partitions."""
        return PollProgress(partitions, replay=self._options.replay)

    async def wait_to_apply(self, group_error: Callable[[], Awaitable[str | None]]) -> None:
        """Wait outside of the group while the database is behind, in recovery, or of another cell, as may be the group.

        Raises what `group_error` raises.
        """
        backoff = Backoff(first=0.1, longest=1.0)
        while True:
            try:
                why = await behind_error(self._database) or await group_error()
            except psycopg.Error as error:
                why = one_line(error)
            if why is None:
                return
            self._health.set_error("consumer", why)
            await asyncio.sleep(backoff.pause())

    def _skip(self, located: Iterable[Partition], skipped: Skipped) -> None:
        """Note what operators have skipped. Raises InputSkipped where it was read already, and is not dealt with."""
        for partition in located:
            some = skipped.get(partition.tp, ())
            now = [each for each in some if each.epoch == partition.row_epoch or self._options.replay]
            if now != list(partition.skipped):
                partition.skipped = now
                for each in now:
                    if (partition.row or 0) < each.next_offset and each.first_offset < partition.position:
                        raise InputSkipped(f"an operator has skipped {each.first_offset} of {partition.tp}")

    async def keep(self) -> None:
        """Write rows that are behind what is dealt with, until cancelled, and read what operators have skipped.

        Raises psycopg.Error if refused, InputSkipped.
        """
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            located = [each for each in self._assignment.partitions.values() if each.row is not None]
            if not located:
                continue  # the locator checks the database
            moving = [each for each in located if each.unwritten]
            steps = [each.step(()) for each in moving]
            try:
                async with self._database.transaction(pipelined=True) as conn:
                    if steps and not self._options.replay:
                        await progress.record_progress(conn, steps)
                    else:
                        await progress.check_server(conn)
                    skipped = await (await send_read_skipped_inputs(conn))
            except psycopg.Error as error:
                if is_refusal(error):
                    raise
                continue  # the intake reports a database that is unavailable
            for partition, step in zip(moving, steps, strict=True):
                partition.applied(step.next_offset, ())
            self._skip(located, skipped)
            if not self._options.replay:
                await self._times.note(located)
