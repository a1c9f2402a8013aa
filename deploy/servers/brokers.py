"""Gives tests and benchmarks a broker: Tansu, Apache Kafka, or the one that the environment names."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from deploy.local.tansu import Tansu
from deploy.servers import apache_kafka, docker, secure_postgres
from deploy.servers.apache_kafka import ApacheKafka, Security
from deploy.servers.ports import reserved_port
from service.kafka import connection
from service.kafka import topics as kafka

PARTITIONS = 3
"""The default number of partitions of a topic."""


class Server(Protocol):
    """The interface of a broker that we start ourselves."""

    bootstrap_servers: str

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def running(self) -> bool: ...


class Broker:
    """A broker: `name` is 'tansu', 'apache' or 'named' (by the environment)."""

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
        """Returns the settings with which the service uses this broker."""
        return {
            "ELS_KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "ELS_KAFKA_ENABLE_IDEMPOTENCE": str(self.idempotence).lower(),
        }

    def kill(self) -> None:
        """Ends it as a crash would. Not possible for a named broker."""
        self._own.kill()

    def start(self) -> None:
        """Starts it again on the same address, if it does not run."""
        if not self._own.running():
            self._own.start()

    async def reset_topics(self, partitions: int = PARTITIONS) -> None:
        """Deletes and creates all our topics; the offsets of groups are deleted with them."""
        await delete_topics(self.bootstrap_servers)
        await self.create_topics(partitions)

    async def create_topics(self, partitions: int = PARTITIONS) -> None:
        """Creates the topics that are missing."""
        options = connection.client_options(self.bootstrap_servers)
        await kafka.create_topics(options, partitions=partitions, replication=None)

    def segment(self, topic: str, partition: int) -> Path | None:
        """Returns the file with the first records of a partition, or None if it is not accessible."""
        if not isinstance(self._server, ApacheKafka):
            return None
        return self._server.home / "data" / f"{topic}-{partition}" / f"{0:020}.log"

    @property
    def _own(self) -> Server:
        assert self._server is not None, "a named broker cannot be started or stopped"
        return self._server


class OwnTansu(Tansu):
    """Tansu with the interface of Server."""

    def running(self) -> bool:
        return self.program.running()


@contextmanager
def tansu() -> Iterator[Broker]:
    """Starts an empty embedded broker, within some milliseconds."""
    with tempfile.TemporaryDirectory(prefix="els-test-") as home:
        server = OwnTansu(Path(home), reserved_port())
        try:
            server.start()
            yield Broker("tansu", server.bootstrap_servers, idempotence=False, server=server)
        finally:
            server.stop()


@contextmanager
def apache() -> Iterator[Broker]:
    """Starts Apache Kafka: in a container if there is a Docker engine, else with this machine's Java."""
    with tempfile.TemporaryDirectory(prefix="els-test-", ignore_cleanup_errors=True) as home:
        server = docker.ApacheKafkaContainer() if docker.answers() else ApacheKafka(Path(home))
        try:
            server.start()
            yield Broker("apache", server.bootstrap_servers, server=server)
        finally:
            server.stop()


@contextmanager
def secure_apache(security: Security) -> Iterator[Broker]:
    """Starts Apache Kafka with this machine's Java, with TLS listeners beside the plain one."""
    with tempfile.TemporaryDirectory(prefix="els-test-", ignore_cleanup_errors=True) as home:
        server = ApacheKafka(Path(home), security)
        try:
            server.start()
            yield Broker("apache", server.bootstrap_servers, server=server)
        finally:
            server.stop()


def apache_missing() -> str | None:
    """Returns a text that says why Apache Kafka cannot run here, or None."""
    return None if docker.answers() else apache_kafka.missing()


def secured_missing() -> str | None:
    """Returns a text that says why the TLS servers cannot run here, or None."""
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
    """Returns those of our topics that the broker has."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        return set(kafka.TOPICS) & set(await admin.list_topics())
    finally:
        await admin.close()


async def delete_topics(bootstrap_servers: str) -> None:
    """Deletes those of our topics that exist."""
    there = await topics_there(bootstrap_servers)
    if not there:
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        await admin.delete_topics(sorted(there))
    finally:
        await admin.close()
