"""Tests a relay on three brokers: missing replicas and quotas are reported as such, and cause no repeats."""

from collections.abc import AsyncIterator

import pytest

from service.kafka.topics import create_topics
from service.postgres.pool import Database
from tests.support.pods.relay_stage import Stage, until
from tests.support.servers.acls import GuardedCluster


@pytest.fixture
async def cluster_stage(database_url: str, guarded_cluster: GuardedCluster) -> AsyncIterator[Stage]:
    database = Database(database_url)
    yield Stage(database_url, database, guarded_cluster.options)
    await database.close()


@pytest.mark.parametrize("idempotent", [False, True])
async def test_missing_replicas_are_reported_as_such_and_cause_no_repeats(
    cluster_stage: Stage, guarded_cluster: GuardedCluster, idempotent: bool
) -> None:
    """Each producer that gave up would otherwise go on sending, and all of them succeed when the replicas are back."""
    stage, nodes = cluster_stage, guarded_cluster.cluster.nodes
    topic = f"replicas.{idempotent}"
    await create_topics(stage.options, partitions=3, replication=3, topics={topic: {}})
    await stage.configure(topic, {"min.insync.replicas": "3"})
    relay = stage.relay(idempotent=idempotent)
    nodes[3].stop()
    async with stage.running(relay):
        await stage.commit(*[(f"batch-{n}", topic, "x") for n in range(50)])
        relay.wake()

        async def is_reported() -> bool:
            return "missing replicas" in (relay.error or "")

        for _ in range(3):  # so that several producers have given up
            relay._working.error = None
            await until(is_reported)
        assert await stage.all("select from els.outbox_blocked") == []
        nodes[3].start()
        await until(stage.is_empty)
    assert len(await stage.records(topic, 50)) == 50
