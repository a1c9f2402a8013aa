"""Sends events to the broker in waves of record batches, and decides what a failed record blocks."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder

from service.domain.topics import LARGEST_VALUE
from service.kafka.errors import absence, describe
from service.kafka.producer import Producer, partition_of
from service.relay.events import OutboxEvent, events_of
from service.relay.leases import Lease
from service.relay.partitions import AgreedPartitions
from service.relay.producer_line import ProducerLine
from service.runtime.metrics import EVENT_TO_PUBLISH, OUTBOX_PUBLISHED, observe_many
from service.runtime.tracing import Sending
from service.store.outbox import Blocked, OutboxKey, OutboxRow

# The record itself is at fault: halving the record batch finds it, and only its batch is blocked.
_RECORD_ERRORS = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.CorruptRecordException,
    errors.InvalidTimestampError,
    errors.UnsupportedForMessageFormatError,
    errors.PolicyViolationError,
)
# The topic is at fault: all batches whose next event is for it are blocked.
_TOPIC_ERRORS = (
    errors.UnknownTopicOrPartitionError,
    errors.InvalidTopicError,
    errors.TopicAuthorizationFailedError,
)
# The partition is at fault if other partitions acknowledge records; else the broker is.
_PARTITION_ERRORS = (
    errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError,
    errors.NotEnoughReplicasError,
    errors.NotEnoughReplicasAfterAppendError,
    errors.KafkaStorageError,
)


class Results(NamedTuple):
    """What the next transaction writes."""

    published: Sequence[OutboxKey] = ()
    """Rows whose events are all acknowledged."""
    blocked: Sequence[Blocked] = ()
    """The blocked batches, each with the event that could not be published."""
    unblocked: Sequence[bytes] = ()
    """The batches that are not blocked any more: their first row was published completely."""


class Publication:
    """Publishes fetched outbox rows in waves: of each batch, a wave contains the next run of events for one topic.

    The events of a wave are sent as record batches, one per partition at a time. A batch takes part in the next wave if
    all its events of this wave are acknowledged.
    """

    def __init__(
        self, line: ProducerLine, lease: Lease, partitions: AgreedPartitions, rows: Sequence[OutboxRow]
    ) -> None:
        self.events: list[OutboxEvent] = []
        """All events to publish."""
        self.error: Exception | None = None
        self._published: list[OutboxKey] = []
        self._is_serving = False
        """Whether the broker acknowledged any event."""
        self._line = line
        self._lease = lease
        self._partitions = partitions
        self._read_at = time.monotonic()
        self._blocked: dict[bytes, Blocked] = {}
        self._held: dict[bytes, tuple[OutboxEvent, Exception]] = {}
        self._recovered: set[bytes] = set()
        self._waiting: dict[bytes, list[list[OutboxEvent]]] = {}
        """The runs of events of each batch that no wave contained yet."""
        unreadable: set[bytes] = set()
        for row in rows:
            if row.batch_id not in unreadable and not self._unpack(row):
                unreadable.add(row.batch_id)

    async def publish(self, spans: Sending) -> None:
        """Publish the events until all are acknowledged or their batches are held. Raises KafkaError, TimeoutError."""
        self._spans = spans
        topics = {event.topic for event in self.events}
        producer = await self._line.producer_for(topics)
        await self._partitions.agree({topic: count for topic in topics if (count := producer.partitions(topic))})
        self._new_records, self._new_compressed = producer.create_batch, producer.create_compressed
        while self._waiting:
            wave = self._next_wave(producer)
            async with asyncio.TaskGroup() as group:
                for (topic, partition), events in wave.items():
                    if partition is None:
                        self._hold(events, absence(producer.client.cluster, topic))
                    elif not producer.has_leader(topic, partition):
                        self._hold(events, errors.LeaderNotAvailableError(f"{topic} {partition}"))
                    else:
                        group.create_task(self._deliver(topic, partition, events))
        self._block_held()

    @property
    def results(self) -> Results:
        """Returns what is published, blocked and unblocked so far."""
        return Results(self._published, list(self._blocked.values()), list(self._recovered - self._blocked.keys()))

    def _unpack(self, row: OutboxRow) -> bool:
        """Add the events of a row. Returns whether it can be read.

        One that cannot be read blocks its batch, and no other, as soon as no earlier row of the batch is left.
        """
        try:
            events = list(events_of(row))
        except ValueError as error:
            if row.batch_id not in self._waiting:
                self._block(OutboxEvent(row, row.acknowledged, False, "", [], b""), error)
            return False
        runs = self._waiting.setdefault(row.batch_id, [])
        for event in events:
            if runs and runs[-1][0].topic == event.topic:
                runs[-1].append(event)
            else:
                runs.append([event])
        self.events += events
        return True

    def _next_wave(self, producer: Producer) -> dict[tuple[str, int | None], list[OutboxEvent]]:
        """Take the next run of each batch that does not wait. Returns their events by topic and partition."""
        wave: dict[tuple[str, int | None], list[OutboxEvent]] = defaultdict(list)
        waiting, self._waiting = self._waiting, {}
        for batch_id, (run, *later) in waiting.items():
            if self._waits(batch_id) or not self._lease.serves(run[0].row.shard):
                continue  # another relay serves this shard, or will soon
            topic = run[0].topic
            count = self._partitions.count(topic) if producer.partitions(topic) else None
            wave[topic, None if count is None else partition_of(batch_id, count)] += run
            if later:
                self._waiting[batch_id] = later
        return wave

    async def _deliver(self, topic: str, partition: int, events: list[OutboxEvent]) -> None:
        """Send the events of one partition, one record batch at a time. Halves a rejected one to find the culprit."""
        most = len(events)
        while events:
            records, count = await self._fill(events[:most])
            error = await self._line.send(records, topic, partition)
            if error is None:
                self._acknowledge(topic, events[:count])
                self._spans.acknowledged(events[:count], partition)
                events, most = events[count:], most * 2
            elif not isinstance(error, _RECORD_ERRORS):
                self._hold(events, error)
                return
            elif count > 1:
                most = count // 2
            else:
                self._block(events[0], error)
                events = [event for event in events[1:] if not self._waits(event.batch_id)]

    async def _fill(self, events: list[OutboxEvent]) -> tuple[BatchBuilder, int]:
        """Build a record batch of the first events. Returns it with the number of events that fit."""
        if len(events[0].payload) > LARGEST_VALUE:
            return await self._new_compressed(events[0].batch_id, events[0].payload, events[0].headers), 1
        records = self._new_records()
        count = 0
        for event in events:
            taken = records.append(timestamp=None, key=event.batch_id, value=event.payload, headers=event.headers)
            if taken is None:
                break
            count += 1
        return records, count

    def _acknowledge(self, topic: str, events: list[OutboxEvent]) -> None:
        rows = [event.row for event in events if event.is_last]
        self._published += [OutboxKey(row.batch_id, row.seq, row.is_page) for row in rows]
        self._recovered |= {row.batch_id for row in rows if row.blocked}
        self._is_serving = True
        OUTBOX_PUBLISHED.labels(topic).inc(len(events))
        since_read = time.monotonic() - self._read_at
        for row, some in groupby(events, lambda event: event.row):
            observe_many(EVENT_TO_PUBLISH, row.age + since_read, sum(1 for _ in some))

    def _waits(self, batch_id: bytes) -> bool:
        return batch_id in self._blocked or batch_id in self._held

    def _hold(self, events: Iterable[OutboxEvent], error: Exception) -> None:
        """Stop publishing these batches for now. `_block_held` decides at the end which of them are blocked."""
        for event in events:
            if not self._waits(event.batch_id):
                self._held[event.batch_id] = (event, error)

    def _block(self, event: OutboxEvent, error: Exception) -> None:
        row, topic, why = event.row, event.topic.encode(), describe(error, 2000)
        ids = {name: value.decode() for name, value in event.headers if name in ("correlation_id", "trace_id")}
        self._blocked[row.batch_id] = Blocked(row.batch_id, row.seq, event.place, topic, why, row.blocked, ids)

    def _block_held(self) -> None:
        """Block the held batches whose topic or partition is at fault.

        An error of the broker as a whole blocks no batch: it is kept in `error`, and the rows are retried.
        """
        for event, error in self._held.values():
            is_of_partition = isinstance(error, _PARTITION_ERRORS) and self._is_serving
            if is_of_partition or isinstance(error, _TOPIC_ERRORS):
                self._block(event, error)
            else:
                self.error = error
