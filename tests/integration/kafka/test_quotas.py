"""Tests quotas: a broker that delays the service is named as such, and taken neither for silent nor for slow."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deploy.servers import pods
from deploy.servers.kafka_tools import run_tool
from service.domain.topics import BATCH_REGISTERED
from service.kafka.topics import create_topics
from service.postgres.pool import Database
from tests.support.builders.inputs import registration
from tests.support.pods.relay_stage import Stage, until
from tests.support.pods.running_consumer import BOUND, consumer_fixture
from tests.support.servers.acls import GuardedCluster


@asynccontextmanager
async def quota(cluster: GuardedCluster, name: str, bytes_per_second: int) -> AsyncIterator[None]:
    """Gives each client this quota."""

    def alter(*change: str) -> None:
        servers = cluster.cluster.bootstrap_servers
        entity = ("--entity-type", "clients", "--entity-default")
        run_tool("ConfigCommand", "--bootstrap-server", servers, "--alter", *change, *entity)

    await asyncio.to_thread(alter, "--add-config", f"{name}={bytes_per_second}")
    try:
        yield
    finally:
        await asyncio.to_thread(alter, "--delete-config", name)


async def test_a_relay_that_is_throttled_says_so_and_repeats_nothing(
    database_url: str, guarded_cluster: GuardedCluster
) -> None:
    database = Database(database_url)
    stage = Stage(database_url, database, guarded_cluster.options)
    await create_topics(stage.options, partitions=3, replication=3, topics={"quotas": {}})
    relay = stage.relay(idempotent=True)

    async def is_reported() -> bool:
        return "a quota of the broker delays it" in (relay.error or "")

    async with stage.running(relay):
        async with quota(guarded_cluster, "producer_byte_rate", 20_000):
            for number in range(20):
                await stage.commit((f"batch-{number}", "quotas", "x" * 50_000))
            await until(is_reported)
        await until(stage.is_empty)
    assert len(await stage.records("quotas", 20)) == 20
    await database.close()


async def test_a_consumer_that_is_throttled_says_so_and_keeps_its_client(
    app_url: str, database_url: str, guarded_cluster: GuardedCluster
) -> None:
    await guarded_cluster.broker.create_topics()
    await guarded_cluster.all_know(BATCH_REGISTERED)
    async with consumer_fixture(app_url, database_url, guarded_cluster.broker) as consumers:
        running = await consumers.start()
        membership = running.consumer._assignment.membership

        def error() -> str:
            return running.health.parts["consumer"] or ""

        async with quota(guarded_cluster, "consumer_byte_rate", 20_000):
            texts = [random.Random(number).randbytes(30_000).hex() for number in range(20)]
            values = [registration(f"b{number}", ["e"], essay_instructions=text) for number, text in enumerate(texts)]
            await consumers.publish(BATCH_REGISTERED, *values)
            await pods.until(lambda: "a quota of the broker delays it" in error(), BOUND, error)
        await consumers.becomes("select count(*) from els.batches", len(values))
        assert running.consumer._assignment.membership is membership
        await pods.until(lambda: not error(), BOUND, error)
