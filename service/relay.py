"""Outbox → Kafka: what was committed is published, in the order of its commits within a batch.

Why the order holds: the rows of a batch get their `seq` under that batch's row lock, so within a batch
`seq` is the order of the commits. A row is handed to the broker only after every earlier row of its
batch is acknowledged or was found deleted, whatever its topic. So the *first* acknowledgement of each
row comes in that order, even where two relays overlap: each goes in order from a point before which
everything is acknowledged. Shards and leases only keep relays from doing the same work twice.

Why nothing is lost: a row leaves the outbox after its acknowledgement, in a transaction of its own. What
happens in between, a crash, a cancellation, a lost answer, repeats the row under its old event id.

No connection and no lock is held while the broker is waited for.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, cast
from uuid import UUID, uuid4

import psycopg
import structlog
from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder
from psycopg import AsyncConnection

from service import outbox
from service.database import Database
from service.kafka import Producer
from service.loop import Loop
from service.outbox import SHARDS, Blocked, Key, Limits, Row
from service.telemetry import EVENT_TO_PUBLISH, OUTBOX_PUBLISHED

_log = structlog.get_logger(__name__)

WORKERS: Final = 2
"""One fetches and deletes while the other publishes."""

DELIVERY_SECONDS: Final = 15.0
"""How long an acknowledgement is waited for; an idempotent producer by itself waits for ever."""

FLOOR_SECONDS: Final = 10.0
BLOCKED_SECONDS: Final = 1.0
NOTIFY_SECONDS: Final = 0.05
CHANNEL: Final = "els_outbox"

# The record's own fault: it is found by halving, and only its batch waits.
_OF_THE_RECORD = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.CorruptRecordException,
    errors.InvalidTimestampError,
    errors.UnsupportedForMessageFormatError,
    errors.PolicyViolationError,
)
# The topic's: all batches with a row for it wait.
_OF_THE_TOPIC = (
    errors.UnknownTopicOrPartitionError,
    errors.InvalidTopicError,
    errors.TopicAuthorizationFailedError,
)
# The partition's, as long as others are well: else it is the broker that is in trouble.
_OF_THE_PARTITION = (
    errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError,
    errors.NotEnoughReplicasError,
    errors.NotEnoughReplicasAfterAppendError,
    errors.KafkaStorageError,
)


class Floors:
    """For each shard a seq up to which no row waits, so that a fetch need not wade through dead rows.

    A row with a low seq may be committed after one with a high seq has been read. So a floor rises only
    to a seq whose every forerunner's transaction had ended when a later fetch found nothing below: the
    transaction id that was drawn after that seq had been seen, against the oldest one that still runs.
    A floor is a hint: it is forgotten every few seconds, and wherever a row below could come back.
    """

    def __init__(self) -> None:
        self._floors: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._candidates: dict[int, tuple[int, int]] = {}
        self._forgotten_at = time.monotonic()

    def of(self, shards: Iterable[int]) -> list[tuple[int, int]]:
        """The shards, each with its floor."""
        if time.monotonic() - self._forgotten_at > FLOOR_SECONDS:
            self._floors.clear()
            self._forgotten_at = time.monotonic()
        return [(shard, self._floors.get(shard, 0)) for shard in shards]

    def drawn(self, transaction_id: int) -> None:
        """This id was drawn after everything seen so far had been read."""
        for shard, seq in self._seen.items():
            self._candidates.setdefault(shard, (seq, transaction_id))
        self._seen.clear()

    def fetched(self, rows: Sequence[Row]) -> None:
        """What a fetch brought, in the order of seq within each shard."""
        first: dict[int, int] = {}
        for row in rows:
            first.setdefault(row.shard, row.seq)
            self._seen[row.shard] = row.seq
        for shard, lowest in first.items():
            seq, transaction_id = self._candidates.get(shard, (0, rows[0].horizon + 1))
            if transaction_id <= rows[0].horizon:
                self._floors[shard] = min(seq, lowest - 1)
                del self._candidates[shard]

    def forget(self, shards: Iterable[int]) -> None:
        """Rows below may come back: a batch is blocked no more, or the shard was another relay's."""
        for shard in shards:
            self._floors.pop(shard, None)
            self._candidates.pop(shard, None)
            self._seen.pop(shard, None)


