"""Kafka → transaction → offsets.

What must hold: an offset is committed only after every record before it is dealt with in the database; a
batch's records of one partition are applied in order; a record that comes again, for whatever reason, changes
nothing, so everything here may be abandoned at any moment. While one poll is in the database, the next is read and
decoded. What must wait for others is applied beside the polls; what comes for the same batches waits behind it.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import structlog
from aiokafka import ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from service.consumer import crash_marks
from service.consumer.crash_marks import Suspects
from service.consumer.partitions import Partition, Read, first_offsets_of, offsets_of
from service.domain import incoming as events
from service.domain.delivery import Delivery, contexts
from service.domain.events import Reason, Refusal
from service.intake.intake import Intake
from service.kafka import record_batches as records
from service.kafka.deliveries import delivery_of
from service.kafka.group import ConsumerOptions, Membership, Stalled
from service.kafka.record_batches import Unreadable
from service.postgres.pool import Database
from service.runtime import tracing
from service.runtime.health import Health
from service.runtime.loop import Seldom, cancelled
from service.store import crash_marks as suspects
from service.store import quarantine

_log = structlog.get_logger(__name__)

POLL_MS = 250
"""How long a poll waits where nothing has come: it bounds how late a stop, or a partition's rest, is noticed."""
SLICE = 250
"""Records read and decoded before others on the event loop have their turn."""
POLL_BYTES = 16 * 1024 * 1024
"""A poll that weighs more ends, however few its records are; as much again may wait for others."""
CROWD = 4
"""Polls' worth of records that may wait for others; beyond that their partitions rest."""
COMMIT_SECONDS = 0.2
"""Offsets are committed so often, and not with each poll: what a crash leaves uncommitted is only read again."""
PROBE_SECONDS = 60.0
"""A stopped topic's next record is tried so often."""
LOOK_SECONDS = 1.0
"""The lag is asked for so often, and whether an operator, or another pod, has set stopped topics going again."""


