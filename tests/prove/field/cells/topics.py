"""What happens to topics: missing, deleted and created again, with more partitions, trimmed; quotas and rights."""

import asyncio
from collections import Counter
from functools import partial
from typing import Final

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AclBindingFilter, AclOperation, NewPartitions, ResourceType

from deploy.servers.kafka_tools import run_tool
from tests.prove.field import traffic
from tests.prove.field.environment import PARTITIONS, USER, Kind, acl
from tests.prove.field.play import Cell, Play
from tests.prove.field.topics import COMPLETED, CONTENT, FAILURE, READY, SLOT
from tests.prove.field.traffic import Librdkafka

ONE: Final = Kind()
READ_WITHIN: Final = 15.0
"""SPEC: added partitions, and a topic that is there again, are read within so many seconds."""


async def load_once(play: Play) -> None:
    """Sends some batches and waits until they are processed, so that every topic has something to lose."""
    await play.send(play.batches(60))
    await play.applied()


async def missing(play: Play) -> None:
    """An input topic is missing for 20 s."""
    await load_once(play)
    async with play.load(without=FAILURE), play.fault():
        await asyncio.to_thread(play.world.kafka.delete_topics, FAILURE)
        await asyncio.sleep(20)
        await asyncio.to_thread(play.world.kafka.create_topics)
        play.judge.reader.begin_again(FAILURE)


async def missing_at_start(play: Play) -> None:
    """Pods start while an input topic is missing."""
    await load_once(play)
    await asyncio.to_thread(play.world.kafka.delete_topics, FAILURE)
    async with play.fault():
        for pod in play.world.pods.all:
            pod.kill()
            pod.start()
        await asyncio.sleep(20)
        await asyncio.to_thread(play.world.kafka.create_topics)
        play.judge.reader.begin_again(FAILURE)


async def recreated(play: Play) -> None:
    """An input topic is deleted and created at once; what it had was processed."""
    await load_once(play)
    await asyncio.to_thread(play.judge.read)
    async with play.fault():
        await asyncio.to_thread(play.world.kafka.delete_topics, CONTENT)
        await asyncio.to_thread(play.world.kafka.create_topics)
        play.judge.reader.begin_again(CONTENT)
    await play.send(play.batches(60))


async def output_recreated(play: Play) -> None:
    """An output topic is deleted and created; what it had, readers have read."""
    await load_once(play)
    await asyncio.to_thread(play.judge.read)
    async with play.load():
        await play.applied(20)
        async with play.fault():
            await asyncio.to_thread(play.world.kafka.delete_topics, READY)
            await asyncio.to_thread(play.world.kafka.create_topics)
            play.judge.reader.begin_again(READY)


async def add_input_partition(play: Play) -> None:
    """Adds a partition to an input topic while batches arrive."""
    await load_once(play)
    async with play.load():
        async with play.fault():
            await asyncio.to_thread(_add_partition, play, CONTENT)
        await asyncio.sleep(10)  # producers know of it within some seconds


