"""Tests `topics create`, `topics alter` and the part of `check` about the broker: exit status, messages, commands."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.servers import brokers
from deploy.servers.brokers import Broker
from service.domain.topics import BATCH_READY, BATCH_REGISTERED, CONTENT_PROVISIONED, OUTGOING_TOPICS, SLOT_ASSIGNED
from service.kafka.cluster import read_cluster
from service.kafka.topics import TOPICS
from tests.support.pods.command_line import CommandLine, Ended
from tests.support.servers.acls import GuardedCluster


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], app_url: str
) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd, {"ELS_DATABASE_URL": app_url})


async def _replace(broker: Broker, name: str, configs: dict[str, str], partitions: int = 3) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics([name])
        while name in await admin.list_topics():
            pass
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
        while not await _has(admin, name, configs):
            pass
    finally:
        await admin.close()


async def _has(admin: AIOKafkaAdminClient, name: str, configs: dict[str, str]) -> bool:
    """For a moment, a broker may report the properties of a deleted topic of the same name."""
    found = (await read_cluster(admin, [name])).topics.get(name)
    return found is not None and found.configs is not None and configs.items() <= found.configs.items()


def replace(broker: Broker, name: str, configs: dict[str, str], partitions: int = 3) -> None:
    """Deletes one of our topics and creates it as others would."""
    asyncio.run(_replace(broker, name, {"max.message.bytes": "1048588"} | configs, partitions))


def told(ended: Ended, check: str) -> list[dict[str, Any]]:
    return [row for row in ended.json if row["check"] == check]


# -- topics alter


def test_topics_that_suffice_are_not_altered(service: CommandLine, kafka: Broker) -> None:
    for dry in ((), ("--dry-run",)):
        ended = service("topics", "alter", *dry, "--json", **kafka.settings)
        assert (ended.status, ended.json, ended.err) == (0, [], "")


def test_a_topic_that_is_too_small_is_altered(service: CommandLine, apache: Broker) -> None:
    replace(apache, BATCH_READY, {})
    assert service("topics", "create", **apache.settings).status == 1
    expected = {"topic": BATCH_READY, "property": "max.message.bytes", "found": "1048588", "wanted": "33554432"}
    dry = service("topics", "alter", "--dry-run", "--json", **apache.settings)
    assert (dry.status, dry.json, dry.err) == (1, [expected | {"state": "would be altered"}], "")
    done = service("topics", "alter", "--json", **apache.settings)
    assert (done.status, done.json, done.err) == (0, [expected | {"state": "altered"}], "")
    assert service("check", **apache.settings).status == 0


def test_topics_that_are_missing_are_not_created_by_alter(service: CommandLine) -> None:
    with brokers.tansu() as broker:
        ended = service("topics", "alter", "--json", **broker.settings)
        assert (ended.status, ended.json) == (1, [])
        assert sorted(ended.err.splitlines()) == sorted(f"{topic} is missing: run topics create" for topic in TOPICS)


def test_what_alter_leaves_to_people_is_named_with_the_command(service: CommandLine, apache: Broker) -> None:
    replace(apache, SLOT_ASSIGNED, {"max.message.bytes": "2097152", "cleanup.policy": "compact"})
    ended = service("topics", "alter", "--json", **apache.settings)
    assert (ended.status, ended.json) == (1, [])
    assert f"--alter --topic {SLOT_ASSIGNED} --add-config cleanup.policy=delete" in ended.err


# -- check


def test_check_warns_of_few_partitions_and_of_different_numbers(service: CommandLine, apache: Broker) -> None:
    replace(apache, CONTENT_PROVISIONED, {}, partitions=1)
    replace(apache, SLOT_ASSIGNED, {"max.message.bytes": "2097152"}, partitions=1)
    ended = service("check", "--json", **apache.settings, ELS_KAFKA_TOPIC_PARTITIONS="3")
    assert ended.status == 0
    messages = [row["told"] for row in told(ended, "topic")]
    assert sorted(message.partition(" has ")[0] for message in messages) == sorted(
        [f"warning: {SLOT_ASSIGNED}: it", f"warning: {CONTENT_PROVISIONED}: it"]
    )


def test_check_names_a_compacted_topic(service: CommandLine, apache: Broker) -> None:
    replace(apache, CONTENT_PROVISIONED, {"cleanup.policy": "compact"})
    ended = service("check", "--json", **apache.settings)
    assert ended.status == 1
    (row,) = [row for row in told(ended, "topic") if not row["ok"]]
    assert row["told"].startswith(f"{CONTENT_PROVISIONED}: cleanup.policy is compact")


def test_check_names_too_few_replicas_and_alter_adds_them(
    service: CommandLine, guarded_cluster: GuardedCluster
) -> None:
    settings = guarded_cluster.broker.settings
    one = settings | {"ELS_KAFKA_TOPIC_REPLICATION": "1", "ELS_KAFKA_TOPIC_PARTITIONS": "2"}
    assert service("topics", "create", "--json", **one).status == 0
    asyncio.run(guarded_cluster.all_know(*TOPICS))
    assert [row["told"] for row in service("check", "--json", **one).json if not row["ok"]] == []
    messages = [row["told"] for row in service("check", "--json", **settings).json if not row["ok"]]
    for name in ("replication factor is 1; it should be 3", "min.insync.replicas is 1; it should be 2"):
        assert sum(f"{name} or more: run topics alter" in message for message in messages) == len(TOPICS)
    assert service("topics", "alter", **settings).status == 0
    assert [row["told"] for row in service("check", "--json", **settings).json if not row["ok"]] == []


def test_check_names_each_missing_right_and_not_a_missing_topic(
    service: CommandLine, guarded_cluster: GuardedCluster
) -> None:
    assert service("topics", "create", **guarded_cluster.broker.settings).status == 0
    asyncio.run(guarded_cluster.all_know(*TOPICS))
    ended = service("check", "--json", **guarded_cluster.settings)
    assert ended.status == 1
    assert told(ended, "topic") == []
    rights = [row["told"] for row in told(ended, "right")]
    assert len(rights) == len(TOPICS) + 2
    begin = "ELS_KAFKA_SASL_USERNAME: user els lacks "
    assert all(line.startswith(begin) and " --add --allow-principal User:els --operation " in line for line in rights)
    assert any(f"Read, Describe on topic {BATCH_REGISTERED}: kafka-acls.sh" in line for line in rights)
    asyncio.run(guarded_cluster.grant(*(line.rpartition(": ")[2] for line in rights)))
    granted = service("check", "--json", **guarded_cluster.settings)
    assert (granted.status, told(granted, "right")) == (0, [])
    warnings = [row["told"] for row in told(granted, "topic")]  # only `check` needs DescribeConfigs
    assert len(warnings) == len(TOPICS)
    assert all("its configuration can't be compared: ELS_KAFKA_SASL_USERNAME" in line for line in warnings)
    asyncio.run(guarded_cluster.grant(*(line.rpartition(": ")[2] for line in warnings)))
    assert told(service("check", "--json", **guarded_cluster.settings), "topic") == []


def test_topics_create_names_the_right_that_it_lacks(service: CommandLine, guarded_cluster: GuardedCluster) -> None:
    ended = service("topics", "create", **guarded_cluster.settings)
    assert ended.failed_with(1, "ELS_KAFKA_SASL_USERNAME: user els lacks Create on topic ", "kafka-acls.sh")


def test_topics_alter_names_topics_that_it_may_not_see(service: CommandLine, guarded_cluster: GuardedCluster) -> None:
    assert service("topics", "create", **guarded_cluster.broker.settings).status == 0
    asyncio.run(guarded_cluster.all_know(*TOPICS))
    ended = service("topics", "alter", "--json", **guarded_cluster.settings)
    assert (ended.status, ended.json) == (1, [])
    assert sum("lacks Describe on topic" in line for line in ended.err.splitlines()) == len(TOPICS)
    assert all(topic in ended.err for topic in OUTGOING_TOPICS)


def test_check_works_while_a_broker_is_down_and_says_so(service: CommandLine, guarded_cluster: GuardedCluster) -> None:
    settings = guarded_cluster.broker.settings
    assert service("topics", "create", **settings).status == 0
    asyncio.run(guarded_cluster.all_know(*TOPICS))
    guarded_cluster.cluster.nodes[2].kill()
    while True:
        ended = service("check", "--json", **settings)
        warnings = [row["told"] for row in told(ended, "topic") if "2 of 3 replicas" in row["told"]]
        assert [row for row in ended.json if row["check"] in ("broker", "right") and not row["ok"]] == []
        if len(warnings) == len(TOPICS) and all(line.startswith("warning: ") for line in warnings):
            break
    assert ended.status == 0


# -- topics adopt


def test_partitions_that_were_added_are_adopted(service: CommandLine, kafka: Broker, app_url: str) -> None:
    """Whether a relay has found them or not."""
    with psycopg.connect(app_url, autocommit=True) as conn:
        conn.execute("insert into els.output_topics (topic, partitions, found) values (%s, 2, 2)", [BATCH_READY])
        changed = [{"topic": BATCH_READY, "used_before": 2, "partitions": 3}]
        for _ in range(2):
            shown = service("topics", "adopt", "--json", "--dry-run", **kafka.settings)
            assert (shown.status, shown.json) == (0, changed)
        adopted = service("topics", "adopt", "--json", "--why", "more readers", "--who", "ada", **kafka.settings)
        assert (adopted.status, adopted.json) == (0, changed)
        again = service("topics", "adopt", "--json", **kafka.settings)
        assert (again.status, again.json) == (0, [])
        query = "select who, action, why, topic, details from ops.operator_actions"
        details = {"used_before": 2, "partitions": 3, "relays": 0}
        assert conn.execute(query).fetchall() == [("ada", "topics adopt", "more readers", BATCH_READY, details)]


def test_no_partitions_are_adopted_while_a_relay_runs(service: CommandLine, kafka: Broker, app_url: str) -> None:
    """Unless the readers do not mind. A relay whose lease has ended does not count."""
    with psycopg.connect(app_url, autocommit=True) as conn:
        conn.execute("insert into els.output_topics (topic, partitions, found) values (%s, 2, 2)", [BATCH_READY])
        conn.execute(
            "insert into els.relays (relay, expires_at, reads_pages) values"
            " (gen_random_uuid(), now() + interval '1 minute', true), (gen_random_uuid(), now(), true)"
        )
        ended = service("topics", "adopt", **kafka.settings)
        assert ended.failed_with(1, "1 relays publish now: stop all pods with the role relay")
        assert service("topics", "adopt", "--json", "--dry-run", **kafka.settings).json != []
        assert conn.execute("select partitions from els.output_topics").fetchone() == (2,)
        adopted = service("topics", "adopt", "--while-publishing", "--json", **kafka.settings)
        assert (adopted.status, len(adopted.json)) == (0, 1)
        assert conn.execute("select details['relays'] from ops.operator_actions").fetchone() == (1,)


def test_no_partitions_are_adopted_while_the_database_is_behind(
    service: CommandLine, kafka: Broker, app_url: str
) -> None:
    with psycopg.connect(app_url, autocommit=True) as conn:
        conn.execute("insert into els.output_topics (topic, partitions, found) values (%s, 2, 2)", [BATCH_READY])
        conn.execute("insert into els.recovery (state, why) values ('behind', 'a test')")
        assert service("topics", "adopt", **kafka.settings).failed_with(1, "behind")
        assert conn.execute("select partitions, found from els.output_topics").fetchone() == (2, 2)
