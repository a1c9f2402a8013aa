"""Consumes the input topics: reads polls, has them applied in the database, and commits their offsets.

An offset is committed only after every record before it is committed in the database. The records of a batch in one
partition are applied in order. A record that is delivered again changes nothing, so that work may be abandoned at any
time. While one poll is in the database, the next is read and decoded. Records that must wait for other transactions are
deferred and applied beside the polls; later records of the same batches wait behind them.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError

from service.consumer.applied import AppliedTimes
from service.consumer.crash_marks import CrashMarks
from service.consumer.deferred import DeferredRecords
from service.consumer.foreign_group import group_error
from service.consumer.isolation import Isolation
from service.consumer.locator import Locator
from service.consumer.offsets import OffsetCommitter
from service.consumer.partitions import Assignment, Partition, PartitionRead, first_offsets_of, offsets_of
from service.consumer.paused_topics import PausedTopics
from service.consumer.progress import Progress
from service.consumer.reader import POLL_MS, PollReader
from service.consumer.watchdog import LagReporter, Watchdog
from service.intake.intake import Intake
from service.kafka.group import ConsumerOptions, Membership
from service.postgres.pool import Database
from service.runtime.health import Health
from service.runtime.loop import cancelled, ends_before

_log = structlog.get_logger(__name__)


class Consumer:
    """Processes the records of the input topics, while `run` runs."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        database: Database,
        intake: Intake,
        health: Health,
        options: ConsumerOptions,
        lag: LagReporter,
    ) -> None:
        """Nothing connects yet. `kafka` is the result of `client_options`."""
        self._kafka = kafka
        self._database = database
        self._intake = intake
        self._health = health
        self._options = options
        self._assignment = Assignment()
        self._reader = PollReader(self._assignment, options)
        self._marks = CrashMarks(database, self._reader.hanging, enabled=not options.replay)
        self._offsets = OffsetCommitter(self._assignment)
        self._paused = PausedTopics(database, health)
        times = AppliedTimes(database, self._assignment, self._paused)
        self._progress = Progress(database, options, self._assignment, times, health)
        self._locator = Locator(kafka, database, options, self._assignment, times, health)
        self.watchdog = Watchdog(self._assignment, self._paused, health, options, lag)
        self._deferred = DeferredRecords(intake, self._progress, self.watchdog.progressed)
        self._isolation = Isolation(
            self._assignment, self._marks, self._paused, self._deferred, self._offsets, self._reader
        )
        self._busy = asyncio.Lock()

    async def run(self, stop: asyncio.Event) -> None:
        """Consume until `stop`; then finish what is in progress, for `drain` seconds at most, and leave the group.

        Raises KafkaError where the broker is unavailable, Stalled, Behind, and psycopg.Error where a transaction found
        another database than before. Call it again after any of them.
        """
        check = partial(group_error, self._kafka, self._options.group, self._options.of)
        if not await ends_before(stop, self._progress.wait_to_apply(check)):
            return
        membership = Membership(self._kafka, self._marks.pod, self._options, _Listener(self))
        self._assignment.membership = membership
        beside: list[asyncio.Task[None]] = []
        self.watchdog.revoked()
        self._reader.begin()
        try:
            if not await membership.join(stop):
                return
            self.watchdog.started()
            watching = (self._offsets.commit_periodically, self.watchdog.watch, self._deferred.watch)
            beside = [asyncio.create_task(each()) for each in (*watching, self._progress.keep, self._locator.run)]
            await self._until(stop, beside)
            await self._drain()
        except psycopg.Error as error:
            await self._locator.failed(error)
            raise
        finally:
            await self._deferred.abandon(beside)
            # Also after an error: only a crash leaves marks behind.
            await self._marks.release(self._assignment.partitions, self._options.short_timeout)
            self._drop(self._assignment.partitions)
            self._health.set_error("consumer", "stopped")
            self._health.set_healthy("transactions")  # none is tried any more that would clear its error
            await membership.leave()

    async def _until(self, stop: asyncio.Event, beside: Sequence["asyncio.Task[None]"]) -> None:
        """Poll until `stop`. The tasks `beside` end only by raising, and their errors are raised here."""
        stopping = asyncio.create_task(stop.wait())
        polling = asyncio.create_task(self._polls(stop))
        try:
            await asyncio.wait([stopping, polling, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in (polling, *beside):
                if task.done():
                    task.result()
            # From the stop on, the process may be killed for other reasons than a record, so no marks stay.
            await self._marks.release(self._assignment.partitions, self._options.short_timeout)
            await asyncio.wait([polling], timeout=self._options.drain / 2)
        finally:
            await cancelled([stopping, polling])

    async def _drain(self) -> None:
        await self._deferred.wait(self._options.short_timeout)
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(self._options.short_timeout):
                await self._offsets.commit()

    # -- polls

    async def _polls(self, stop: asyncio.Event) -> None:
        """Apply one poll after the other. While one is in the database, read and decode the next."""
        ahead: asyncio.Task[list[PartitionRead]] | None = None
        try:
            while not stop.is_set():
                isolated, probing = self._isolation.next(), self._paused.is_probe_due()
                if ahead is not None and (isolated or probing):
                    # Concurrent reads of one partition could return its records out of order.
                    await self._take(await ahead)
                    ahead = None
                if isolated:
                    await self._take(await self._isolation.read(isolated))
                    continue
                if probing:
                    await self._probe()
                reads = await (ahead or self._read())
                self._reader.idle.clear()
                ahead = asyncio.create_task(self._read())
                try:
                    await self._take(reads)
                finally:
                    self._reader.idle.set()
        finally:
            if ahead is not None:
                await cancelled([ahead])

    async def _read(self) -> list[PartitionRead]:
        return await self._reader.read(self._paused.names, self._deferred.bytes)

    async def _take(self, reads: Sequence[PartitionRead], *, probing: bool = False) -> None:
        """Apply the reads that are not stale, and advance their partitions."""
        async with self._busy:
            taken = [read for read in reads if not read.stale]
            refetch = {read.partition.tp: first for read in taken if (first := read.cut_before_refetch()) is not None}
            for read in taken:
                if read.deliveries:
                    read.partition.take(read.deliveries)
                if read.partition.tp not in refetch:
                    read.partition.skip_to(read.position, read.last_record)
                    self.watchdog.progressed()
            deliveries = [delivery for read in taken for delivery in read.deliveries]
            if not deliveries:
                for tp, first in refetch.items():
                    self._assignment.rewind(self._assignment.partitions[tp], first)
                return
            rows = self._progress.of({read.partition.tp: read.partition for read in taken})
            outcome = await self._intake.take(deliveries, rows, probing=probing, deferred=self._deferred.batch_ids)
            self.watchdog.progressed()
            self._paused.update(outcome.paused)
            rewind_to = refetch | first_offsets_of(outcome.not_admitted)
            deferred = offsets_of(outcome.deferred)
            for read in taken:
                partition, tp = read.partition, read.partition.tp
                partition.taken.clear()
                if partition.row is None:
                    self._assignment.changed.set()
                if read.stale:
                    continue
                partition.deferred |= deferred.get(tp, set())
                if tp in rewind_to:
                    self._assignment.rewind(partition, rewind_to[tp])
            self._deferred.defer(outcome.deferred, {read.partition.tp: read.partition for read in taken})

    async def _probe(self) -> None:
        """Try the next record of each partition of the paused topics: a valid one ends the pause of its topic."""
        paused = [each for each in self._assignment.partitions.values() if each.tp.topic in self._paused.names]
        await self._reader.fetch_each([each.tp for each in paused], POLL_MS)
        for partition in paused:
            is_ours = self._assignment.partitions.get(partition.tp) is partition and partition.row is not None
            if is_ours and partition.tp.topic in self._paused.names:
                await self._take(await self._reader.read_from([partition.tp], 1, wait_ms=0), probing=True)
        self._paused.probed()

    # -- rebalances, called by aiokafka

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """Wait for the poll in progress, in bounded time, commit, and drop the partitions."""
        self.watchdog.revoked()
        tps = list(tps)
        if not tps:
            return
        bound = self._options.rebalance_timeout / 3
        with suppress(TimeoutError):
            async with asyncio.timeout(bound), self._busy:
                pass
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(bound):
                await self._offsets.commit()
        self._drop(tps)
        self._health.set_error("consumer", "the group is rebalancing")
        await self._marks.release(tps, bound)

    async def assigned(self, tps: Iterable[TopicPartition]) -> None:
        """Take partitions over. Where a crashed pod left a mark, isolate the next records."""
        tps = list(tps)
        self._drop(self._assignment.partitions)
        partitions = {tp: Partition(tp) for tp in tps}
        left_behind = await self._marks.claim(tps)
        for tp, mark in left_behind.items():
            partitions[tp].mark = mark
        self._assignment.partitions = partitions
        self._assignment.changed.set()
        self.watchdog.assigned()
        _log.info("partitions_assigned", partitions=len(tps), isolated=len(left_behind))

    def _drop(self, tps: Iterable[TopicPartition]) -> None:
        self.watchdog.dropped(self._assignment.drop(tps))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes rebalances to the consumer. It must not raise, since aiokafka would only log that."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._consumer.revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._consumer.assigned(assigned)
