"""What happens to three brokers with three replicas: killed, restarted, frozen, without a quorum; moved leaders."""

import asyncio
from typing import Final

from confluent_kafka import ElectionType
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from deploy.servers.kafka_cluster import ClusterNode
from tests.prove.field.environment import Kind
from tests.prove.field.play import Cell, Play
from tests.prove.field.topics import OUTPUTS

THREE: Final = Kind(brokers=3)
AWAY_SECONDS: Final = 15
"""Longer than the session of a broker (2 s) and than that of a pod (6 s)."""


def some_node(play: Play) -> ClusterNode:
    """Returns one of the brokers."""
    return play.dice.choice(list(play.world.kafka.cluster.nodes.values()))


async def away(play: Play, *nodes: ClusterNode) -> None:
    """Kills these brokers, and starts them after some seconds."""
    async with play.load(), play.fault():
        for node in nodes:
            await asyncio.to_thread(node.kill)
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(play.world.kafka.cluster.start)


async def kill_one(play: Play) -> None:
    """One of three brokers is killed."""
    await away(play, some_node(play))


async def kill_controller(play: Play) -> None:
    """The broker that leads the quorum is killed."""
    await away(play, play.world.kafka.cluster.controller())


async def kill_two(play: Play) -> None:
    """Two of three brokers are killed: no quorum, and too few replicas."""
    await away(play, *play.dice.sample(list(play.world.kafka.cluster.nodes.values()), 2))


async def kill_all(play: Play) -> None:
    """All brokers are killed at once."""
    await away(play, *play.world.kafka.cluster.nodes.values())


async def roll(play: Play) -> None:
    """Each broker is stopped and started, one after the other, as an upgrade does."""
    async with play.load(), play.fault():
        for node in play.world.kafka.cluster.nodes.values():
            await asyncio.to_thread(node.stop)
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(in_sync, play)


async def freeze(play: Play) -> None:
    """A broker stands still for 20 s, with its connections open."""
    node = some_node(play)
    async with play.load(), play.fault():
        node.freeze()
        await asyncio.sleep(20)
        node.thaw()


async def move_leaders(play: Play) -> None:
    """The leaders of all partitions go back to the broker that they had left."""
    node = some_node(play)
    await asyncio.to_thread(node.stop)
    await asyncio.to_thread(node.start)
    await asyncio.to_thread(in_sync, play)
    admin = play.world.kafka.admin
    before = leaders(play)
    async with play.load():
        async with play.fault():
            await asyncio.to_thread(admin.elect_leaders(ElectionType.PREFERRED).result)
            await asyncio.sleep(1)
        assert leaders(play) != before, "no leader has moved"


async def replica_missing(play: Play) -> None:
    """The output topics need three replicas, and a broker is away."""
    await asyncio.to_thread(_need_replicas, play, "3")
    await away(play, some_node(play))
    await asyncio.to_thread(_need_replicas, play, "2")


def _need_replicas(play: Play, count: str) -> None:
    admin = play.world.kafka.admin
    entry = ConfigEntry("min.insync.replicas", count, incremental_operation=AlterConfigOpType.SET)
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry]) for topic in OUTPUTS]
    for done in admin.incremental_alter_configs(resources).values():
        done.result()


def leaders(play: Play) -> dict[tuple[str, int], int]:
    """Returns the leader of each partition of our topics."""
    topics = play.world.kafka.admin.list_topics(timeout=20).topics
    return {
        (name, number): each.leader
        for name, topic in topics.items()
        if name.startswith("huleedu.")
        for number, each in topic.partitions.items()
    }


def in_sync(play: Play) -> None:
    """Waits until each partition has all its replicas in sync."""
    while True:
        topics = play.world.kafka.admin.list_topics(timeout=60).topics.values()
        partitions = [each for topic in topics for each in topic.partitions.values()]
        if partitions and all(len(each.isrs) == len(each.replicas) for each in partitions):
            return


CELLS: Final = [
    Cell("one of three brokers killed", THREE, kill_one),
    Cell("the controller killed", THREE, kill_controller),
    Cell("rolling restart of three brokers", THREE, roll),
    Cell("leaders moved", THREE, move_leaders),
    Cell("a broker frozen for 20 s", THREE, freeze),
    Cell("two of three brokers killed", THREE, kill_two, names="broker"),
    Cell("all three brokers killed", THREE, kill_all, names="broker"),
    Cell("one of three brokers away, three replicas needed", THREE, replica_missing, names="replica"),
]