async def add_output_partition(play: Play) -> None:
    """Adds a partition to an output topic in the midst of batches, and restarts a pod, which then knows of it."""
    some = play.batches(150)
    async with play.load():
        await play.send(some[: len(some) // 2])
        async with play.fault():
            await asyncio.to_thread(_add_partition, play, SLOT)
            play.world.pods.all[0].kill()
            play.world.pods.all[0].start()
            await play.world.pods.ready()
        await play.send(some[len(some) // 2 :])


def _add_partition(play: Play, topic: str) -> None:
    admin = play.world.kafka.admin
    for added in admin.create_partitions([NewPartitions(topic, PARTITIONS + 1)]).values():
        added.result()


async def trim(play: Play) -> None:
    """The records of an input topic are deleted after they were processed."""
    async with play.load():
        await asyncio.sleep(5)
    await play.applied()
    async with play.fault():
        await _delete_records(play)
    await play.send(play.batches(60))


async def trim_unread(play: Play) -> None:
    """Records of an input topic are deleted before they were read, while no pod runs: a loss that must be reported."""
    await load_once(play)
    play.watch.down |= {0, 1}
    for pod in play.world.pods.all:
        pod.terminate()
    for pod in play.world.pods.all:
        await pod.ended()
    doomed = Librdkafka(play.world.kafka.servers, Counter())
    doomed.send([traffic.content(f"{play.prefix}-trimmed", f"{play.prefix}-trimmed-{number}") for number in range(50)])
    await asyncio.to_thread(doomed.finish)
    await _delete_records(play)
    async with play.fault():
        for pod in play.world.pods.all:
            pod.start()
        play.watch.down.clear()
        await play.world.pods.ready()
    await asyncio.sleep(10)


async def _delete_records(play: Play) -> None:
    admin = play.world.kafka.admin
    everything = [TopicPartition(CONTENT, number, -1) for number in range(PARTITIONS)]
    for deleted in admin.delete_records(everything).values():
        await asyncio.to_thread(deleted.result)


async def quota(play: Play, name: str, bytes_per_second: int) -> None:
    """The service may fetch or produce only little for 20 s."""
    async with play.load(), play.fault():
        await asyncio.to_thread(_alter_quota, play, "--add-config", f"{name}={bytes_per_second}")
        await asyncio.sleep(20)
        await asyncio.to_thread(_alter_quota, play, "--delete-config", name)


def _alter_quota(play: Play, how: str, what: str) -> None:
    servers = play.world.kafka.servers
    arguments = ("--alter", how, what, "--entity-type", "users", "--entity-name", USER)
    run_tool("ConfigCommand", "--bootstrap-server", servers, *arguments)


async def right_missing(play: Play, operation: AclOperation, topic: str) -> None:
    """A right of the service is missing for 20 s."""
    admin, right = play.world.kafka.admin, acl(ResourceType.TOPIC, topic, operation)
    name, pattern = right.name, right.resource_pattern_type
    wanted = AclBindingFilter(
        right.restype, name, pattern, right.principal, right.host, right.operation, right.permission_type
    )
    async with play.load(), play.fault():
        for done in admin.delete_acls([wanted]).values():
            assert await asyncio.to_thread(done.result), f"there was no right {right}"
        await play.run("check", names=f"lacks {operation.name}.* on topic {topic}")
        await asyncio.sleep(20)
        for granted in admin.create_acls([right]).values():
            await asyncio.to_thread(granted.result)


CELLS: Final = [
    Cell("input topic missing for 20 s", ONE, missing, names=FAILURE, recovers_within=READ_WITHIN, spoils=True),
    Cell("input topic missing at the start", ONE, missing_at_start, names=FAILURE, recovers_within=READ_WITHIN,
         spoils=True),
    Cell("input topic deleted and created", ONE, recreated, recovers_within=READ_WITHIN, spoils=True),
    Cell("output topic deleted and created", ONE, output_recreated, spoils=True),
    Cell("partition added to an input topic", ONE, add_input_partition, spoils=True,
         recovers_within=READ_WITHIN),
    Cell("partition added to an output topic", ONE, add_output_partition, names="partition",
         spoils=True),
    Cell("input topic trimmed after it was read", ONE, trim),
    Cell("input topic trimmed before it was read", ONE, trim_unread, names="lost", spoils=True),
    Cell("fetch quota of 4 kB/s for 20 s", ONE, partial(quota, name="consumer_byte_rate", bytes_per_second=4_000),
         names="quota|throttl"),
    Cell("produce quota of 20 kB/s for 20 s", ONE, partial(quota, name="producer_byte_rate", bytes_per_second=20_000),
         names="quota|throttl"),
    Cell("no right to read an input topic for 20 s", ONE,
         partial(right_missing, operation=AclOperation.READ, topic=CONTENT),
         names="authori|right|permission|ACL|denied"),
    Cell("no right to write an output topic for 20 s", ONE,
         partial(right_missing, operation=AclOperation.WRITE, topic=COMPLETED),
         names="authori|right|permission|ACL|denied"),
]  # fmt: skip
