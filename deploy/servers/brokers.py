"""The brokers that tests run on, behind one small interface."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.processes import free_port
from deploy.local.tansu import Tansu
from deploy.servers import apache_kafka, docker, secure_postgres
from deploy.servers.apache_kafka import ApacheKafka, Security
from service.kafka import connection
from service.kafka import topics as kafka

PARTITIONS = 3
"""Of each topic, where a test does not say."""


class Server(Protocol):
    """What a broker that we start can do."""

    bootstrap_servers: str

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def running(self) -> bool: ...


class Broker:
    """A broker under test: `name` is 'tansu', 'apache' or 'named' (by the environment)."""

    def __init__(
        self, name: str, bootstrap_servers: str, *, idempotence: bool = True, server: Server | None = None
    ) -> None:
        self.name = name
        self.bootstrap_servers = bootstrap_servers
        self.idempotence = idempotence
        self.keeps_records = name != "tansu"
        self._server = server

    @property
    def settings(self) -> dict[str, str]:
        """The environment that tells a service of it."""
        return {
            "ELS_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "ELS_KAFKA_ENABLE_IDEMPOTENCE": str(self.idempotence).lower(),
        }

    def kill(self) -> None:
        """End it as a crash would; a named server can't be."""
        self._own.kill()

    def start(self) -> None:
        """Start it again, on the same address, where it does not run."""
        if not self._own.running():
            self._own.start()

    async def reset_topics(self, partitions: int = PARTITIONS) -> None:
        """All our topics anew and empty, and with them the offsets that groups had there."""
        await delete_topics(self.bootstrap_servers)
        await self.create_topics(partitions)

    async def create_topics(self, partitions: int = PARTITIONS) -> None:
        """The topics that are missing."""
        options = connection.client_options(self.bootstrap_servers)
        await kafka.create_topics(options, partitions=partitions, replication=1)

    def segment(self, topic: str, partition: int) -> Path | None:
        """The file in which it keeps the first records of a partition; None where that is out of reach."""
        if not isinstance(self._server, OwnApacheKafka):
            return None
        return self._server.home / "data" / f"{topic}-{partition}" / f"{0:020}.log"

    @property
    def _own(self) -> Server:
        assert self._server is not None, "this broker is not ours to start and stop"
        return self._server


class OwnTansu(Tansu):
    """Tansu as a Server."""

    def running(self) -> bool:
        return self.program.running()


class OwnApacheKafka(ApacheKafka):
    """Apache Kafka as a Server."""

    def running(self) -> bool:
        return self.program.running()


@contextmanager
def tansu() -> Iterator[Broker]:
    """A fresh embedded broker: it starts within some milliseconds."""
    with tempfile.TemporaryDirectory(prefix="els-test-") as home:
        server = OwnTansu(Path(home), free_port())
        try:
            server.start()
            yield Broker("tansu", server.bootstrap_servers, idempotence=False, server=server)
        finally:
            server.stop()


@contextmanager
def apache() -> Iterator[Broker]:
    """Apache Kafka: in a container where a Docker engine answers, else by this machine's Java."""
    with tempfile.TemporaryDirectory(prefix="els-test-", ignore_cleanup_errors=True) as home:
        server = docker.ApacheKafkaContainer() if docker.answers() else OwnApacheKafka(Path(home))
        try:
            server.start()
            yield Broker("apache", server.bootstrap_servers, server=server)
        finally:
            server.stop()


@contextmanager
def secure_apache(security: Security) -> Iterator[Broker]:
    """Apache Kafka by this machine's Java, with listeners that want TLS beside the plain one."""
    with tempfile.TemporaryDirectory(prefix="els-test-", ignore_cleanup_errors=True) as home:
        server = OwnApacheKafka(Path(home), security)
        try:
            server.start()
            yield Broker("apache", server.bootstrap_servers, server=server)
        finally:
            server.stop()


def apache_missing() -> str | None:
    """Why tests can't run on Apache Kafka here, in words; None where they can."""
    return None if docker.answers() else apache_kafka.missing()


def secured_missing() -> str | None:
    """Why tests can't run over TLS here, in words; None where they can."""
    return apache_kafka.missing() or secure_postgres.PROGRAMS.missing()


async def committed_offsets(
    broker: Broker, group: str, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, int]:
    """Returns the offsets that the group has committed; partitions without one are missing."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    await admin.start()
    try:
        # Each partition is named: aiokafka cannot parse Tansu's answer for all partitions.
        offsets = await admin.list_consumer_group_offsets(group, partitions=list(partitions))
    finally:
        await admin.close()
    return {tp: known.offset for tp, known in offsets.items() if known.offset >= 0}


async def topics_there(bootstrap_servers: str) -> set[str]:
    """Those of our topics that the broker has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        return set(kafka.TOPICS) & set(await admin.list_topics())
    finally:
        await admin.close()


async def delete_topics(bootstrap_servers: str) -> None:
    """Delete our topics, those that are there."""
    there = await topics_there(bootstrap_servers)
    if not there:
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics(sorted(there))
    finally:
        await admin.close()
