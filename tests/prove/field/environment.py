"""Starts the environments in which the service is tested: brokers, databases, poolers, and two pods in each."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal
from uuid import uuid4

import psycopg
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from deploy.local.postgres import OUTSIDE, Postgres
from deploy.local.processes import LOOPBACK, StackError, plain_environment
from deploy.servers import apache_kafka, databases, kafka_tools, moved_clock, pgbouncer
from deploy.servers.apache_kafka import ApacheKafka, Login
from deploy.servers.kafka_cluster import KafkaCluster
from deploy.servers.moved_clock import MovedPostgres
from deploy.servers.pgbouncer import PgBouncer
from deploy.servers.pods import ROOT, Pods, pods
from deploy.servers.ports import reserved_port
from deploy.servers.postgres_versions import OLDEST_SUPPORTED, OldestSupportedPostgres
from deploy.servers.standby import NAME, Standby, standby_of
from service.postgres import migration
from tests.prove.field.topics import COMPLETED, INPUTS, OUTPUTS, QUIET
from tests.support.servers.proxy import Proxy

PARTITIONS: Final = 3
PODS: Final = 2
PURGE_SECONDS: Final = 5
"""Time between two purge rounds where the clock can be moved: each compares the clocks."""
USER: Final = "els"
PASSWORD: Final = "field"
"""Of the service, at the brokers and at the databases."""
GROUP: Final = "field"
"""Begins the names of the consumer groups."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What an environment consists of."""

    brokers: Literal[1, 3] = 1
    postgres: Literal[17, 18] = 18
    standby: Literal["async", "sync"] | None = None
    pooler: Literal["session", "transaction"] | None = None
    pods: int = PODS
    sessions: int = 100
    """`max_connections` of the database."""
    movable_clock: bool = False
    """Whether the clock of the database can be moved."""

    def __str__(self) -> str:
        parts = [f"{self.brokers} broker{'s' * (self.brokers > 1)}", f"PostgreSQL {self.postgres}"]
        parts += [f"{self.standby} standby"] * bool(self.standby) + [f"PgBouncer, {self.pooler}"] * bool(self.pooler)
        parts += [f"{self.pods} pods, {self.sessions} sessions"] * (self.pods != PODS)
        parts += ["movable clock"] * self.movable_clock
        return ", ".join(parts)


def missing(kind: Kind = Kind()) -> str | None:
    """Returns a text that says what this machine lacks for an environment of this kind, or None."""
    return (
        apache_kafka.missing()
        or kafka_tools.missing()
        or (OLDEST_SUPPORTED.missing() if kind.postgres == 17 else None)
        or (pgbouncer.missing() if kind.pooler else None)
        or (moved_clock.missing() if kind.movable_clock else None)
    )


class Kafka:
    """The brokers of an environment, whether one or three, with an admin client and the login of the pods."""

    def __init__(self, server: ApacheKafka | KafkaCluster, login_servers: str, replication: int) -> None:
        self.server = server
        self.servers = server.bootstrap_servers
        self.replication = replication
        self.settings = {
            "ELS_KAFKA_BOOTSTRAP_SERVERS": login_servers,
            "ELS_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "ELS_KAFKA_SASL_MECHANISM": "PLAIN",
            "ELS_KAFKA_SASL_USERNAME": USER,
            "ELS_KAFKA_SASL_PASSWORD": PASSWORD,
        }

    @property
    def admin(self) -> AdminClient:
        """Returns a new client: an old one may still ask a broker that has gone."""
        return AdminClient({"bootstrap.servers": self.servers, **QUIET})

    @property
    def cluster(self) -> KafkaCluster:
        assert isinstance(self.server, KafkaCluster)
        return self.server

    def create_topics(self) -> None:
        """Creates the topics that are missing, with the command that users have."""
        els("topics", "create", ELS_KAFKA_BOOTSTRAP_SERVERS=self.servers,
            ELS_KAFKA_TOPIC_PARTITIONS=str(PARTITIONS),
            ELS_DATABASE_URL="postgresql://unused/unused")  # fmt: skip

    def delete_topics(self, *names: str) -> None:
        """Deletes these topics, without a name all of ours, and waits until they are gone."""
        admin = self.admin
        wanted = set(names or (*INPUTS, *OUTPUTS)) & set(admin.list_topics(timeout=20).topics)
        for deleted in admin.delete_topics(sorted(wanted)).values() if wanted else ():
            deleted.result()
        while wanted & set(admin.list_topics(timeout=20).topics):
            pass

    def grant(self) -> None:
        """Gives the service the rights that docs/security.md lists."""
        read, write = (AclOperation.READ, AclOperation.DESCRIBE), (AclOperation.WRITE,)
        prefixed = ResourcePatternType.PREFIXED
        rights = [acl(ResourceType.TOPIC, name, operation) for name in INPUTS for operation in read]
        rights += [acl(ResourceType.TOPIC, "huleedu.els.", each, prefixed) for each in (*read, *write)]
        rights += [acl(ResourceType.TOPIC, COMPLETED, operation) for operation in (*read, *write)]
        rights += [acl(ResourceType.GROUP, GROUP, operation, prefixed) for operation in read]
        admin = self.admin  # kept until it has answered
        for granted in admin.create_acls(rights).values():
            granted.result()


