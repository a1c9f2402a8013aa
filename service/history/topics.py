"""Reads topics from beginning to end, as facts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any, Final, TypeVar

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaTimeoutError
from aiokafka.structs import OffsetAndMetadata

from service.domain import contract, enveloped
from service.domain.decisions import essay_set_of
from service.domain.events import AssociationsConfirmed, BatchRegistered, ContentProvisioned, Incoming
from service.domain.input_limits import DEFAULT_LIMITS, InputLimits
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    INCOMING_TOPICS,
    OUTGOING_TOPICS,
    PENDING_EXPIRED,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.history.facts import EventFact, digest, upload_digest
from service.kafka import record_batches
from service.kafka.deliveries import Fetched, IsSkipped, TopicRecord, records_of

_Answer = TypeVar("_Answer")

IDLE_MS: Final = 500

BEYOND_SECONDS: Final = 2.0
"""The embedded broker reports an end that is a few records too low. Reading goes on behind it until nothing arrives for
`IDLE_MS`, for this long at most."""

STALLED_SECONDS: Final = 60.0

COORDINATOR_SECONDS: Final = 20.0
"""How long to wait for the group coordinator: a broker that has just started may not have loaded the groups."""


@asynccontextmanager
async def open_reader(kafka: Mapping[str, Any], *, whole_log: bool = False) -> AsyncIterator[AIOKafkaConsumer]:
    """Open a consumer without a group, which changes no offsets. It reads record batches. Raises KafkaError.

    It reads what a pod reads: committed transactions, up to the first one that is open. With `whole_log` it is about
    the log itself: it reads all records up to its end, and an offset that the log does not have raises
    OffsetOutOfRangeError.
    """
    reader = AIOKafkaConsumer(
        **kafka,
        group_id=None,
        auto_offset_reset="none" if whole_log else "earliest",
        isolation_level="read_uncommitted" if whole_log else "read_committed",
        enable_auto_commit=False,
        max_partition_fetch_bytes=1024 * 1024,
        fetch_max_bytes=8 * 1024 * 1024,
    )
    try:
        await record_batches.start(reader)
        yield reader
    finally:
        await reader.stop()


async def read_to_end(
    reader: AIOKafkaConsumer,
    partitions: Sequence[TopicPartition],
    take: Callable[[Sequence[TopicRecord]], None],
    limits: InputLimits = DEFAULT_LIMITS,
    is_skipped: IsSkipped = lambda *_: False,
) -> Mapping[TopicPartition, int]:
    """Read all records that the partitions contain now, and pass those of one partition to `take`, in order.

    Returns the offset at which each partition begins. Raises KafkaError.
    """
    beginnings: Mapping[TopicPartition, int] = await reader.beginning_offsets(partitions)
    async for records in read_range(reader, beginnings, await reader.end_offsets(partitions), limits, is_skipped):
        take(records)
    return beginnings


async def read_range(
    reader: AIOKafkaConsumer,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    limits: InputLimits = DEFAULT_LIMITS,
    is_skipped: IsSkipped = lambda *_: False,
) -> AsyncIterator[Sequence[TopicRecord]]:
    """Yield all records from `starts` to `ends`, those of one partition at a time, in order. Raises KafkaError.

    Also yields records behind the ends that arrive meanwhile.
    """
    if not starts:
        return
    reader.assign(list(starts))
    for tp, start in starts.items():
        reader.seek(tp, start)
    clock = asyncio.get_running_loop().time
    left, progressed_at = set(starts), clock()
    page: Fetched = {}
    while left or (page and clock() < progressed_at + BEYOND_SECONDS):
        page = await reader.getmany(timeout_ms=IDLE_MS)
        async for records in records_of(page, limits, is_skipped):
            yield records
        if (left and page) or await _pass_skipped(reader, left, is_skipped):
            progressed_at = clock()
        elif left and clock() > progressed_at + STALLED_SECONDS:
            raise KafkaTimeoutError(f"{min(left)} brought no records for {STALLED_SECONDS:.0f} s")
        left = {tp for tp in left if await reader.position(tp) < ends[tp]}


async def _pass_skipped(reader: AIOKafkaConsumer, tps: Collection[TopicPartition], is_skipped: IsSkipped) -> bool:
    """Go on behind what is skipped, where nothing arrives: perhaps it cannot be fetched. Returns whether it did."""
    passed = False
    for tp in tps:
        first = after = await reader.position(tp)
        while is_skipped(tp, after, after):
            after += 1
        if after > first:
            reader.seek(tp, after)
            passed = True
    return passed


async def topic_partitions(kafka: Mapping[str, Any]) -> dict[Sequence[str], list[TopicPartition]]:
    """Return the partitions of the input topics and of the output topics. Raises KafkaError."""
    admin = AIOKafkaAdminClient(**kafka)
    try:
        await admin.start()
        described = await admin.describe_topics([*INCOMING_TOPICS, *OUTGOING_TOPICS])
    finally:
        await admin.close()
    found = [TopicPartition(each["topic"], some["partition"]) for each in described for some in each["partitions"]]
    return {topics: [tp for tp in found if tp.topic in topics] for topics in (INCOMING_TOPICS, OUTGOING_TOPICS)}


async def committed_offsets(
    kafka: Mapping[str, Any], group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Return what the group has committed; the offset is -1 where that is nothing. Raises KafkaError, TimeoutError."""
    return dict(
        await _of_coordinator(
            kafka, lambda admin: admin.list_consumer_group_offsets(group, partitions=list(partitions))
        )
    )