class Lease:
    """The shards that this relay may serve, as long as its lease lasts by its own clock."""

    def __init__(self, database: Database, seconds: float, taken: Callable[[Iterable[int]], None]) -> None:
        self.relay: UUID = uuid4()
        self.shards: frozenset[int] = frozenset()
        self.leaving: frozenset[int] = frozenset()
        self._database = database
        self._seconds = seconds
        self._until = float("-inf")
        self._taken = taken

    @property
    def is_valid(self) -> bool:
        """Whether others still count this relay, as far as its own clock can tell."""
        return time.monotonic() < self._until

    def serves(self, shard: int) -> bool:
        """Whether rows of this shard may be published now."""
        return shard in self.shards and self.is_valid

    async def renew(self) -> bool:
        """Live on, take free shards, choose those to give back. The workers give back: they know when.

        A relay whose lease ran out comes back as another: a fetch that is still on its way, with floors
        from before, must not find that its shards are its own again.
        """
        asked_at = time.monotonic()
        if not self.is_valid:
            self.relay, self.shards, self.leaving = uuid4(), frozenset(), frozenset()
        async with self._database.transaction() as conn:
            await outbox.prepare_relay(conn)
            await outbox.renew_relay(conn, self.relay, self._seconds)
            share = await outbox.share_shards(conn, self.relay)
        held = frozenset(share.held + share.taken)
        fresh = held - self.shards | set(share.taken)
        kept_last = sorted(held, key=lambda shard: (shard not in self.leaving, -shard))
        self.leaving = frozenset(kept_last[: max(0, len(held) - share.fair)])
        self.shards = held
        self._until = asked_at + self._seconds
        if fresh:
            self._taken(fresh)
        return False

    def gave_back(self, shards: Iterable[int]) -> None:
        self.shards = self.shards - frozenset(shards)
        self.leaving = self.leaving - frozenset(shards)

    async def leave(self) -> None:
        """Give all back."""
        self._until = float("-inf")
        self.shards = self.leaving = frozenset()
        async with self._database.transaction() as conn:
            await outbox.leave_relay(conn, self.relay)


class Worker:
    """Serves every `WORKERS`-th shard: one transaction that settles and fetches, then the broker, again.

    Between two steps it holds what the next transaction must write: rows to delete, batches to block.
    """

    def __init__(
        self, number: int, database: Database, lease: Lease, producers: Callable[[], Producer], limits: Limits
    ) -> None:
        self._number = number
        self._database = database
        self._lease = lease
        self._limits = limits
        self._line = ProducerLine(producers)
        self._floors = Floors()
        self._first = 0
        self._blocked_at = float("-inf")
        self._published: list[Key] = []
        self._blocked: list[Blocked] = []
        self._retried: frozenset[bytes] = frozenset()
        self._cured: dict[bytes, int] = {}

    async def step(self) -> bool:
        """Publish the next rows. Returns whether there were any. Raises what kept all from going out."""
        rows = await self._turn()
        if not rows:
            return False
        wave = Publication(self._line, self._lease)
        try:
            await wave.publish(rows)
        finally:
            self._published += wave.acknowledged
            self._blocked += wave.blocked
            self._cured.update(wave.went_on(self._retried))
            self._tell()
        if wave.trouble is not None:
            raise wave.trouble
        return True

    async def finish(self) -> None:
        """Settle what is published, and stop the producer."""
        try:
            async with self._database.transaction() as conn:
                await outbox.prepare_relay(conn)
                await self._settle(conn)
            self._settled()
        finally:
            await self._line.abandon()

    async def abandon(self) -> None:
        """Drop everything; the rows are still in the outbox."""
        await self._line.abandon()

    def forget_floors(self, shards: Iterable[int]) -> None:
        self._floors.forget(shards)

    async def _turn(self) -> list[Row]:
        """One transaction: what came of the last rows is written down, the next ones are read."""
        mine = [shard for shard in self._lease.shards if shard % WORKERS == self._number]
        leaving = [shard for shard in mine if shard in self._lease.leaving]
        shards = self._in_turn(shard for shard in mine if shard not in leaving)
        async with self._database.transaction() as conn:
            await outbox.prepare_relay(conn)
            await self._settle(conn)
            if leaving:
                await outbox.give_back_shards(conn, self._lease.relay, leaving)
            rows = await self._fetch(conn, shards) if shards and self._lease.is_valid else []
        self._settled()
        self._lease.gave_back(leaving)
        self._floors.forget(leaving)
        return rows

    async def _fetch(self, conn: AsyncConnection, shards: Sequence[int]) -> list[Row]:
        relay = self._lease.relay
        rows = await outbox.fetch_outbox(conn, relay, self._floors.of(shards), self._limits)
        self._floors.fetched(rows)
        if rows:
            self._first = rows[-1].shard + 1
        if time.monotonic() - self._blocked_at >= BLOCKED_SECONDS:
            self._blocked_at = time.monotonic()
            await outbox.forget_blocked(conn, shards)
            retried = await outbox.fetch_blocked(conn, relay, shards, self._limits)
            here = {row.batch_id for row in rows}
            retried = [row for row in retried if row.batch_id not in here]
            self._retried = frozenset(row.batch_id for row in retried)
            rows += retried
        return rows

    async def _settle(self, conn: AsyncConnection) -> None:
        """Deletes, blocks and unblocks. Before an unblocked batch is fetched, its shard's floor goes."""
        if self._published:
            self._floors.drawn(await outbox.delete_outbox(conn, self._published))
        if self._blocked:
            await outbox.block_batch(conn, self._blocked)
        if self._cured:
            self._floors.forget(self._cured.values())
            await outbox.unblock_batch(conn, list(self._cured))

    def _settled(self) -> None:
        self._published, self._blocked, self._cured = [], [], {}

    def _in_turn(self, shards: Iterable[int]) -> list[int]:
        """The shards, from behind the one that was served last: a full one must not starve the others."""
        return sorted(shards, key=lambda shard: (shard - self._first) % SHARDS)

    def _tell(self) -> None:
        if self._blocked:
            stuck = self._blocked[0]
            _log.warning(
                "outbox_blocked",
                batches=len(self._blocked),
                batch_id=stuck.batch_id.decode(),
                topic=stuck.topic.decode(),
                error=stuck.error,
            )


