"""Tests replicas on three brokers: what `create_topics` creates, and what `alter_topics` raises and leaves alone."""

from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from service.kafka.alteration import COPYING, WAITING, Alteration, alter_topics
from service.kafka.topics import Difference, Fault, create_topics, differences, faults, read_topics
from tests.support.servers.acls import GuardedCluster

SIZE = {"max.message.bytes": "3000000"}


async def create(guarded: GuardedCluster, replication: int = 1, partitions: int = 2, **configs: str) -> str:
    """Creates a topic as others would. Returns its name, which is new."""
    name = f"t-{uuid4().hex}"
    admin = AIOKafkaAdminClient(**guarded.options)
    await admin.start()
    try:
        named = {name.replace("_", "."): value for name, value in configs.items()}
        await admin.create_topics([NewTopic(name, partitions, replication, topic_configs=named)])
    finally:
        await admin.close()
    await guarded.all_know(name)
    return name


@pytest.mark.parametrize(("wanted", "replicas", "in_sync"), [(None, 3, "2"), (2, 2, "1"), (1, 1, "1")])
async def test_topics_are_created_with_the_replicas_that_the_brokers_support(
    guarded_cluster: GuardedCluster, wanted: int | None, replicas: int, in_sync: str
) -> None:
    topic = f"t-{uuid4().hex}"
    await create_topics(guarded_cluster.options, partitions=2, replication=wanted, topics={topic: {}})
    await guarded_cluster.all_know(topic)
    state = (await read_topics(guarded_cluster.options, [topic])).topics[topic]
    assert [len(each.replicas) for each in state.partitions] == [replicas, replicas]
    assert (state.configs or {})["min.insync.replicas"] == in_sync


async def test_what_is_too_small_is_raised_and_the_rest_stays(guarded_cluster: GuardedCluster) -> None:
    t = await create(guarded_cluster, max_message_bytes="1000", min_insync_replicas="1", retention_ms="123456789")
    expected = [
        Alteration(Difference(t, "replication factor", "3", "1")),
        Alteration(Difference(t, "max.message.bytes", "3000000", "1000")),
        Alteration(Difference(t, "min.insync.replicas", "2", "1")),
    ]
    dry = await alter_topics(guarded_cluster.options, replication=None, dry_run=True, topics={t: SIZE})
    assert dry.alterations == expected
    before = (await read_topics(guarded_cluster.options, [t])).topics[t]
    assert (before.replication, before.number("max.message.bytes")) == (1, 1000)  # nothing is changed
    done = await alter_topics(guarded_cluster.options, replication=None, topics={t: SIZE})
    assert done.alterations == expected
    state = (await read_topics(guarded_cluster.options, [t])).topics[t]
    assert state.number("retention.ms") == 123456789
    assert (state.number("max.message.bytes"), state.number("min.insync.replicas")) == (3000000, 2)
    assert [each.replicas[0] for each in state.partitions] == [each.replicas[0] for each in before.partitions]
    assert [sorted(each.in_sync) for each in state.partitions] == [[1, 2, 3], [1, 2, 3]]
    assert (await alter_topics(guarded_cluster.options, replication=None, topics={t: SIZE})).alterations == []


async def test_nothing_is_reduced(guarded_cluster: GuardedCluster) -> None:
    t = await create(guarded_cluster, 3, max_message_bytes="9000000", min_insync_replicas="3")
    assert (await alter_topics(guarded_cluster.options, replication=1, topics={t: SIZE})).alterations == []
    state = (await read_topics(guarded_cluster.options, [t])).topics[t]
    assert (state.replication, len(state.partitions)) == (3, 2)
    assert (state.number("max.message.bytes"), state.number("min.insync.replicas")) == (9000000, 3)


async def test_min_insync_replicas_is_not_raised_before_the_replicas_are_in_sync(
    guarded_cluster: GuardedCluster,
) -> None:
    """Otherwise the topic would take no records meanwhile."""
    t = await create(guarded_cluster, min_insync_replicas="1")
    hurried = await alter_topics(guarded_cluster.options, replication=None, topics={t: {}}, wait=-1)
    state = (await read_topics(guarded_cluster.options, [t])).topics[t]
    assert all(each.error in (COPYING, WAITING, None) for each in hurried.alterations)
    assert (hurried.alterations[1].error is None) == (state.number("min.insync.replicas") == 2)
    last = await alter_topics(guarded_cluster.options, replication=None, topics={t: {}})
    assert all(each.error is None for each in last.alterations)
    assert not differences(await read_topics(guarded_cluster.options, [t]), {t: {}})


async def test_replicas_that_are_missing_are_reported(guarded_cluster: GuardedCluster) -> None:
    t = await create(guarded_cluster, 3, 3, min_insync_replicas="2")
    guarded_cluster.cluster.nodes[3].kill()
    found = await _faults_like(guarded_cluster, t, "are in sync")
    assert [(fault.topic, fault.is_error) for fault in found] == [(t, False)]
    assert "2 of 3 replicas" in found[0].message
    await create_topics(guarded_cluster.options, partitions=1, replication=None, topics={f"later-{t}": {}})
    later = (await read_topics(guarded_cluster.options, [f"later-{t}"])).topics[f"later-{t}"]
    assert (later.replication, later.number("min.insync.replicas")) == (2, 1)


async def test_too_few_brokers_for_the_replication_that_is_set(guarded_cluster: GuardedCluster) -> None:
    t = await create(guarded_cluster, 3, min_insync_replicas="2")
    (alteration,) = (await alter_topics(guarded_cluster.options, replication=4, topics={t: {}})).alterations
    assert alteration.error == "too few brokers are available"


async def test_a_topic_that_takes_no_records_is_reported(guarded_cluster: GuardedCluster) -> None:
    t = await create(guarded_cluster, 1, min_insync_replicas="2", cleanup_policy="compact")
    found = [fault.message for fault in faults(await read_topics(guarded_cluster.options, [t]), [t])]
    assert ["cleanup.policy is compact" in found[0], "it takes no records" in found[1]] == [True, True]


async def _faults_like(guarded: GuardedCluster, t: str, text: str) -> list[Fault]:
    while not (found := faults(await read_topics(guarded.options, [t]), [t])) or text not in found[0].message:
        pass
    return found
