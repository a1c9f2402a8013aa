"""Tests that each right that is missing is found, and named by the command that grants it, without using it."""

from pathlib import Path
from uuid import uuid4

import pytest

from deploy.servers.kafka_tools import run_tool
from service.domain.topics import BATCH_READY, BATCH_REGISTERED, INCOMING_TOPICS, OUTGOING_TOPICS
from service.kafka.alteration import alter_topics
from service.kafka.cluster import Operation, read_cluster
from service.kafka.connection import admin_client
from service.kafka.rights import MissingRight, NotAllowed, missing_on_cluster, missing_on_groups, missing_on_topics
from service.kafka.topics import TOPICS, create_topics
from tests.support.servers.acls import GuardedCluster

GROUPS = ["els", "els.replay"]
READ, WRITE, DESCRIBE = Operation.READ, Operation.WRITE, Operation.DESCRIBE
ALL = [
    *(MissingRight("topic", topic, (READ, DESCRIBE)) for topic in INCOMING_TOPICS),
    *(MissingRight("topic", topic, (WRITE, READ, DESCRIBE)) for topic in OUTGOING_TOPICS),
    *(MissingRight("group", group, (READ, DESCRIBE)) for group in GROUPS),
]


async def missing(guarded: GuardedCluster) -> list[MissingRight]:
    async with admin_client(guarded.login) as admin:
        cluster = await read_cluster(admin, TOPICS)
        found = missing_on_topics(cluster) + await missing_on_groups(admin, GROUPS)
        return found + await missing_on_cluster(admin, cluster, idempotent=True)


async def with_topics(guarded: GuardedCluster) -> None:
    await create_topics(guarded.options, partitions=1, replication=1)
    await guarded.all_know(*TOPICS)


@pytest.mark.parametrize("exist", [True, False])
async def test_every_missing_right_is_named_and_its_command_grants_it(
    guarded_cluster: GuardedCluster, exist: bool
) -> None:
    """The brokers report the rights on a topic that is missing, too."""
    if exist:
        await with_topics(guarded_cluster)
    assert await missing(guarded_cluster) == ALL
    await guarded_cluster.grant(*(right.command(guarded_cluster.login) for right in ALL))
    assert await missing(guarded_cluster) == []


@pytest.mark.parametrize(
    ("kind", "name", "lacks"),
    [
        ("topic", BATCH_REGISTERED, READ),
        ("topic", BATCH_READY, WRITE),
        ("topic", BATCH_READY, READ),
        ("group", "els", READ),
        ("group", "els.replay", READ),
    ],
)
async def test_a_single_missing_right_is_named(
    guarded_cluster: GuardedCluster, kind: str, name: str, lacks: Operation
) -> None:
    await with_topics(guarded_cluster)
    without = [
        right._replace(operations=[each for each in right.operations if each != lacks])
        if (right.kind, right.name) == (kind, name)
        else right
        for right in ALL
    ]
    await guarded_cluster.grant(*(right.command(guarded_cluster.login) for right in without))
    assert [(right.kind, right.name, right.operations) for right in await missing(guarded_cluster)] == [
        (kind, name, (lacks,))
    ]


async def test_the_command_is_one_of_kafkas_own_tool(guarded_cluster: GuardedCluster, tmp_path: Path) -> None:
    right = MissingRight("topic", BATCH_READY, (WRITE, DESCRIBE))
    words = right.command(guarded_cluster.login).split()
    assert words[:3] == ["kafka-acls.sh", "--bootstrap-server", guarded_cluster.cluster.login_servers]
    (login := tmp_path / "admin.properties").write_text("security.protocol=PLAINTEXT\n")
    words[words.index("admin.properties")] = str(login)
    run_tool("AclCommand", "--bootstrap-server", guarded_cluster.cluster.bootstrap_servers, *words[3:])
    await with_topics(guarded_cluster)
    (left,) = [each for each in await missing(guarded_cluster) if each.name == BATCH_READY]
    assert left.operations == (READ,)


async def test_creating_and_altering_without_the_right_names_it(guarded_cluster: GuardedCluster) -> None:
    topic = f"t-{uuid4().hex}"
    with pytest.raises(NotAllowed, match=r"user els lacks Create on topic t-.*: kafka-acls\.sh .*--operation Create"):
        await create_topics(guarded_cluster.login, partitions=1, replication=1, topics={topic: {}})
    await create_topics(guarded_cluster.options, partitions=1, replication=1, topics={topic: {}})
    await guarded_cluster.all_know(topic)
    for operation in (Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS):
        await guarded_cluster.grant(MissingRight("topic", topic, (operation,)).command(guarded_cluster.login))
    needed = {topic: {"max.message.bytes": "3000000"}}
    first = await alter_topics(guarded_cluster.login, replication=2, topics=needed)
    assert [(each.difference.name, (each.error or "").partition(":")[0]) for each in first.alterations] == [
        ("replication factor", "user els lacks Alter on the cluster"),
        ("max.message.bytes", f"user els lacks AlterConfigs on topic {topic}"),
    ]
    await guarded_cluster.grant(*((each.error or "").partition(": ")[2] for each in first.alterations))
    second = await alter_topics(guarded_cluster.login, replication=2, topics=needed)
    assert [each.error for each in second.alterations] == [None, None]
