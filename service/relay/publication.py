"""Sends outbox rows to the broker in waves of record batches, and decides what a failed record blocks."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder

from service.kafka.producer import Producer
from service.relay.leases import Lease
from service.relay.producer_line import ProducerLine
from service.runtime.errors import one_line
from service.runtime.metrics import EVENT_TO_PUBLISH, OUTBOX_PUBLISHED
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
# The topic is at fault: all batches whose next row is for it are blocked.
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


class Publication:
    """Publishes fetched outbox rows in waves: of each batch, a wave contains the next rows that go to one topic.

    The rows of a wave are sent as record batches, one per partition at a time. A batch takes part in the next wave if
    all its rows of this wave are acknowledged.
    """

    def __init__(self, line: ProducerLine, lease: Lease) -> None:
        self.acknowledged: list[OutboxKey] = []
        self.error: Exception | None = None
        self._line = line
        self._lease = lease
        self._read_at = time.monotonic()
        self._blocked: dict[bytes, Blocked] = {}
        self._held: dict[bytes, tuple[OutboxRow, Exception]] = {}

    async def publish(self, rows: Sequence[OutboxRow]) -> None:
        """Publish rows until all are acknowledged or their batches are held. Raises KafkaError, TimeoutError."""
        producer = await self._line.producer_for({row.topic.decode() for row in rows})
        self._new_records = producer.create_batch
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
        self._block_held()

    @property
    def blocked(self) -> list[Blocked]:
        """Returns the blocked batches, each with the row that could not be published."""
        return list(self._blocked.values())

    def recovered(self, batch_ids: frozenset[bytes]) -> dict[bytes, int]:
        """Returns those of the retried batches that are not blocked any more, with their shards."""
        return {
            row.batch_id: row.shard
            for row in self.acknowledged
            if row.batch_id in batch_ids and row.batch_id not in self._blocked
        }

    def _next_wave(
        self, waiting: dict[bytes, list[OutboxRow]], producer: Producer
    ) -> tuple[dict[tuple[str, int | None], list[OutboxRow]], dict[bytes, list[OutboxRow]]]:
        """Split the rows. Returns the next wave by topic and partition, and the rows for later waves by batch."""
        wave: dict[tuple[str, int | None], list[OutboxRow]] = {}
        later: dict[bytes, list[OutboxRow]] = {}
        for batch_id, rows in waiting.items():
            if not self._lease.serves(rows[0].shard):
                continue  # another relay serves this shard, or will soon
            end = _run_length(rows)
            topic = rows[0].topic.decode()
            wave.setdefault((topic, producer.partition(topic, batch_id)), []).extend(rows[:end])
            if end < len(rows):
                later[batch_id] = rows[end:]
        return wave, later

    async def _deliver(self, topic: str, partition: int, rows: list[OutboxRow]) -> None:
        """Send the rows of one partition, one record batch at a time. Halves a rejected one to find the culprit."""
        most = len(rows)
        while rows:
            records, count = self._fill(rows[:most])
            error = await self._line.send(records, topic, partition)
            if error is None:
                self._acknowledge(topic, rows[:count])
                rows, most = rows[count:], most * 2
            elif not isinstance(error, _RECORD_ERRORS):
                self._hold(rows, error)
                return
            elif count > 1:
                most = count // 2
            else:
                self._block(rows[0], error)
                rows = [row for row in rows[1:] if not self._waits(row.batch_id)]

    def _fill(self, rows: list[OutboxRow]) -> tuple[BatchBuilder, int]:
        """Build a record batch of the first rows. Returns it with the number of rows that fit."""
        records = self._new_records()
        count = 0
        for row in rows:
            taken = records.append(timestamp=None, key=row.batch_id, value=row.payload, headers=_headers(row))
            if taken is None:
                break
            count += 1
        return records, count

    def _acknowledge(self, topic: str, rows: list[OutboxRow]) -> None:
        self.acknowledged += [OutboxKey(row.batch_id, row.seq, row.shard) for row in rows]
        OUTBOX_PUBLISHED.labels(topic).inc(len(rows))
        since_read = time.monotonic() - self._read_at
        for row in rows:
            EVENT_TO_PUBLISH.observe(row.age + since_read)

    def _waits(self, batch_id: bytes) -> bool:
        return batch_id in self._blocked or batch_id in self._held

    def _hold(self, rows: Iterable[OutboxRow], error: Exception) -> None:
        """Stop publishing these batches for now. `_block_held` decides at the end which of them are blocked."""
        for row in rows:
            if not self._waits(row.batch_id):
                self._held[row.batch_id] = (row, error)

    def _block(self, row: OutboxRow, error: Exception) -> None:
        self._blocked[row.batch_id] = Blocked(row.batch_id, row.seq, row.topic, one_line(error, 2000))

    def _block_held(self) -> None:
        """Block the held batches whose topic or partition is at fault.

        An error of the broker as a whole blocks no batch: it is kept in `error`, and the rows are retried.
        """
        for row, error in self._held.values():
            is_of_partition = isinstance(error, _PARTITION_ERRORS) and bool(self.acknowledged)
            if is_of_partition or isinstance(error, _TOPIC_ERRORS):
                self._block(row, error)
            else:
                self.error = error


def _by_batch(rows: Iterable[OutboxRow]) -> dict[bytes, list[OutboxRow]]:
    batches: dict[bytes, list[OutboxRow]] = {}
    for row in rows:
        batches.setdefault(row.batch_id, []).append(row)
    return batches


def _run_length(rows: Sequence[OutboxRow]) -> int:
    """Returns how many rows, from the first on, go to the same topic."""
    topic = rows[0].topic
    return next((number for number, row in enumerate(rows) if row.topic != topic), len(rows))


def _headers(row: OutboxRow) -> list[tuple[str, bytes]]:
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
