"""Kafka records become deliveries: one decoder for consumer, audit and recovery."""

from aiokafka import ConsumerRecord

from service.domain import events as events_
from service.domain.delivery import Delivery
from service.domain.events import Refusal


def delivery_of(record: ConsumerRecord, event: events_.Incoming | Refusal) -> Delivery:
    return Delivery(record.topic, record.partition, record.offset, record.key, record.value, record.headers, event)
