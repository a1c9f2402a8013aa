"""Kafka → transaction → offsets.

What must hold: an offset is committed only after every record before it is dealt with in the database; a
batch's records of one partition are applied in order; a record that comes again, for whatever reason, changes
nothing, so everything here may be abandoned at any moment. While one poll is in the database, the next is read and
decoded. What must wait for others is applied beside the polls; what comes for the same batches waits behind it.
"""

import asyncio
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import psycopg
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from service import events, quarantine, records, suspects, tracing
from service.database import Database
from service.events import Reason, Refusal
from service.health import Health
from service.intake import Intake
from service.loop import Seldom, cancelled
from service.partitions import Partition, Read, first_offsets_of, offsets_of
from service.poll import Delivery, contexts
from service.records import Unreadable
from service.suspects import Suspects

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
CALM_SECONDS = 1.0
CALM_FACTOR = 10
"""Where nothing has come for so long, fetches wait so many times longer: a hundred a second cost a tenth of a core."""
SILENT_SECONDS = 6.0
"""A broker that gives no answer for so long, or for the session's timeout where that is longer, is left."""
LOOK_SECONDS = 1.0
"""The lag is asked for so often, and whether an operator, or another pod, has set stopped topics going again."""


@dataclass(frozen=True, slots=True)
class ConsumerOptions:
    """Seconds, records and bytes."""

    group: str
    max_poll_records: int = 2_000
    session_timeout: float = 6
    rebalance_timeout: float = 30
    drain: float = 20
    watchdog: float = 60
    fetch_wait: float = 0.01
    """How long a broker may hold a fetch that finds nothing, while records come."""
    max_bytes: Mapping[str, int] = field(default_factory=dict)
    """The largest message taken, by topic."""

    @property
    def moment(self) -> float:
        """What one of the small steps of a drain may take; half of the drain is for the poll in hand."""
        return self.drain / 12