def acl(
    kind: ResourceType,
    name: str,
    operation: AclOperation,
    pattern: ResourcePatternType = ResourcePatternType.LITERAL,
    permission: AclPermissionType = AclPermissionType.ALLOW,
) -> AclBinding:
    """Returns a right of the service."""
    return AclBinding(kind, name, pattern, f"User:{USER}", "*", operation, permission)


def els(*arguments: str, **settings: str) -> str:
    """Runs a command of the service. Returns its output. Raises StackError if it fails."""
    done = tried(*arguments, **settings)
    if done.returncode:
        raise StackError(f"els {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def complaints(*arguments: str, **settings: str) -> list[str]:
    """Runs a command of the service. Returns what it complains about: of `check`, the rows that are not good."""
    if arguments[0] != "check":
        done = tried(*arguments, **settings)
        return done.stderr.splitlines() if done.returncode else []
    done = tried(*arguments, "--json", **settings)
    if not done.stdout:
        return done.stderr.splitlines()
    return [f"{row['check']}: {row['told']}" for row in json.loads(done.stdout) if not row["ok"]]


def tried(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the service to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env={**plain_environment(), "PYTHONPATH": str(ROOT), **settings},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@dataclass
class Environment:
    """Servers and pods. `postgres` is the one that the service should use; a failover replaces it."""

    kind: Kind
    kafka: Kafka
    postgres: Postgres
    database: Proxy
    """Pods reach the database through it, as through a name that may point elsewhere."""
    pods: Pods
    settings: dict[str, str]
    standby: Standby | None = None
    bouncer: PgBouncer | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def url(self) -> str:
        """Returns the URL of the database for a superuser, without pooler and proxy."""
        return self.postgres.url()

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement as superuser, without pooler and proxy. Returns its rows, if it has any."""
        with psycopg.connect(self.url(), autocommit=True) as conn:
            cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def fail_over(self) -> None:
        """Ends the primary as a crash would, promotes the standby, and points the name to it."""
        assert self.standby is not None
        self.postgres.kill()
        self.standby.promote()
        self.postgres = self.standby
        self.point_to(self.standby)

    def point_to(self, server: Postgres) -> None:
        """Points the name of the database to this server; open connections stay where they are."""
        self.database.point_to(server.port)


@contextmanager
def brokers(count: int) -> Iterator[Kafka]:
    """Starts one broker or three, with the login of the pods."""
    with TemporaryDirectory(prefix="els-test-", ignore_cleanup_errors=True) as home:
        if count == 1:
            port = reserved_port()
            single = ApacheKafka(Path(home), login=Login(USER, PASSWORD, port))
            kafka = Kafka(single, f"{LOOPBACK}:{port}", 1)
        else:
            several = KafkaCluster(Path(home), username=USER, password=PASSWORD)
            kafka = Kafka(several, several.login_servers, 3)
        try:
            kafka.server.start()
            kafka.grant()
            yield kafka
        finally:
            kafka.server.stop()


def _server(kind: Kind) -> type[Postgres]:
    version = OldestSupportedPostgres if kind.postgres == 17 else MovedPostgres if kind.movable_clock else Postgres

    class Server(version):  # type: ignore[valid-type,misc]
        def options(self, programs: Path) -> list[str]:
            return [*super().options(programs), "-c", f"max_connections={kind.sessions}"]

    return Server


@asynccontextmanager
async def environment(kind: Kind, kafka: Kafka) -> AsyncIterator[Environment]:
    """Starts databases and pods of this kind, with new topics."""
    async with AsyncExitStack() as stack:
        await asyncio.to_thread(kafka.delete_topics)
        await asyncio.to_thread(kafka.create_topics)
        postgres = stack.enter_context(databases.embedded_server(durable=True, kind=_server(kind)))
        migration.upgrade(postgres.url())
        with psycopg.connect(postgres.url(), autocommit=True) as conn:
            conn.execute(f"alter role els_app password '{PASSWORD}'".encode())
        standby: Standby | None = None
        bouncer: PgBouncer | None = None
        if kind.standby:
            standby = stack.enter_context(standby_of(postgres))
        if kind.pooler:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="els-bouncer-", dir=OUTSIDE)))
            bouncer = PgBouncer(folder, postgres.port, kind.pooler, els_app=PASSWORD)
            bouncer.start()
            stack.callback(bouncer.stop)
        database = await Proxy(bouncer.port if bouncer else postgres.port).start()
        stack.push_async_callback(database.stop)
        settings = {
            **kafka.settings,
            "ELS_DATABASE_URL": f"postgresql://els_app:{PASSWORD}@{LOOPBACK}:{database.port}/postgres",
            "ELS_CONSUMER_GROUP": f"{GROUP}-{uuid4().hex[:6]}",
        }
        if kind.movable_clock:
            settings["ELS_PURGE_INTERVAL_SECONDS"] = str(PURGE_SECONDS)
        if bouncer:
            settings["ELS_DATABASE_POOLER"] = str(kind.pooler)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="els-field-", ignore_cleanup_errors=True)))
        running = stack.enter_context(pods(folder, settings))
        world = Environment(kind, kafka, postgres, database, running, settings, standby, bouncer)
        if kind.standby == "sync":
            world.sql(f"alter system set synchronous_standby_names = '{NAME}'")
            world.sql("select pg_reload_conf()")
        running.start(kind.pods)
        await running.ready()
        yield world
