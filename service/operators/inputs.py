"""Implements the operator action on inputs that cannot be read at all: they are skipped, and kept as far as possible.

Before a record batch is unpacked it is one unit. Where it can be unpacked, in a process of its own, only the record at
the offset is skipped; otherwise the whole batch is; and where nothing can be fetched, the offset is.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from psycopg import AsyncConnection

from service.domain.delivery import Delivery, Unreadable, fingerprint
from service.domain.events import Reason, Rejection
from service.domain.input_limits import InputLimits
from service.domain.topics import INCOMING_TOPICS
from service.history.topics import open_reader, topic_partitions
from service.kafka.deliveries import open_batch
from service.kafka.errors import describe
from service.kafka.record_batches import RecordBatch
from service.kafka.unpacking import Bytes, whole
from service.operators.apart import run_apart
from service.operators.errors import Conflict, InvalidRequest, NotFound, Unavailable
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.store import operator_actions, progress, quarantine, skipped_inputs
from service.store.operator_actions import Operator, Subject
from service.store.skipped_inputs import SkippedRange

FETCH_MS: Final = 10_000
"""How long to wait for the record batch."""

MOST_RECORDS: Final = 1_000


@dataclass(frozen=True, slots=True)
class SkippedInput:
    """What is skipped, or would be: the offsets from `first_offset` to `next_offset` (exclusive)."""

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    why: str
    """Why it is more than the offset, or less than a record; empty for a record."""
    key_base64: str | None
    value_base64: str | None
    """What is kept in quarantine; null where nothing could be fetched."""


class InputActions:
    """Skips inputs that cannot be read."""

    def __init__(self, database: Database, kafka: Callable[[], Mapping[str, Any]], limits: InputLimits) -> None:
        self._database = database
        self._kafka = kafka
        self._limits = limits

    async def skip(
        self,
        by: Operator,
        topic: str,
        partition: int,
        offset: int,
        *,
        whole_batch: bool = False,
        dry_run: bool = False,
    ) -> SkippedInput:
        """Skip the record at an offset that no pod has passed, or its whole batch. Pods skip it within seconds.

        It is in quarantine as far as it can be obtained, and reported as lost. Raises OperationError.
        """
        tp = TopicPartition(topic, partition)
        if topic not in INCOMING_TOPICS:
            raise InvalidRequest(f"there is no input topic {topic!r}: they are {', '.join(INCOMING_TOPICS)}")
        async with transaction(self._database) as conn:
            epoch = await _check_progress(conn, tp, offset, by)
        batch = await self._fetch(tp, offset)
        delivery, skipped, why = await self._obtain(tp, offset, batch, whole_batch=whole_batch)
        skipped = skipped._replace(epoch=epoch)
        shown = SkippedInput(
            topic,
            partition,
            skipped.first_offset,
            skipped.next_offset,
            why,
            None if delivery.key is None else base64.b64encode(delivery.key).decode(),
            None if delivery.value is None or batch is None else base64.b64encode(delivery.value).decode(),
        )
        if dry_run:
            return shown
        async with transaction(self._database) as conn:
            if not await skipped_inputs.skip_inputs(conn, tp, skipped):
                raise Conflict(f"offset {offset} of {topic} partition {partition} is skipped already")
            if await _check_progress(conn, tp, offset, by) != epoch:  # meanwhile a pod may have read it
                raise Conflict(f"{topic} has another log than before: look at the offset again")
            rejection = Rejection(Reason.SKIPPED, why or "an operator has skipped it")
            await quarantine.quarantine_inputs(conn, [(delivery, rejection)])
            details = {"partition": partition, "offset": offset, "batch": whole_batch, **skipped._asdict()}
            details |= {"fingerprint": fingerprint(delivery).hex()}
            await operator_actions.insert_operator_actions(
                conn, by, "inputs skip", [Subject(topic=topic, details=details)]
            )
        return shown

    async def unpack(self, topic: str, partition: int, offset: int) -> dict[str, Any] | None:
        """Unpack the batch of this offset in this process, which that may end. Returns the record; None: it has none.

        Raises OperationError.
        """
        tp = TopicPartition(topic, partition)
        batch = await self._fetch(tp, offset)
        if batch is None:
            return None
        opened = await open_batch(tp, batch, self._limits)
        while not opened.is_done:
            for record in (await opened.take(MOST_RECORDS, self._limits.poll_bytes))[0]:
                value = record.value
                first = value.first if isinstance(value, Unreadable) else record.offset
                if first <= offset <= record.offset:
                    return {
                        "first": first,
                        "last": record.offset,
                        "key": None if record.key is None else base64.b64encode(record.key).decode(),
                        "value": None if value is None else base64.b64encode(value).decode(),
                        "headers": [
                            [name, None if each is None else base64.b64encode(each).decode()]
                            for name, each in record.headers
                        ],
                        "why": value.why if isinstance(value, Unreadable) else "",
                        "digest": fingerprint(record).hex(),
                    }
        return None

    async def _fetch(self, tp: TopicPartition, offset: int) -> RecordBatch | None:
        """Return the record batch of the offset; None where it cannot be fetched. Raises OperationError."""
        try:
            kafka = self._kafka()
            if tp not in (await topic_partitions(kafka))[INCOMING_TOPICS]:
                raise NotFound(f"{tp.topic} has no partition {tp.partition}")
            async with open_reader(kafka, whole_log=True) as reader:
                (beginning,) = (await reader.beginning_offsets([tp])).values()
                (end,) = (await reader.end_offsets([tp])).values()
            if not beginning <= offset < end:
                raise NotFound(f"the log has the offsets {beginning} to {end - 1}, and not {offset}")
            async with open_reader(kafka) as reader:  # which knows what is aborted, as pods do
                if offset >= (await reader.end_offsets([tp]))[tp]:
                    raise Conflict(
                        f"offset {offset} is in or behind a transaction that has not ended: no pod reads it before that"
                    )
                return await _batch_of(reader, tp, offset)
        except (KafkaError, TimeoutError, OSError) as error:
            raise Unavailable(f"the broker: {describe(error)}") from None

    async def _obtain(
        self, tp: TopicPartition, offset: int, batch: RecordBatch | None, *, whole_batch: bool
    ) -> tuple[Delivery, SkippedRange, str]:
        """Return what is kept, and what is skipped, and why."""
        if batch is None:
            why = f"offset {offset} of partition {tp.partition} could not be fetched"
            kept = Unreadable(b"", offset, why, Reason.SKIPPED, fingerprint(Bytes(None, f"{tp}/{offset}".encode())))
            return _delivery(tp, offset, None, kept), SkippedRange(0, offset, offset + 1), why
        if offset < batch.base_offset or batch.is_empty:
            raise NotFound(f"there is no record at offset {offset}")
        place = [tp.topic, str(tp.partition), str(offset)]
        answer = "was not tried" if whole_batch else await run_apart(["inputs", "skip", *place, "--dry-run"])
        if answer is None:
            raise NotFound(f"there is no record at offset {offset}")
        if isinstance(answer, str):
            why = "an operator has skipped all of it" if whole_batch else f"the process that unpacked it {answer}"
            record = whole(batch, why)
            return (
                _delivery(tp, record.offset, None, record.value),
                SkippedRange(0, batch.base_offset, batch.next_offset),
                why,
            )
        value = None if answer["value"] is None else base64.b64decode(answer["value"])
        if answer["why"]:
            digest = bytes.fromhex(answer["digest"])
            value = Unreadable(value or b"", answer["first"], answer["why"], Reason.SKIPPED, digest)
        key = None if answer["key"] is None else base64.b64decode(answer["key"])
        headers = [(name, None if each is None else base64.b64decode(each)) for name, each in answer["headers"]]
        skipped = SkippedRange(0, answer["first"], answer["last"] + 1)
        return _delivery(tp, answer["last"], key, value, headers), skipped, answer["why"]


async def _check_progress(conn: AsyncConnection[Any], tp: TopicPartition, offset: int, by: Operator) -> int:
    """Return the epoch of the partition. Raises Conflict where the offset is dealt with, and is not skipped again."""
    row = (await progress.read_progress(conn)).get(tp)
    if row is not None and offset < row.next_offset and by.first_at is None:
        raise Conflict(f"everything before offset {row.next_offset} of this partition is dealt with")
    return row.epoch if row else 0


def _delivery(
    tp: TopicPartition,
    offset: int,
    key: bytes | None,
    value: bytes | None,
    headers: list[tuple[str, bytes | None]] | None = None,
) -> Delivery:
    rejection = Rejection(Reason.SKIPPED, "an operator has skipped it")
    return Delivery(tp.topic, tp.partition, offset, key, value, headers or [], rejection)


async def _batch_of(reader: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> RecordBatch | None:
    """Fetch the record batch of an offset that the log has. None where the broker does not return it in time."""
    reader.assign([tp])
    reader.seek(tp, offset)
    for each in (await reader.getmany(tp, timeout_ms=FETCH_MS)).get(tp, ()):
        batch: RecordBatch = each.value
        if batch.next_offset > offset:
            return batch
    return None