class Stalled(Exception):
    """Nothing moves despite lag, the group has no share for us, or the broker no word: the client is made anew."""


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
        self._fetches: set[asyncio.Task[dict[TopicPartition, list[ConsumerRecord]]]] = set()
        self._busy = asyncio.Lock()
        self._idle = asyncio.Event()
        """While it is not set a poll is in the database, and the next one takes what comes meanwhile."""
        self._idle.set()
        self._moved = self._probed = self._served = self._came = time.monotonic()
        self._silent_since = math.inf
        self._shared_out = False
        self._client: AIOKafkaConsumer
        records.install()

    # -- the life of the client

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, then finish what is in hand, for `drain` seconds at most, and leave the group.

        Raises KafkaError where the broker is away, and Stalled; call it again.
        """
        self._client = AIOKafkaConsumer(
            **self._kafka,
            group_id=self._options.group,
            client_id=self._pod,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(self._options.session_timeout * 1000),
            heartbeat_interval_ms=int(self._options.session_timeout * 1000 / 4),
            rebalance_timeout_ms=int(self._options.rebalance_timeout * 1000),
            # Whether we move is watched here (_watch): a database that is away must not cost the partitions too.
            max_poll_interval_ms=24 * 3600 * 1000,
            fetch_max_wait_ms=int(min(self._options.fetch_wait, SILENT_SECONDS / 4) * 1000),
            # What lies fetched and not yet taken is memory: of each partition, and of each broker. A record that is
            # larger comes all the same.
            max_partition_fetch_bytes=512 * 1024,
            fetch_max_bytes=4 * 1024 * 1024,
        )
        self._client.subscribe(topics=list(events.INCOMING_TOPICS), listener=_Listener(self))
        beside: list[asyncio.Task[None]] = []
        self._shared_out = False
        try:
            if not await self._started(stop):
                return
            self._moved = self._served = time.monotonic()
            self._silent_since = math.inf
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
            await self._leave()

    async def _started(self, stop: asyncio.Event) -> bool:
        """Connect, unless told to stop: a client waits long for a topic that is missing."""
        stopping = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._client.start())
        try:
            await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await cancelled([starting])
        return not starting.cancelled() and starting.result() is None

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

    async def _leave(self) -> None:
        """Leave the group, so that the next owner need not wait for the session to end; nothing of the client stays."""
        leaving = asyncio.create_task(self._client.stop())
        try:
            await asyncio.wait([leaving], timeout=self._options.moment)
            if not leaving.done():
                # It waits for an answer that may never come, and would be left half stopped, still fetching. What waits
                # on a connection that is closed goes on at once.
                with suppress(KafkaError, TimeoutError):
                    async with asyncio.timeout(self._options.moment):
                        await self._client._client.close()  # noqa: SLF001  aiokafka has no other way
                await asyncio.wait([leaving], timeout=self._options.moment)
        finally:
            await cancelled([leaving])

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
                got = await self._fetched(tps, some_more, wait_ms, until_idle=number > 0)
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

    async def _fetched(
        self, tps: Sequence[TopicPartition], records: int, wait_ms: int, *, until_idle: bool = False
    ) -> Mapping[TopicPartition, Sequence[ConsumerRecord]]:
        """What the client has, or gets soon; nothing where a partition is rewound or given back meanwhile.

        A fetch that is under way then would bring records from behind the seek or the rebalance to a read from
        before it: that is void, and the client, whose position is past them, would never bring them again.

        With `until_idle` it waits no longer than the poll that is in the database needs.
        """
        fetch = asyncio.create_task(self._client.getmany(*tps, timeout_ms=wait_ms, max_records=records))
        self._fetches.add(fetch)
        idle = [asyncio.create_task(self._idle.wait())] if until_idle else []
        try:
            await asyncio.wait([fetch, *idle], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._fetches.discard(fetch)
            for task in (fetch, *idle):
                task.cancel()
        # One that is cancelled while it waits has taken nothing out of the client yet.
        await asyncio.wait([fetch])
        got = {} if fetch.cancelled() else {tp: some for tp, some in fetch.result().items() if some}
        self._set_fetch_wait(bool(got))
        return got

    def _set_fetch_wait(self, comes: bool) -> None:
        """Short while records come: a broker may answer a fetch that found nothing only when its wait is over.

        What else is asked is answered behind it, so that it must not be taken for silence.
        """
        now = time.monotonic()
        if comes:
            self._came = now
        calm = now - self._came > CALM_SECONDS
        wait_ms = int(min(self._options.fetch_wait * (CALM_FACTOR if calm else 1), SILENT_SECONDS / 4) * 1000)
        self._client._fetcher._fetch_max_wait_ms = wait_ms  # noqa: SLF001  aiokafka has no other way, once it runs

    def _abandon_fetches(self) -> None:
        for fetch in self._fetches:
            fetch.cancel()

    async def _decoded(self, records: Sequence[ConsumerRecord]) -> list[Delivery]:
        deliveries = []
        for record in records:
            if len(record.value or b"") > 256 * 1024:
                deliveries.append(await asyncio.to_thread(self._delivery, record))
            else:
                deliveries.append(self._delivery(record))
        return deliveries

    def _delivery(self, record: ConsumerRecord) -> Delivery:
        if isinstance(record.value, Unreadable):
            return _delivery(record, Refusal(Reason.UNREADABLE, record.value.why))
        event = events.decode(record.topic, record.value, max_bytes=self._options.max_bytes[record.topic])
        return _delivery(record, event)

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
        self._abandon_fetches()
        with suppress(IllegalStateError):
            self._client.seek(partition.tp, offset)

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
        got = await self._fetched([partition.tp], 1 if suspected.convict is not None else suspected.portion, POLL_MS)
        records = [each for some in got.values() for each in some]
        if partition.epoch != epoch or (not records and not await self._at_the_end(partition.tp)):
            return
        if not records or records[0].offset >= suspected.end:
            async with self._database.transaction() as conn:
                await suspects.widen(conn, self._pod, partition.tp)
            partition.suspected = None
        if not records:
            return
        await self._take([Read(partition, epoch, await self._suspected(partition.tp, suspected, records))])

    async def _at_the_end(self, tp: TopicPartition) -> bool:
        """Whether the partition has no more to bring: a broker may also be slow."""
        try:
            highwater = self._client.highwater(tp)
            return highwater is not None and await self._client.position(tp) >= highwater
        except IllegalStateError:
            return False

    async def _suspected(
        self, tp: TopicPartition, suspected: Suspects, records: Sequence[ConsumerRecord]
    ) -> list[Delivery]:
        if records[0].offset == suspected.convict:
            why = f"the process died {suspects.DEATHS} times with this record alone in hand"
            return [_delivery(records[0], Refusal(Reason.KILLED_THE_PROCESS, why))]
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
        bound = self._silent
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
            await self._client.commit(offsets)
        except (KafkaError, IllegalStateError) as error:
            # The next time will do, or the next owner: what is committed late is only read again.
            if self._uncommitted.due():
                _log.info("offsets_not_committed", error=type(error).__name__)
        else:
            self._uncommitted.over()
            self._committed.update(offsets)

    # -- the watchdog

    @property
    def _silent(self) -> float:
        return max(SILENT_SECONDS, self._options.session_timeout)

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
        asked, coming = time.monotonic(), self._coming()
        try:
            async with asyncio.timeout(self._silent / 2):
                ends = await self._client.end_offsets(list(partitions))
                starts = {tp: await self._client.position(tp) for tp, each in partitions.items() if each.done is None}
        except IllegalStateError:
            return  # a rebalance came between
        except (KafkaError, TimeoutError) as error:
            self._hear_nothing(asked, coming, error)
            return
        self._silent_since = math.inf
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

    def _hear_nothing(self, asked: float, coming: Mapping[int, int], error: Exception) -> None:
        """A question was not answered. Raises Stalled where nothing else came for too long.

        Then its connection may be one that nobody answers any more. By now the group has given our share away, and the
        client itself would wait longer than for a rebalance. While something comes the broker is slow, not silent.
        """
        self._health.trouble("consumer", f"no word from the broker: {type(error).__name__}")
        self._silent_since = min(self._silent_since, asked)
        if any(size and size != coming.get(connection) for connection, size in self._coming().items()):
            self._silent_since = time.monotonic()  # answers come one after the other, and a large one takes its time
        silent = time.monotonic() - max(self._silent_since, self._came)
        if silent >= self._silent:
            raise Stalled(f"no word from the broker for {silent:.0f} s")

    def _coming(self) -> dict[int, int]:
        """Bytes of answers that are there in part, by connection."""
        connections = self._client._client._conns.values()  # noqa: SLF001  aiokafka has no other way
        return {id(each): len(each._reader._buffer) for each in connections if each._reader is not None}  # noqa: SLF001

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
                position = await self._client.position(tp)
                partitions[tp].suspected = suspects.suspects(mark, position, self._options.max_poll_records)
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
        self._abandon_fetches()

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


def _delivery(record: ConsumerRecord, event: events.Incoming | Refusal) -> Delivery:
    return Delivery(record.topic, record.partition, record.offset, record.key, record.value, record.headers, event)
