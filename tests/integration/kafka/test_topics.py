"""Tests that `create_topics` creates missing topics with the configuration they need, and reports differences."""

from typing import Any
from uuid import uuid4

from service.kafka.connection import client_options
from service.kafka.topics import TOPICS, Difference, create_topics, differences, read_topics

LARGE = {"max.message.bytes": str(32 * 1024 * 1024)}


def options(kafka: Any) -> dict[str, Any]:
    return client_options(getattr(kafka, "bootstrap_servers", kafka))


async def test_missing_topics_are_created_once_without_differences(kafka: Any) -> None:
    large, small = f"topic.{uuid4().hex}", f"topic.{uuid4().hex}"
    topics = {large: LARGE, small: {}}
    assert sorted((await read_topics(options(kafka), topics)).missing) == sorted(topics)
    created, different = await create_topics(options(kafka), partitions=2, replication=1, topics=topics)
    assert sorted(created) == sorted(topics)
    assert different == []
    assert await create_topics(options(kafka), partitions=2, replication=1, topics=topics) == ([], [])
    cluster = await read_topics(options(kafka), topics)
    assert (cluster.missing, differences(cluster, topics)) == ([], [])
    assert {name: len(each.partitions) for name, each in cluster.topics.items()} == {large: 2, small: 2}


async def test_a_topic_with_too_low_a_limit_is_reported(kafka: Any) -> None:
    name = f"topic.{uuid4().hex}"
    small = {name: {"max.message.bytes": "1000000"}}
    await create_topics(options(kafka), partitions=1, replication=1, topics=small)
    found = differences(await read_topics(options(kafka), [name]), {name: LARGE})
    assert found == [Difference(name, "max.message.bytes", LARGE["max.message.bytes"], "1000000")]


async def test_a_topic_with_a_higher_limit_is_not_reported(kafka: Any) -> None:
    name = f"topic.{uuid4().hex}"
    await create_topics(options(kafka), partitions=1, replication=1, topics={name: LARGE})
    cluster = await read_topics(options(kafka), [name])
    assert differences(cluster, {name: {"max.message.bytes": "2097152"}}) == []


def test_events_that_list_every_slot_fit_their_topics() -> None:
    large = {name for name, configs in TOPICS.items() if configs == LARGE}
    assert large == {
        "huleedu.batch.essays.registered.v1",
        "huleedu.class.student.associations.confirmed.v1",
        "huleedu.batch.content.provisioning.completed.v1",
        "huleedu.els.batch.essays.ready.v1",
        "huleedu.els.batch.validation.errors.v1",
        "huleedu.els.batch.readiness.timeout.v1",
    }