class Consumer:
    """Takes the records of the three incoming topics, for as long as `run` runs."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        database: Database,
        intake: Intake,
        health: Health,
        options: ConsumerOptions,
        lag: Callable[[TopicPartition, int | None], None],
    ) -> None:
        self._kafka = kafka
        self._database = database
        self._intake = intake
        self._health = health
        self._options = options
        self._tell_lag = lag
        self._pod = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._partitions: dict[TopicPartition, Partition] = {}
        self._committed: dict[TopicPartition, int] = {}
        self._uncommitted = Seldom()
        self._stopped: set[str] = set()
        self._behind: dict[str, list[tuple[Partition, Delivery]]] = {}
        self._behind_bytes = 0
        self._asides: set[asyncio.Task[None]] = set()
        self._busy = asyncio.Lock()
        self._idle = asyncio.Event()
        """While it is not set a poll is in the database, and the next one takes what comes meanwhile."""
        self._idle.set()
        self._moved = self._probed = self._served = time.monotonic()
        self._shared_out = False
        self._membership: Membership
        records.install()

    # -- the life of a membership

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then finish what is in hand, for `drain` seconds at most, and leave the group.

        Raises KafkaError where the broker is away, and Stalled; call it again.
        """
        self._membership = Membership(self._kafka, self._pod, self._options, _Listener(self))
        beside: list[asyncio.Task[None]] = []
        self._shared_out = False
        try:
            if not await self._membership.join(stop):
                return
            self._moved = self._served = time.monotonic()
            beside = [asyncio.create_task(each) for each in (self._commit_often(), self._watch())]
            await self._until(stop, beside)
            await self._drain()
        finally:
            await cancelled([*beside, *self._asides])
            self._behind.clear()
            self._behind_bytes = 0
            # However this ends, it is no death.
            await self._release(list(self._partitions), self._options.moment)
            self._void(self._partitions)
            self._health.trouble("consumer", "stopped")
            await self._membership.leave()

    async def _until(self, stop: asyncio.Event, beside: Sequence["asyncio.Task[None]"]) -> None:
        """Poll until told to stop; what runs beside ends only by raising, and that is raised here."""
        stopping = asyncio.create_task(stop.wait())
        polling = asyncio.create_task(self._polls(stop))
        try:
            await asyncio.wait([stopping, polling, *beside], return_when=asyncio.FIRST_COMPLETED)
            for task in (polling, *beside):
                if task.done():
                    task.result()
            # Told to stop: what happens to this process from now on is no record's fault.
            await self._release(list(self._partitions), self._options.moment)
            await asyncio.wait([polling], timeout=self._options.drain / 2)
        finally:
            await cancelled([stopping, polling])

    async def _drain(self) -> None:
        if self._asides:
            await asyncio.wait(self._asides, timeout=self._options.moment)
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(self._options.moment):
                await self._commit()

    # -- polls

    async def _polls(self, stop: asyncio.Event) -> None:
        """While one poll is in the database, the next is read and decoded."""
        ahead: asyncio.Task[list[Read]] | None = None
        try:
            while not stop.is_set():
                under_suspicion, probing = self._under_suspicion(), self._is_probing()
                if ahead is not None and (under_suspicion or probing):
                    # Two that read one partition might overtake each other.
                    await self._take(await ahead)
                    ahead = None
                if under_suspicion:
                    await self._take_suspects(*under_suspicion)
                    continue
                if probing:
                    await self._probe()
                reads = await (ahead or self._read())
                self._idle.clear()
                ahead = asyncio.create_task(self._read())
                try:
                    await self._take(reads)
                finally:
                    self._idle.set()
        finally:
            if ahead is not None:
                await cancelled([ahead])

    def _under_suspicion(self) -> tuple[Partition, Suspects] | None:
        for partition in self._partitions.values():
            if partition.suspected and partition.tp.topic not in self._stopped:
                return partition, partition.suspected
        return None

    async def _read(self) -> list[Read]:
        """What has come, decoded, of the partitions that do not rest."""
        crowded = (
            sum(len(each.held) for each in self._partitions.values()) > CROWD * self._options.max_poll_records
            or self._behind_bytes > POLL_BYTES
        )
        awake = [
            each.tp
            for each in self._partitions.values()
            if not (crowded and each.held) and not each.suspected and each.tp.topic not in self._stopped
        ]
        if not awake:
            await asyncio.sleep(0.05)
            return []
        return await self._get(awake, self._options.max_poll_records, POLL_MS)

    async def _get(self, tps: Sequence[TopicPartition], records: int, wait_ms: int) -> list[Read]:
        epochs = {tp: (self._partitions[tp], self._partitions[tp].epoch) for tp in tps}
        reads = {tp: Read(*epochs[tp], []) for tp in tps}
        number = weight = 0
        with tracing.step("receive") as step:
            while number < records and weight < POLL_BYTES and not any(read.void for read in reads.values()):
                # Slice by slice: how much a record weighs is known when it is there.
                some_more = min(SLICE, records - number)
                got = await self._membership.fetch(tps, some_more, wait_ms, enough=self._idle if number else None)
                for tp, some in got.items():
                    reads[tp].deliveries += await self._decoded(some)
                    number += len(some)
                    some_more -= len(some)
                    weight += sum(len(record.value or b"") for record in some)
                if some_more and self._idle.is_set():
                    break
            for read in reads.values():
                step.about(len(read.deliveries), contexts(read.deliveries))
        return [read for read in reads.values() if read.deliveries]

    async def _decoded(self, records: Sequence[ConsumerRecord]) -> list[Delivery]:
        deliveries = []
        for record in records:
            if len(record.value or b"") > 256 * 1024:
                deliveries.append(await asyncio.to_thread(self._delivery, record))
            else:
                deliveries.append(self._delivery(record))
        return deliveries

    def delivery_of(self, record: ConsumerRecord) -> Delivery:
        if isinstance(record.value, Unreadable):
            return delivery_of(record, Refusal(Reason.UNREADABLE, record.value.why))
        event = events.decode(record.topic, record.value, max_bytes=self._options.max_bytes[record.topic])
        return delivery_of(record, event)

    async def _take(self, reads: Sequence[Read], *, probing: bool = False) -> None:
        """Apply what was read, as far as it is still ours to apply, and move the partitions on."""
        async with self._busy:
            taken = [read for read in reads if not read.void]
            if not taken:
                return
            doubtful = {read.partition.tp: first for read in taken if (first := read.cut_doubtful()) is not None}
            deliveries = [delivery for read in taken for delivery in read.deliveries]
            outcome = await self._intake.take(deliveries, probing=probing, waiting=frozenset(self._behind))
            self._moved = time.monotonic()
            if outcome.stopped != self._stopped:
                self._tell_stopped(outcome.stopped)
            left = doubtful | first_offsets_of(outcome.left)
            held = offsets_of(outcome.aside)
            for read in taken:
                if not read.void:
                    self._move_on(read, left.get(read.partition.tp), held.get(read.partition.tp, set()))
            self._set_aside(outcome.aside, {read.partition.tp: read.partition for read in taken})

    def _move_on(self, read: Read, left: int | None, held: set[int]) -> None:
        partition = read.partition
        partition.held |= held
        if left is None:
            partition.done = read.deliveries[-1].offset + 1
        else:
            partition.done = left
            self._rewind(partition, left)

    def _rewind(self, partition: Partition, offset: int) -> None:
        partition.epoch += 1
        self._membership.rewind(partition.tp, offset)

    # -- what waits for others

    def _set_aside(self, aside: Iterable[Delivery], partitions: Mapping[TopicPartition, Partition]) -> None:
        for delivery in aside:
            batch_id: str = delivery.event.batch_id  # type: ignore[union-attr]  # a refusal waits for nobody
            if batch_id not in self._behind:
                self._behind[batch_id] = []
                task = asyncio.create_task(self._wait_for_others(batch_id))
                self._asides.add(task)
                task.add_done_callback(self._asides.discard)
            partition = partitions[TopicPartition(delivery.topic, delivery.partition)]
            self._behind[batch_id].append((partition, delivery))
            self._behind_bytes += len(delivery.value or b"")

    async def _wait_for_others(self, batch_id: str) -> None:
        """Apply what was set aside of one batch, and what came for it meanwhile, in order of arrival."""
        while waiting := self._behind[batch_id]:
            self._behind[batch_id] = []
            await self._intake.take_alone([delivery for _, delivery in waiting])
            self._moved = time.monotonic()
            for partition, delivery in waiting:
                partition.held.discard(delivery.offset)
                self._behind_bytes -= len(delivery.value or b"")
        del self._behind[batch_id]

    # -- suspects

    async def _take_suspects(self, partition: Partition, suspected: Suspects) -> None:
        """The next portion of what a pod may have died of: marked first, with nothing else under way.

        What came before it is committed, so that a pod which dies of it leaves its successor with this portion
        first: deaths are counted for what is tried again, not for what lies behind it.
        """
        epoch = partition.epoch
        if self._asides:
            await asyncio.wait(self._asides)
        await self._commit()
        if partition.epoch != epoch:
            return
        got = await self._membership.fetch(
            [partition.tp], 1 if suspected.convict is not None else suspected.portion, POLL_MS
        )
        records = [each for some in got.values() for each in some]
        if partition.epoch != epoch or (not records and not await self._membership.is_at_the_end(partition.tp)):
            return
        if not records or records[0].offset >= suspected.end:
            async with self._database.transaction() as conn:
                await suspects.widen(conn, self._pod, partition.tp)
            partition.suspected = None
        if not records:
            return
        await self._take([Read(partition, epoch, await self._suspected(partition.tp, suspected, records))])

    async def _suspected(
        self, tp: TopicPartition, suspected: Suspects, records: Sequence[ConsumerRecord]
    ) -> list[Delivery]:
        if records[0].offset == suspected.convict:
            why = f"the process died {crash_marks.DEATHS} times with this record alone in hand"
            return [delivery_of(records[0], Refusal(Reason.KILLED_THE_PROCESS, why))]
        if records[0].offset < suspected.end:
            span = records[-1].offset - records[0].offset + 1
            async with self._database.transaction() as conn:
                await suspects.mark(conn, self._pod, tp, records[0].offset, span)
        return await self._decoded(records)

    # -- topics that bring nothing but refusals

    def _tell_stopped(self, stopped: set[str]) -> None:
        if not self._stopped:
            self._probed = time.monotonic()
        for topic in stopped - self._stopped:
            _log.error("topic_stopped", topic=topic, reason="nothing but refusals; see `quarantine resume`")
        for topic in self._stopped - stopped:
            _log.warning("topic_resumed", topic=topic)
        self._stopped = set(stopped)
        if stopped:
            self._health.trouble("topics", f"stopped, nothing but refusals: {', '.join(sorted(stopped))}")
        else:
            self._health.well("topics")

    async def _look_at_stops(self) -> None:
        async with self._database.transaction() as conn:
            known = await quarantine.read_topic_refusals(conn)
        self._tell_stopped({topic for topic, refusals in known.items() if refusals.stopped})

    def _is_probing(self) -> bool:
        return bool(self._stopped) and time.monotonic() - self._probed >= PROBE_SECONDS

    async def _probe(self) -> None:
        """Try the next record of each partition of the stopped topics, if it is there: a good one ends the stop."""
        for partition in list(self._partitions.values()):
            ours = self._partitions.get(partition.tp) is partition
            if ours and partition.tp.topic in self._stopped:
                await self._take(await self._get([partition.tp], 1, wait_ms=0), probing=True)
        self._probed = time.monotonic()

    # -- offsets

    async def _commit_often(self) -> None:
        """Raises Stalled where the coordinator gives no answer: the client would wait longer than for a rebalance."""
        bound = self._membership.patience
        while True:
            await asyncio.sleep(COMMIT_SECONDS)
            try:
                async with asyncio.timeout(bound):
                    await self._commit()
            except TimeoutError:
                raise Stalled(f"no answer to a commit of offsets for {bound:.0f} s") from None

    async def _commit(self) -> None:
        """Commit how far the partitions have come. One that is not ours any more is its next owner's concern."""
        offsets = {
            tp: partition.committable
            for tp, partition in self._partitions.items()
            if partition.committable is not None and partition.committable != self._committed.get(tp)
        }
        if not offsets:
            return
        try:
            await self._membership.commit(offsets)
        except (KafkaError, IllegalStateError) as error:
            # The next time will do, or the next owner: what is committed late is only read again.
            if self._uncommitted.due():
                _log.info("offsets_not_committed", error=type(error).__name__)
        else:
            self._uncommitted.over()
            self._committed.update(offsets)

    # -- the watchdog

    async def _watch(self) -> None:
        """Know the lag, notice that nothing moves, hear of stopped topics."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look_at_lag()
            if self._stopped:
                with suppress(psycopg.Error):  # the intake tells of a database that is away
                    await self._look_at_stops()
            if (alone := time.monotonic() - self._served) > self._options.watchdog:
                # A client may wait for ever for an answer that was lost with its broker.
                raise Stalled(f"no share of the group for {alone:.0f} s")

    async def _look_at_lag(self) -> None:
        partitions = dict(self._partitions)
        unknown = [tp for tp, each in partitions.items() if each.done is None]
        try:
            ends, starts = await self._membership.ends(list(partitions), unknown)
        except IllegalStateError:
            return  # a rebalance came between
        except (KafkaError, TimeoutError) as error:
            self._health.trouble("consumer", f"no word from the broker: {type(error).__name__}")
            return
        if self._shared_out:
            self._served = time.monotonic()
        lag = {tp: max(0, end - starts.get(tp, partitions[tp].done or 0)) for tp, end in ends.items()}
        for tp, behind in lag.items():
            if self._partitions.get(tp) is partitions[tp]:  # else it was given back meanwhile, and is another's to tell
                self._tell_lag(tp, behind)
        if not any(behind for tp, behind in lag.items() if tp.topic not in self._stopped):
            self._moved = time.monotonic()
        still = time.monotonic() - self._moved
        if still > self._options.watchdog and not (
            self._health.parts.get("database") or self._health.parts.get("transactions")
        ):
            self._health.trouble("consumer", f"nothing moved for {still:.0f} s although there is lag")
            raise Stalled(f"nothing moved for {still:.0f} s although there is lag")
        if self._partitions:
            self._health.well("consumer")

    # -- rebalances, called by aiokafka

    async def revoked(self, tps: Iterable[TopicPartition]) -> None:
        """Finish the poll in hand, in bounded time, or abandon it; commit; give the partitions back."""
        self._shared_out = False
        tps = list(tps)
        if not tps:
            return
        bound = self._options.rebalance_timeout / 3
        with suppress(TimeoutError):
            async with asyncio.timeout(bound), self._busy:
                pass
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(bound):
                await self._commit()
        self._void(tps)
        self._health.trouble("consumer", "its partitions are being shared out anew")
        await self._release(tps, bound)

    async def assigned(self, tps: Iterable[TopicPartition]) -> None:
        """Take partitions over; where a dead pod's mark is found, its next records are suspects."""
        tps = list(tps)
        self._void(self._partitions)
        self._committed.clear()
        partitions = {tp: Partition(tp) for tp in tps}
        left_behind = await self._claim(tps)
        for tp, mark in left_behind.items():
            with suppress(KafkaError):  # then the partition is not ours any more
                position = await self._membership.position(tp)
                partitions[tp].suspected = crash_marks.suspects(mark, position, self._options.max_poll_records)
        self._partitions = partitions
        self._shared_out = True
        self._moved = self._served = time.monotonic()
        self._health.well("consumer")
        _log.info("partitions_assigned", partitions=len(tps), suspects=len(left_behind))

    def _void(self, tps: Iterable[TopicPartition]) -> None:
        for tp in list(tps):
            if partition := self._partitions.pop(tp, None):
                partition.epoch += 1
                self._tell_lag(tp, None)
        self._membership.abandon_fetches()

    async def _claim(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int | None, int]]:
        if not tps:
            return {}
        try:
            async with self._database.transaction() as conn:
                return await suspects.claim(conn, self._pod, tps)
        except Exception as error:  # noqa: BLE001  whatever it is, the partitions are ours
            # Without its marks a pod works as well; only the record that kills it stays unknown.
            _log.warning("marks_not_claimed", error=type(error).__name__)
            return {}

    async def _release(self, tps: Sequence[TopicPartition], seconds: float) -> None:
        if not tps:
            return
        try:
            async with asyncio.timeout(seconds), self._database.transaction() as conn:
                await suspects.release(conn, self._pod, tps)
        except Exception as error:  # noqa: BLE001  a mark that stays costs its next owner a second
            _log.warning("marks_not_released", error=type(error).__name__)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """aiokafka only logs what is raised here, so nothing is."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._consumer.revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        await self._consumer.assigned(assigned)
