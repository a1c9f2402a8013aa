"""`create_topics` makes what is missing, with the limits that the events need, and tells what differs."""

from typing import Any
from uuid import uuid4

from service.kafka.connection import client_options
from service.kafka.topics import TOPICS, check_topics, create_topics

LARGE = {"max.message.bytes": str(32 * 1024 * 1024)}


def options(kafka: Any) -> dict[str, Any]:
    return client_options(getattr(kafka, "bootstrap_servers", kafka))


async def test_missing_topics_are_created_once_and_then_differ_in_nothing(kafka: Any) -> None:
    large, small = f"topic.{uuid4().hex}", f"topic.{uuid4().hex}"
    topics = {large: LARGE, small: {}}
    missing, _ = await check_topics(options(kafka), topics)
    assert sorted(missing) == sorted(topics)
    created, different = await create_topics(options(kafka), partitions=2, replication=1, topics=topics)
    assert sorted(created) == sorted(topics)
    assert different == []
    assert await create_topics(options(kafka), partitions=2, replication=1, topics=topics) == ([], [])
    assert await check_topics(options(kafka), topics) == ([], [])


async def test_a_topic_that_takes_less_than_its_events_need_is_told(kafka: Any) -> None:
    name = f"topic.{uuid4().hex}"
    small = {name: {"max.message.bytes": "1000000"}}
    await create_topics(options(kafka), partitions=1, replication=1, topics=small)
    missing, different = await check_topics(options(kafka), {name: LARGE})
    assert missing == []
    assert [(d.topic, d.name, d.wanted, d.found) for d in different] == [
        (name, "max.message.bytes", LARGE["max.message.bytes"], "1000000")
    ]


async def test_a_topic_that_takes_more_than_its_events_need_is_well(kafka: Any) -> None:
    name = f"topic.{uuid4().hex}"
    await create_topics(options(kafka), partitions=1, replication=1, topics={name: LARGE})
    assert await check_topics(options(kafka), {name: {"max.message.bytes": "2097152"}}) == ([], [])


def test_events_that_list_every_slot_fit_their_topics() -> None:
    large = {name for name, configs in TOPICS.items() if configs == LARGE}
    assert large == {
        "huleedu.batch.essays.registered.v1",
        "huleedu.els.batch.essays.ready.v1",
        "huleedu.els.batch.validation.errors.v1",
        "huleedu.els.batch.readiness.timeout.v1",
    }
