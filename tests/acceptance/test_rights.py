"""Tests that the rights (ACLs) that `check` demands are all that the service needs, and what happens without one."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psycopg
import pytest

from deploy.local.processes import LOOPBACK, plain_environment
from deploy.servers.pods import ROOT, pods, until
from service.domain.topics import BATCH_READY, BATCH_REGISTERED, CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.kafka.cluster import Operation
from service.kafka.rights import NEEDED_ON_GROUPS, NEEDED_ON_TOPICS, MissingRight
from service.kafka.topics import TOPICS, create_topics
from tests.support.builders import inputs
from tests.support.builders.replay import Record, Replay
from tests.support.checks.expected import all_done, read_back
from tests.support.servers.acls import GuardedCluster

GROUP = "essay-lifecycle-service"


async def grant(guarded: GuardedCluster, without: Collection[tuple[str, Operation]] = ()) -> None:
    """Creates the topics, and grants what `check` demands for them, except for some rights."""
    await create_topics(guarded.options, partitions=2, replication=None)
    await guarded.all_know(*TOPICS)
    rights = [MissingRight("topic", topic, operations) for topic, operations in NEEDED_ON_TOPICS.items()]
    rights += [MissingRight("group", group, NEEDED_ON_GROUPS) for group in (GROUP, f"{GROUP}.replay")]
    for right in rights:
        operations = [each for each in right.operations if (right.name, each) not in without]
        if operations:
            await guarded.grant(right._replace(operations=operations).command(guarded.login))


def settings_of(guarded: GuardedCluster, url: str) -> dict[str, str]:
    return guarded.settings | {"ELS_DATABASE_URL": url, "ELS_HTTP_HOST": LOOPBACK, "ELS_HTTP_PORT": "0"}


def consumer_part(port: int) -> str:
    """Returns what `/readyz` says of the consumer while the pod is not ready."""
    try:
        with urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=10):
            return "ready"
    except HTTPError as unready:
        return str(json.loads(unready.read())["parts"]["consumer"])


def records() -> list[Record]:
    return [
        Record(0, CONTENT_PROVISIONED, b"upload", inputs.content("b", "text")),
        Record(0, BATCH_REGISTERED, b"b", inputs.registration("b", ["essay"])),
    ]


async def run_command(folder: Path, settings: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", *command],
        env={**plain_environment(), "PYTHONPATH": str(ROOT), **settings},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_pod_needs_no_other_rights(
    tmp_path: Path, guarded_cluster: GuardedCluster, app_url: str, database_url: str
) -> None:
    await grant(guarded_cluster)
    settings, replay = settings_of(guarded_cluster, app_url), Replay(guarded_cluster.broker, records())
    with pods(tmp_path, settings) as running:
        running.start()
        await running.ready()
        await replay.run()
        await all_done(database_url, guarded_cluster.broker, GROUP, replay.ends)
        assert await running.stop() == [0]
        assert running.complaints() == []
    published = await read_back(guarded_cluster.broker, [SLOT_ASSIGNED, BATCH_READY])
    assert [[record.key for record in some] for some in published.values()] == [[b"b"], [b"b"]]
    for command in ("check", "audit", "recover --dry-run"):
        ended = await run_command(tmp_path, settings, *command.split())
        assert "Authorization" not in ended.stdout + ended.stderr
        assert ended.returncode == 0, (command, ended)


async def test_a_missing_right_blocks_the_events_of_its_topic_and_is_named(
    tmp_path: Path, guarded_cluster: GuardedCluster, app_url: str, database_url: str
) -> None:
    await grant(guarded_cluster, without=[(SLOT_ASSIGNED, Operation.WRITE)])
    replay = Replay(guarded_cluster.broker, records())
    with pods(tmp_path, settings_of(guarded_cluster, app_url)) as running:
        running.start()
        await replay.run()
        async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:

            async def blocked() -> bool:
                rows = await (await conn.execute("select topic, error from ops.outbox_blocked")).fetchall()
                return any(topic == SLOT_ASSIGNED and "TopicAuthorizationFailed" in error for topic, error in rows)

            await until(blocked, 60, lambda: "the event is not blocked")
        await running.stop()


@pytest.mark.parametrize(
    ("without", "line"),
    [
        ([(GROUP, Operation.READ)], f"GroupAuthorizationFailedError: {GROUP}: our Kafka user lacks a right (ACL) on"),
        (
            [(CONTENT_PROVISIONED, Operation.READ), (CONTENT_PROVISIONED, Operation.DESCRIBE)],
            f"TopicAuthorizationFailedError: {CONTENT_PROVISIONED}: our Kafka user lacks a right (ACL) on the topic",
        ),
    ],
    ids=["group", "topic"],
)
async def test_a_pod_that_may_not_read_is_not_ready_and_says_so(
    tmp_path: Path, guarded_cluster: GuardedCluster, app_url: str, without: Collection[tuple[str, Operation]], line: str
) -> None:
    await grant(guarded_cluster, without=without)
    with pods(tmp_path, settings_of(guarded_cluster, app_url)) as running:
        (pod,) = running.start()

        async def says_so() -> bool:
            port = next((entry["port"] for entry in pod.logged() if entry.get("event") == "started"), None)
            return port is not None and (await asyncio.to_thread(consumer_part, port)).startswith(line)

        await until(says_so, 60, pod.last_lines, every=0.5)
        await running.stop()


async def test_an_audit_that_may_not_read_what_was_published_says_so(
    tmp_path: Path, guarded_cluster: GuardedCluster, app_url: str
) -> None:
    await grant(guarded_cluster, without=[(BATCH_READY, Operation.READ)])
    await Replay(guarded_cluster.broker, [Record(0, BATCH_READY, b"b", b"{}")]).run()
    ended = await run_command(tmp_path, settings_of(guarded_cluster, app_url), "audit")
    assert ended.returncode == 1
    expected = f"ELS_KAFKA_SASL_USERNAME: TopicAuthorizationFailedError: {BATCH_READY}: our Kafka user lacks a right"
    assert ended.stderr.splitlines()[-1].startswith(expected)