class ProducerLine:
    """The producer of one worker: made when it is needed, made anew when it is spent."""

    def __init__(self, producers: Callable[[], Producer]) -> None:
        self._producers = producers
        self._producer: Producer | None = None
        self._making = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def producer(self) -> Producer:
        """One that is connected. Raises KafkaError or TimeoutError."""
        async with self._making:
            if self._producer is None:
                producer = self._producers()
                await producer.start()
                self._producer = producer
            return self._producer

    async def send(self, records: BatchBuilder, topic: str, partition: int) -> Exception | None:
        """Returns None when the broker has acknowledged, else why it has not (it may have them)."""
        try:
            producer = await self.producer()
        except (errors.KafkaError, TimeoutError) as unreachable:
            return cast("Exception", unreachable)
        try:
            async with asyncio.timeout(DELIVERY_SECONDS):
                await (await producer.send_batch(records, topic, partition=partition))
        except (errors.KafkaError, TimeoutError, AssertionError) as error:
            self._replace(producer, error)
            unknown: Exception = errors.UnknownTopicOrPartitionError(topic)
            return unknown if producer.partition(topic, b"") is None else error
        return None

    def _replace(self, producer: Producer, error: Exception) -> None:
        """After a refusal only an idempotent one is spent; after silence, any."""
        if self._producer is not producer:
            return
        if producer.idempotent or not isinstance(error, errors.BrokerResponseError):
            self._producer = None
            task = asyncio.create_task(producer.close(DELIVERY_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def abandon(self) -> None:
        """Close all at once, whatever is on its way."""
        for task in list(self._closing):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.abandon()


class Publication:
    """Rows on their way to the broker, in waves: of each batch the next rows of one topic.

    The rows of a wave go out as record batches, one for each partition at a time. A batch takes part in
    the next wave when all its rows of this one are acknowledged.
    """

    def __init__(self, line: ProducerLine, lease: Lease) -> None:
        self.acknowledged: list[Key] = []
        self.trouble: Exception | None = None
        self._line = line
        self._lease = lease
        self._read_at = time.monotonic()
        self._stuck: dict[bytes, Blocked] = {}
        self._held: dict[bytes, tuple[Row, Exception]] = {}

    async def publish(self, rows: Sequence[Row]) -> None:
        """Until all are acknowledged or their batches are held. Raises KafkaError, TimeoutError."""
        producer = await self._line.producer()
        self._new_records = producer.create_batch
        await producer.find({row.topic.decode() for row in rows})
        waiting = _by_batch(rows)
        while waiting:
            wave, waiting = self._next_wave(waiting, producer)
            async with asyncio.TaskGroup() as group:
                for (topic, partition), run in wave.items():
                    if partition is None:
                        self._hold(run, errors.UnknownTopicOrPartitionError(topic))
                    elif not producer.has_leader(topic, partition):
                        self._hold(run, errors.LeaderNotAvailableError(f"{topic} {partition}"))
                    else:
                        group.create_task(self._deliver(topic, partition, run))
            waiting = {batch: rest for batch, rest in waiting.items() if not self._waits(batch)}
        self._judge()

    @property
    def blocked(self) -> list[Blocked]:
        """The batches that must wait, with the row that could not be published."""
        return list(self._stuck.values())

    def went_on(self, batch_ids: frozenset[bytes]) -> dict[bytes, int]:
        """Those of these batches that were blocked and are no more, with their shards."""
        return {
            row.batch_id: row.shard
            for row in self.acknowledged
            if row.batch_id in batch_ids and row.batch_id not in self._stuck
        }

    def _next_wave(
        self, waiting: dict[bytes, list[Row]], producer: Producer
    ) -> tuple[dict[tuple[str, int | None], list[Row]], dict[bytes, list[Row]]]:
        """Of each batch its next rows of one topic, by partition; and what is left for later."""
        wave: dict[tuple[str, int | None], list[Row]] = {}
        later: dict[bytes, list[Row]] = {}
        for batch_id, rows in waiting.items():
            if not self._lease.serves(rows[0].shard):
                continue  # another relay has them, or will
            end = _run_length(rows)
            topic = rows[0].topic.decode()
            wave.setdefault((topic, producer.partition(topic, batch_id)), []).extend(rows[:end])
            if end < len(rows):
                later[batch_id] = rows[end:]
        return wave, later

    async def _deliver(self, topic: str, partition: int, rows: list[Row]) -> None:
        """Rows of one partition, a record batch after the other; halved to find one that is refused."""
        most = len(rows)
        while rows:
            records, count = self._fill(rows[:most])
            error = await self._line.send(records, topic, partition)
            if error is None:
                self._acknowledge(topic, rows[:count])
                rows, most = rows[count:], most * 2
            elif not isinstance(error, _OF_THE_RECORD):
                self._hold(rows, error)
                return
            elif count > 1:
                most = count // 2
            else:
                self._block(rows[0], error)
                rows = [row for row in rows[1:] if not self._waits(row.batch_id)]

    def _fill(self, rows: list[Row]) -> tuple[BatchBuilder, int]:
        """A record batch of the first rows, as many as fit, and their number."""
        records = self._new_records()
        count = 0
        for row in rows:
            taken = records.append(timestamp=None, key=row.batch_id, value=row.payload, headers=_headers(row))
            if taken is None:
                break
            count += 1
        return records, count

    def _acknowledge(self, topic: str, rows: list[Row]) -> None:
        self.acknowledged += [Key(row.batch_id, row.seq, row.shard) for row in rows]
        OUTBOX_PUBLISHED.labels(topic).inc(len(rows))
        since_read = time.monotonic() - self._read_at
        for row in rows:
            EVENT_TO_PUBLISH.observe(row.age + since_read)

    def _waits(self, batch_id: bytes) -> bool:
        return batch_id in self._stuck or batch_id in self._held

    def _hold(self, rows: Iterable[Row], error: Exception) -> None:
        """These batches go no further now; `_judge` says whose fault it was."""
        for row in rows:
            if not self._waits(row.batch_id):
                self._held[row.batch_id] = (row, error)

    def _block(self, row: Row, error: Exception) -> None:
        self._stuck[row.batch_id] = Blocked(row.batch_id, row.seq, row.topic, f"{type(error).__name__}: {error}"[:2000])

    def _judge(self) -> None:
        """What hits a topic is the topic's, what hits a partition is the partition's where others are
        well; all else is the broker's trouble, which blocks nobody and is waited out.
        """
        for row, error in self._held.values():
            theirs = isinstance(error, _OF_THE_PARTITION) and bool(self.acknowledged)
            if theirs or isinstance(error, _OF_THE_TOPIC):
                self._block(row, error)
            else:
                self.trouble = error


class Relay:
    """Publishes the outbox, together with the relays of other pods."""

    def __init__(
        self,
        database: Database,
        producers: Callable[[], Producer],
        *,
        lease_seconds: float = 6.0,
        poll_seconds: float = 1.0,
        listen: bool = True,
        drain_seconds: float = 5.0,
        limits: Limits = Limits(),  # noqa: B008  a tuple
    ) -> None:
        """Nothing runs yet. Behind a transaction pooler: `listen=False` and a shorter poll."""
        self._database = database
        self._drain_seconds = drain_seconds
        self._running = False
        self._unheard = False
        self._lease = Lease(database, lease_seconds, self._took)
        self._workers = [Worker(number, database, self._lease, producers, limits) for number in range(WORKERS)]
        self._renewal = Loop("relay_lease", self._lease.renew, lease_seconds / 3)
        self._loops = [Loop(f"relay_{n}", worker.step, poll_seconds) for n, worker in enumerate(self._workers)]
        self._telling = Loop("relay_notify", self._notify, poll_seconds)
        self._listening = Loop("relay_listen", self._listen, poll_seconds) if listen else None

    @property
    def trouble(self) -> str | None:
        """What keeps the relay from publishing; None while all is well."""
        if not self._running:
            return "the relay is not running"
        troubles = [f"{loop.name}: {loop.trouble}" for loop in (*self._loops, self._renewal) if loop.trouble]
        if not troubles and not self._lease.is_valid:
            return "the relay has no lease"
        return "; ".join(troubles) or None

    @property
    def healthy(self) -> bool:
        return self.trouble is None

    @property
    def shards(self) -> frozenset[int]:
        """The shards that this relay serves."""
        return self._lease.shards

    def wake(self) -> None:
        """Rows were committed by this pod. Cheap; call it after every commit."""
        self._wake_workers()
        if len(self._lease.shards) < SHARDS:
            self._unheard = True
            self._telling.wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Publish until `stop`; then finish what is on its way, within the drain time, and leave.

        Cancelled, it leaves everything as it is: the rows are in the outbox, the lease runs out.
        """
        self._running = True
        ended = asyncio.Event()
        aside = [asyncio.create_task(loop.run(ended)) for loop in self._besides()]
        work = [asyncio.create_task(loop.run(stop)) for loop in self._loops]
        try:
            await stop.wait()
            await asyncio.wait(work, timeout=self._drain_seconds)
            await _cancelled([*work, *aside])
            async with asyncio.timeout(self._drain_seconds):
                await self._leave()
        except (TimeoutError, psycopg.Error) as error:
            _log.warning("relay_left_late", error=str(error))
        finally:
            self._running = False
            await _cancelled([*work, *aside])
            for worker in self._workers:
                await worker.abandon()

    async def publish_once(self) -> bool:
        """One renewal and one step of each worker. Returns whether there was anything to do."""
        await self._lease.renew()
        return any([await worker.step() for worker in self._workers])

    async def close(self) -> None:
        """After `publish_once`: settle and leave, as the end of `run` does."""
        await self._leave()

    async def _leave(self) -> None:
        for worker in self._workers:
            await worker.finish()
        await self._lease.leave()

    def _besides(self) -> list[Loop]:
        return [loop for loop in (self._renewal, self._telling, self._listening) if loop is not None]

    def _took(self, shards: Iterable[int]) -> None:
        for worker in self._workers:
            worker.forget_floors(shards)
        self._wake_workers()

    def _wake_workers(self) -> None:
        for loop in self._loops:
            loop.wake.set()

    async def _notify(self) -> bool:
        """Tell other pods, once for all that was committed meanwhile."""
        if self._unheard:
            self._unheard = False
            async with self._database.transaction() as conn:
                await outbox.notify_relays(conn)
            await asyncio.sleep(NOTIFY_SECONDS)
        return False

    async def _listen(self) -> bool:
        """Hear of rows of other pods, on a session of its own, until that ends."""
        async with await self._database.connect_alone() as conn:
            await conn.execute(f"listen {CHANNEL}")
            async for _ in conn.notifies():
                self._wake_workers()
        return False


def _by_batch(rows: Iterable[Row]) -> dict[bytes, list[Row]]:
    batches: dict[bytes, list[Row]] = {}
    for row in rows:
        batches.setdefault(row.batch_id, []).append(row)
    return batches


def _run_length(rows: Sequence[Row]) -> int:
    """How many rows from the first go to the same topic."""
    topic = rows[0].topic
    return next((number for number, row in enumerate(rows) if row.topic != topic), len(rows))


def _headers(row: Row) -> list[tuple[str, bytes]]:
    headers = [
        ("event_id", row.event_id),
        ("event_type", row.topic),
        ("correlation_id", row.correlation_id),
    ]
    if row.traceparent is not None:
        headers.append(("traceparent", row.traceparent))
    if row.tracestate is not None:
        headers.append(("tracestate", row.tracestate))
    return headers


async def _cancelled(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel what still runs, and wait until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


__all__ = ["Floors", "Relay"]
