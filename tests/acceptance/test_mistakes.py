"""Tests `check` for somebody who has made one mistake: it names the mistake, and nothing else is wrong.

Each mistake is made on servers on which `check` finds nothing to complain about.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from deploy.servers import databases
from service.domain.topics import BATCH_READY, CONTENT_PROVISIONED, INCOMING_TOPICS, OUTGOING_TOPICS, SLOT_ASSIGNED
from tests.support.pods.command_line import NOBODY, CommandLine
from tests.support.servers.acls import GuardedCluster

Settings = dict[str, str]

TOOL = "kafka-acls.sh"


class Stage:
    """A database and a cluster of brokers with everything that the service needs."""

    def __init__(self, service: CommandLine, url: str, server: str, cluster: GuardedCluster) -> None:
        self.service, self.url, self.server, self.cluster = service, url, server, cluster
        self.settings: Settings = {"ELS_DATABASE_URL": url, **cluster.broker.settings}

    def sql(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as conn:
            conn.execute(statement.format(database=conn.info.dbname).encode())

    def topic(self, name: str, partitions: int = 12, replication: int = 3, **configs: str) -> None:
        """Deletes a topic, and creates it as somebody else would."""
        asyncio.run(self._topic(name, partitions, replication, configs))

    async def _topic(self, name: str, partitions: int, replication: int, configs: Settings) -> None:
        admin = AIOKafkaAdminClient(**self.cluster.options)
        await admin.start()
        try:
            await admin.delete_topics([name])
            await self.cluster.all_lack(name)
            wanted = {"max.message.bytes": "33554432", "min.insync.replicas": "2"}
            named = wanted | {key.replace("_", "."): value for key, value in configs.items()}
            if partitions:
                await admin.create_topics([NewTopic(name, partitions, replication, topic_configs=named)])
        finally:
            await admin.close()
        if partitions:
            await self.cluster.all_have(name, named)


@pytest.fixture
def stage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    database_url: str,
    server_url: str,
    guarded_cluster: GuardedCluster,
) -> Stage:
    service = CommandLine(tmp_path, monkeypatch, capfd, {})
    made = Stage(service, database_url, server_url, guarded_cluster)
    made.sql("alter database {database} set synchronous_commit = on")  # the tests' own server has it off
    assert service("topics", "create", **made.settings).status == 0
    asyncio.run(guarded_cluster.all_know(*INCOMING_TOPICS, *OUTGOING_TOPICS))
    return made


def options(stage: Stage, text: str) -> Settings:
    """The settings of a URL with options of the session."""
    server = make_conninfo(stage.server, options=text)
    return {"ELS_DATABASE_URL": databases.database_in(server, str(conninfo_to_dict(stage.url)["dbname"]))}


@contextmanager
def latin1(stage: Stage) -> Iterator[Settings]:
    name = "els_test_mistake"
    with psycopg.connect(stage.server, autocommit=True) as conn:
        conn.execute(f"create database {name} template template0 encoding 'LATIN1' locale_provider libc locale 'C'")
        try:
            yield {"ELS_DATABASE_URL": databases.database_in(stage.server, name)}
        finally:
            conn.execute(f"drop database {name} with (force)")


@contextmanager
def stranger(stage: Stage) -> Iterator[Settings]:
    """A login that nobody made a member of els_app."""
    with psycopg.connect(stage.server, autocommit=True) as conn:
        conn.execute("create role els_test_stranger")
        try:
            yield {"ELS_DATABASE_URL": databases.url_as(stage.url, "els_test_stranger")}
        finally:
            conn.execute("drop role els_test_stranger")


def no_rights(stage: Stage, *but: str) -> Settings:
    """A user of Kafka who has all rights that `check` asks for, but these."""
    for _ in range(2):  # what a topic needs beside Describe is not known to a user who cannot see it
        rows = stage.service("check", "--json", **(stage.settings | stage.cluster.settings)).json
        commands = [row["told"][row["told"].index(TOOL) :] for row in rows if TOOL in row["told"]]
        wanted = [each for each in commands if not any(part in each for part in but)]
        asyncio.run(stage.cluster.grant(*wanted))
    return stage.cluster.settings


Mistake = Callable[[Stage], "Settings | AbstractContextManager[Settings] | None"]

MISTAKES: dict[str, tuple[Mistake, str]] = {
    "nothing listens at the database's address": (
        lambda _: {"ELS_DATABASE_URL": f"postgresql://els_app@{NOBODY}/els"},
        "ELS_DATABASE_URL: .*(refused|connection failed)",
    ),
    "the database's name is wrong": (
        lambda stage: {"ELS_DATABASE_URL": databases.database_in(stage.url, "els_prod")},
        'ELS_DATABASE_URL: .*"els_prod" does not exist',
    ),
    "the database was not migrated": (
        lambda stage: {"ELS_DATABASE_URL": stage.server},
        "the schema is missing .*run `python -m service migrate`",
    ),
    "the database has another encoding": (latin1, "the encoding of the database is LATIN1"),
    "the login has no rights": (stranger, "permission denied"),
    "the database is read-only": (
        lambda stage: stage.sql("alter database {database} set default_transaction_read_only = on"),
        "read-only: default_transaction_read_only is on .set by: database.",
    ),
    "too few connections": (
        lambda stage: stage.sql("alter database {database} connection limit 12"),
        "too few connections: CONNECTION LIMIT of the database is 12",
    ),
    "a planner setting in the URL": (
        lambda stage: options(stage, "-c enable_seqscan=on"),
        "enable_seqscan is on",
    ),
    "a timeout in the URL": (
        lambda stage: options(stage, "-c statement_timeout=15"),
        "statement.timeout",
    ),
    "a transaction pooler that is not there": (
        lambda _: {"ELS_DATABASE_POOLER": "transaction"},
        "run `migrate`",
    ),
    "nothing listens at the broker's address": (
        lambda _: {"ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY},
        "ELS_KAFKA_BOOTSTRAP_SERVERS: .*refused",
    ),
    "the broker's protocol is another": (
        lambda stage: {"ELS_KAFKA_BOOTSTRAP_SERVERS": stage.cluster.cluster.login_servers},
        "ELS_KAFKA_SECURITY_PROTOCOL: ",
    ),
    "the broker's password is wrong": (
        lambda stage: stage.cluster.settings | {"ELS_KAFKA_SASL_PASSWORD": "wrong"},
        "ELS_KAFKA_SASL_PASSWORD: ",
    ),
    "an input topic is missing": (
        lambda stage: stage.topic(CONTENT_PROVISIONED, partitions=0),
        f"{CONTENT_PROVISIONED} is missing: run topics create",
    ),
    "a topic takes too small records": (
        lambda stage: stage.topic(BATCH_READY, max_message_bytes="1048588"),
        f"{BATCH_READY}: max.message.bytes is 1048588; it should be 33554432 or more: run topics alter",
    ),
    "a topic has one replica": (
        lambda stage: stage.topic(SLOT_ASSIGNED, replication=1, min_insync_replicas="1"),
        f"{SLOT_ASSIGNED}: .*replica.* is 1; it should be (2|3)",
    ),
    "a topic acknowledges too early": (
        lambda stage: stage.topic(SLOT_ASSIGNED, min_insync_replicas="1"),
        f"{SLOT_ASSIGNED}: min.insync.replicas is 1; it should be 2",
    ),
    "an input topic is compacted": (
        lambda stage: stage.topic(CONTENT_PROVISIONED, cleanup_policy="compact"),
        f"{CONTENT_PROVISIONED}: .*compact",
    ),
    "an input topic has one partition": (
        lambda stage: stage.topic(CONTENT_PROVISIONED, partitions=1),
        f"{CONTENT_PROVISIONED}: it has 1 partitions, and ELS_KAFKA_TOPIC_PARTITIONS is 12",
    ),
    "data is kept for less long than records": (
        lambda _: {"ELS_EXPIRED_RETENTION_SECONDS": "60"},
        "ELS_EXPIRED_RETENTION_SECONDS",
    ),
    "no right to read an input topic": (
        lambda stage: no_rights(
            stage, f"Read --operation Describe --topic {CONTENT_PROVISIONED}", f"Read --topic {CONTENT_PROVISIONED}"
        ),
        f"lacks .* on topic {CONTENT_PROVISIONED}",
    ),
    "no right to join the group": (
        lambda stage: no_rights(stage, "--group essay-lifecycle-service"),
        "lacks .* on group essay-lifecycle-service",
    ),
    "a setting is misspelt": (
        lambda _: {"ELS_PENDING_TTL_SECOND": "60"},
        "ELS_PENDING_TTL_SECOND is no setting, and is ignored: ELS_PENDING_TTL_SECONDS may be meant",
    ),
    "a setting is malformed": (
        lambda _: {"ELS_DATABASE_POOLER": "pgbouncer"},
        "ELS_DATABASE_POOLER .*should be 'none', 'session' or 'transaction'",
    ),
}


def told(stage: Stage, settings: Settings) -> list[str]:
    """Returns what `check` complains about: its warnings, what is not good, or its error."""
    ended = stage.service("check", "--json", **(stage.settings | settings))
    if not ended.out:
        return ended.err.splitlines()
    rows: list[dict[str, Any]] = ended.json
    assert (ended.status == 0) == all(row["ok"] for row in rows)
    return [row["told"] for row in rows if not row["ok"] or row["told"].startswith("warning")]


def test_check_complains_about_nothing_where_there_is_no_mistake(stage: Stage) -> None:
    assert told(stage, {}) == []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_check_names_each_mistake_and_no_other(stage: Stage, mistake: str) -> None:
    make, named = MISTAKES[mistake]
    with ExitStack() as stack:
        made = make(stage)
        settings = stack.enter_context(made) if isinstance(made, AbstractContextManager) else made
        lines = told(stage, settings or {})
    assert lines
    assert all(re.search(named, line) for line in lines), lines
