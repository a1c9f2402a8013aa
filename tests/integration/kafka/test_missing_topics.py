"""Tests input topics that are missing, come back, or get partitions: they are named, and read within 15 seconds."""

import asyncio

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions

from deploy.servers.pods import until
from service.domain.topics import CONTENT_PROVISIONED, VALIDATION_FAILED
from tests.support.builders.inputs import content, failure
from tests.support.pods.running_consumer import PENDING, ConsumerFixture, Running

READ_WITHIN = 15
"""Seconds. SPEC names this bound."""
FAILURES = "select count(*) from els.validation_failures"


async def reported(running: Running, wanted: str | None) -> None:
    def error() -> str | None:
        return running.health.parts["consumer"]

    def is_wanted() -> bool:
        return error() is None if wanted is None else wanted in (error() or "")

    await until(is_wanted, READ_WITHIN, lambda: f"reported is {error()}, not {wanted}")


async def read(consumers: ConsumerFixture, query: str, wanted: int) -> None:
    async with asyncio.timeout(READ_WITHIN):
        await consumers.becomes(query, wanted)


async def test_a_topic_that_is_missing_at_the_start_is_named_and_read_when_it_is_there(
    on_apache: ConsumerFixture,
) -> None:
    await on_apache.delete_topic(VALIDATION_FAILED)
    running = await on_apache.start()
    await reported(running, f"{VALIDATION_FAILED}: the topic is missing")
    await reported(running, "the others are read")
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "t"))
    await on_apache.becomes(PENDING, 1)
    await on_apache.create_topic(VALIDATION_FAILED)
    await on_apache.publish(VALIDATION_FAILED, failure("b", "u"))
    await read(on_apache, FAILURES, 1)
    await reported(running, None)


@pytest.mark.parametrize("topic", [VALIDATION_FAILED, CONTENT_PROVISIONED])
async def test_a_topic_that_is_deleted_is_named_and_read_when_it_is_there_again(
    on_apache: ConsumerFixture, topic: str
) -> None:
    running = await on_apache.start()
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "t"))
    await on_apache.publish(VALIDATION_FAILED, failure("b", "u"))
    await on_apache.all_committed()
    await on_apache.delete_topic(topic)
    await reported(running, f"{topic}: the topic is missing")
    await on_apache.create_topic(topic)
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "t2"))
    await on_apache.publish(VALIDATION_FAILED, failure("b", "u2"))
    await read(on_apache, PENDING, 2)
    await read(on_apache, FAILURES, 2)
    await reported(running, None)


async def test_partitions_that_are_added_to_a_topic_are_read(on_apache: ConsumerFixture) -> None:
    known = f"select partitions from els.input_topics where topic = '{CONTENT_PROVISIONED}'"
    running = await on_apache.start()
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "t"))
    await on_apache.all_committed()
    await on_apache.becomes(known, 3)
    async with on_apache.admin() as admin:
        await admin.create_partitions({CONTENT_PROVISIONED: NewPartitions(5)})
    await on_apache.producer.client.force_metadata_update()
    await on_apache.publish(CONTENT_PROVISIONED, content("b", "t2"), partition=4)
    await read(on_apache, PENDING, 2)
    assert TopicPartition(CONTENT_PROVISIONED, 4) in running.consumer._assignment.partitions
    await read(on_apache, known, 5)
    await reported(running, None)
