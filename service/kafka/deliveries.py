"""Makes deliveries of Kafka records, for the consumer and for the audit."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from aiokafka import ConsumerRecord

from service.domain import incoming
from service.domain.delivery import Delivery
from service.domain.events import Incoming, Reason, Rejection
from service.kafka.record_batches import Unreadable

IN_A_THREAD_BYTES: Final = 256 * 1024
"""Larger values are decoded in a thread, so that they do not block the event loop."""


def decode(record: ConsumerRecord, max_bytes: Mapping[str, int]) -> Delivery:
    """Decode one record of an input topic. `max_bytes` is the largest value accepted, by topic."""
    if isinstance(record.value, Unreadable):
        return delivery_of(record, Rejection(Reason.UNREADABLE, record.value.why))
    return delivery_of(record, incoming.decode(record.topic, record.value, max_bytes=max_bytes[record.topic]))


async def decode_all(records: Sequence[ConsumerRecord], max_bytes: Mapping[str, int]) -> list[Delivery]:
    """Decode records in order."""
    deliveries = []
    for record in records:
        if len(record.value or b"") > IN_A_THREAD_BYTES:
            deliveries.append(await asyncio.to_thread(decode, record, max_bytes))
        else:
            deliveries.append(decode(record, max_bytes))
    return deliveries


def delivery_of(record: ConsumerRecord, event: Incoming | Rejection) -> Delivery:
    """Return the record as a delivery of this event, or of this rejection."""
    return Delivery(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        record.headers,
        event,
        timestamp=record.timestamp,
    )
