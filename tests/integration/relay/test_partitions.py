"""Tests that relays agree on the partitions of an output topic, so that those that are added split no batch."""

from collections import defaultdict
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from service.postgres.pool import Database
from service.relay.partitions import AgreedPartitions
from service.store import output_topics
from service.store.output_topics import Adopted
from tests.support.pods.relay_stage import Stage, text_of, until

HEALTH = "select line from ops.health cross join unnest(attention) as line where line like '%partitions%'"
BATCHES = [f"batch-{number}" for number in range(40)]


async def add_partitions(stage: Stage, topic: str, count: int) -> None:
    admin = AIOKafkaAdminClient(**stage.options)
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(count)})
    finally:
        await admin.close()


async def published(stage: Stage, topic: str, text: str) -> None:
    await stage.commit(*((batch, topic, text) for batch in BATCHES))
    await until(stage.is_empty)


def places(records: list[Any], *texts: str) -> dict[bytes, set[int]]:
    """Returns the partitions of each batch's events with one of these texts."""
    found: dict[bytes, set[int]] = defaultdict(set)
    for record in records:
        if text_of(record) in texts:
            found[record.key].add(record.partition)
    return found


async def test_added_partitions_are_reported_and_used_when_they_are_adopted(apache_stage: Stage) -> None:
    """The relay that starts afterwards knows only the new number, and the other one the old one, for a while."""
    stage = apache_stage
    [topic] = await stage.create(partitions=2)
    async with stage.running(stage.relay(lease_seconds=1)):
        await published(stage, topic, "first")
        await add_partitions(stage, topic, 5)
        async with stage.running(stage.relay(lease_seconds=1)):
            await published(stage, topic, "second")

            async def is_reported() -> bool:
                return await stage.all(HEALTH) == [
                    (f"{topic} has 5 partitions, and events go to the first 2 only: ops.output_topics",)
                ]

            await until(is_reported)
            before = await stage.records(topic, 2 * len(BATCHES))
            assert {len(some) for some in places(before, "first", "second").values()} == {1}
            async with stage.database.transaction() as conn:
                assert await output_topics.adopt_partitions(conn) == [Adopted(topic, 2, 5)]
                assert await output_topics.adopt_partitions(conn) == []

            async def are_used() -> bool:
                await published(stage, topic, "third")
                return len(set.union(*places(await stage.records(topic, 1), "third").values())) == 5

            await until(are_used)
            assert await stage.all(HEALTH) == []


async def test_of_a_topic_with_fewer_partitions_those_are_used(apache_stage: Stage) -> None:
    """It was created anew."""
    stage = apache_stage
    [topic] = await stage.create(partitions=2)
    async with stage.database.transaction() as conn:
        await conn.execute("insert into els.output_topics (topic, partitions, found) values (%s, 5, 5)", [topic])
    async with stage.running(stage.relay()):
        await published(stage, topic, "text")
    assert await stage.all("select partitions, found from ops.output_topics") == [(2, 2)]
    assert len(await stage.records(topic, len(BATCHES))) == len(BATCHES)


async def test_a_row_that_the_database_has_lost_is_noted_again(apache_stage: Stage) -> None:
    """After a failover that lost it, for example: else the topic would count as missing until the pod restarts."""
    stage = apache_stage
    [topic] = await stage.create(partitions=2)
    async with stage.running(stage.relay(lease_seconds=1)):
        await published(stage, topic, "first")
        await stage.all("delete from els.output_topics returning topic")
        await published(stage, topic, "second")
        await published(stage, topic, "third")
    assert await stage.all("select topic, partitions from ops.output_topics") == [(topic, 2)]
    assert await stage.all("select from els.outbox_blocked") == []


async def test_fewer_partitions_are_not_believed_at_once(database_url: str) -> None:
    """A broker that lags reports fewer for a while, also after others were adopted."""
    database = Database(database_url)
    partitions = AgreedPartitions(database)
    await partitions.agree({"topic": 6})
    await partitions.agree({"topic": 3})
    assert partitions.count("topic") == 6
    late = AgreedPartitions(database)
    async with database.transaction() as conn:
        await late.read(conn)
    await late.agree({"topic": 3})
    assert late.count("topic") == 6
    await database.close()