async def count_members(kafka: Mapping[str, Any], group: str) -> int:
    """Count the members of a consumer group. Raises KafkaError, TimeoutError."""
    described = await _of_coordinator(kafka, lambda admin: admin.describe_consumer_groups([group]))
    # The groups of a raw answer: (error, name, state, protocol type, protocol, members, and more in newer versions).
    return sum(len(each[5]) for answer in described for each in answer.groups)


async def _of_coordinator(
    kafka: Mapping[str, Any], ask: Callable[[AIOKafkaAdminClient], Awaitable[_Answer]]
) -> _Answer:
    """Ask the coordinator of a group, which a broker that has just started may not know yet."""
    admin = AIOKafkaAdminClient(**kafka)
    try:
        await admin.start()
        async with asyncio.timeout(COORDINATOR_SECONDS):
            while True:
                try:
                    return await ask(admin)
                except GroupCoordinatorNotAvailableError:
                    await asyncio.sleep(0.2)
    finally:
        await admin.close()


def describe_input(event: Incoming) -> tuple[str, str]:
    """Return the subject of an input (content, failed upload, class, set of essays) and the digest of its other fields.

    The digest is "" for a validation failure and a confirmation, whose other fields are not compared.
    """
    match event:
        case BatchRegistered():
            return essay_set_of(event.essay_ids).hex(), digest(event.essay_ids)
        case ContentProvisioned():
            return event.text_storage_id, upload_digest(
                event.original_file_name,
                event.tracestate,
                event.file_upload_id,
                event.raw_file_storage_id,
                event.file_size_bytes,
                event.content_md5_hash,
                event.correlation_id,
                event.traceparent,
            )
        case AssociationsConfirmed():
            return event.class_id, ""
        case _:
            return event.file_upload_id, ""


def event_of(
    topic: str, key: bytes | None, value: bytes | None, partition: int, place: int, at: float, *, settled: bool
) -> tuple[str, EventFact] | None:
    """Return the batch id and the fact of an event that this service published, None for a foreign record."""
    try:
        envelope = orjson.loads(value or b"")
        data, trace = envelope["data"], envelope["metadata"] or {}
        batch_id, text = data["batch_id"], data.get("text_storage_id", "")
        origin = (envelope["correlation_id"], trace.get("traceparent"), trace.get("tracestate"))
        announced = _DIGEST_OF[topic](data, origin) if topic in _DIGEST_OF else ""
        event = EventFact(
            topic,
            envelope["event_id"],
            str(enveloped.event_id(topic, batch_id, data["expired_at"] + text if topic == PENDING_EXPIRED else text)),
            text,
            announced,
            envelope["event_timestamp"],
            data.get("essay_id", ""),
            blake2b((key or b"") + b"\0" + (value or b""), digest_size=16).hexdigest(),
            partition,
            place,
            at,
            settled,
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return (batch_id, event) if envelope["source_service"] == contract.SOURCE_SERVICE else None


def _digest_of(data: Mapping[str, Any], origin: Sequence[Any], *names: str) -> str:
    correlation_id, traceparent, tracestate = origin
    values = (data[name] for name in names)
    return upload_digest(data["original_file_name"], tracestate, *values, correlation_id, traceparent)


def _essays_of(essays: Sequence[Mapping[str, Any]]) -> str:
    return digest([[essay["essay_id"], essay["text_storage_id"]] for essay in essays])


_DIGEST_OF: Final[Mapping[str, Callable[[Mapping[str, Any], Sequence[Any]], str]]] = {
    SLOT_ASSIGNED: lambda data, origin: _digest_of(data, origin, "essay_id", "text_storage_id", "file_upload_id"),
    EXCESS_CONTENT: lambda data, origin: _digest_of(data, origin, "text_storage_id", "reason"),
    PENDING_EXPIRED: lambda data, origin: _digest_of(data, origin, "text_storage_id", "file_upload_id"),
    BATCH_CANCELLED: lambda data, _: digest(
        *(data[name] for name in ("reason", "expected_count", "assigned_count", "failed_count"))
    ),
    BATCH_COMPLETED: lambda data, _: _essays_of(data["essays_for_processing"]),
    BATCH_READY: lambda data, _: _essays_of(data["ready_essays"]),
    VALIDATION_ERRORS: lambda data, _: digest(
        [essay["essay_id"] for essay in data["failed_essays"]], data["error_summary"]["critical_failure"]
    ),
}
