"""Reads the last events of the output topics, and counts those that the database does not contain.

Transactions of the last moments before a failover may be published while the group has not committed the offsets behind
their records. Only the output topics show that such transactions are lost.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from service.domain.cells import ALL_BATCHES, Slice
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.kafka.deliveries import TopicRecord, records_of
from service.store.outbox import EVENTS_PER_ROW
from service.store.progress import AnnouncedEvent

LAST_RECORDS: Final = 20
"""How many records of each output partition are read, for each cell: they share the topics."""

MOST_OF_CELLS: Final = 16
"""For so many cells at most."""

READ_SECONDS: Final = 10.0
"""How long to wait for them."""

EVENT_KINDS: Final[Mapping[str, str]] = {
    SLOT_ASSIGNED: "slot",
    EXCESS_CONTENT: "excess",
    BATCH_COMPLETED: "completed",
    BATCH_READY: "ready",
    VALIDATION_ERRORS: "completed",
    PENDING_EXPIRED: "expired",
    READINESS_TIMEOUT: "timeout",
    BATCH_CANCELLED: "cancelled",
}


async def last_events(
    reader: AIOKafkaConsumer, tps: Sequence[TopicPartition], of: Slice = ALL_BATCHES
) -> list[AnnouncedEvent]:
    """Read the last events of these output partitions that a pod of this release and of this cell has published.

    Raises KafkaError, and TimeoutError where they do not arrive.
    """
    if not tps:  # the client would wait for ever
        return []
    beginnings, ends = await reader.beginning_offsets(tps), await reader.end_offsets(tps)
    left = {tp for tp in tps if ends[tp] > beginnings[tp]}
    if not left:
        return []
    reader.assign(list(left))
    for tp in left:
        reader.seek(tp, max(beginnings[tp], ends[tp] - LAST_RECORDS * min(of.cells, MOST_OF_CELLS)))
    events = []
    async with asyncio.timeout(READ_SECONDS):
        while left:
            async for records in records_of(await reader.getmany(*left, timeout_ms=100), DEFAULT_LIMITS):
                events += [event for record in records if (event := _event_of(record)) and of.holds(event.batch_id)]
            left = {tp for tp in left if await reader.position(tp) < ends[tp]}
    return events


def _event_of(record: TopicRecord) -> AnnouncedEvent | None:
    """Return the event of a record; None for one without our header, or of another implementation."""
    try:
        seq = int(dict(record.headers)["seq"] or "")
        data = orjson.loads(record.value or b"")["data"]
        return AnnouncedEvent(
            EVENT_KINDS[record.topic],
            data["batch_id"],
            data.get("text_storage_id"),
            data.get("essay_id"),
            seq // EVENTS_PER_ROW,
            record.timestamp,
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
