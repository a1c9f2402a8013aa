"""Runs servers in containers if there is a Docker engine. Their ports are chosen before they start."""

import shutil
import socket
import struct
from collections.abc import Mapping
from functools import cache

from testcontainers.core.container import DockerContainer

from deploy.local.processes import LOOPBACK, StackError, wait_until
from deploy.servers.apache_kafka import KAFKA_VERSION
from deploy.servers.ports import reserved_port

POSTGRES_IMAGE = "postgres:18.6"
KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"

API_VERSIONS_REQUEST = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""Kafka's ApiVersions request: length, key, version, correlation id, no client id."""


@cache
def answers() -> bool:
    """Returns whether there is a Docker engine. The result is cached."""
    if shutil.which("docker") is None:
        return False
    import docker  # noqa: PLC0415 - the import takes half a second

    try:
        return bool(docker.from_env(timeout=5).ping())
    except docker.errors.DockerException:
        return False


class Container:
    """One server in a container on a port of loopback, which is the same after `kill` and `start`."""

    def __init__(self, image: str, inside: int, port: int, env: Mapping[str, str], command: str = "") -> None:
        self._container = DockerContainer(image).with_envs(**env)
        # The Docker client takes an address with the port; testcontainers only passes it on.
        self._container.ports[inside] = (LOOPBACK, port)  # type: ignore[assignment, index]
        if command:
            self._container.with_command(command)
        self._made = False

    def start(self) -> None:
        """Creates the container, or starts it again with its data."""
        if self._made:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._made = True

    def kill(self) -> None:
        """Ends it as a crash would; the data is kept."""
        self._container.get_wrapped_container().kill()

    def running(self) -> bool:
        """Returns whether it runs."""
        if not self._made:
            return False
        found = self._container.get_wrapped_container()
        found.reload()
        return bool(found.status == "running")

    def remove(self) -> None:
        """Stops and removes it."""
        if self._made:
            self._container.stop()


class ApacheKafkaContainer:
    """Apache Kafka in a container."""

    def __init__(self) -> None:
        self.port = reserved_port()
        self.bootstrap_servers = f"{LOOPBACK}:{self.port}"
        env = {
            "KAFKA_NODE_ID": "1",
            "KAFKA_PROCESS_ROLES": "broker,controller",
            "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
            "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{self.bootstrap_servers}",
            "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
            "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
            "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
            "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
            "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
            "KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS": "500",
            "KAFKA_BROKER_SESSION_TIMEOUT_MS": "2000",
            "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "500",
        }
        self.container = Container(KAFKA_IMAGE, 9092, self.port, env)

    def start(self, seconds: float = 90) -> None:
        """Starts it (also after `kill`) and waits until it responds. Raises StackError if it does not."""
        self.container.start()
        if not wait_until(self._answers, seconds, every=0.2):
            raise StackError(f"Apache Kafka in a container did not answer within {seconds:g} s")

    def _answers(self) -> bool:
        """Returns whether a broker responds; Docker's proxy accepts connections before it listens."""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                connection.sendall(API_VERSIONS_REQUEST)
                return bool(connection.recv(1))
        except OSError:
            return False

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.container.kill()

    def running(self) -> bool:
        """Returns whether it runs."""
        return self.container.running()

    def stop(self) -> None:
        """Stops and removes it."""
        self.container.remove()


def postgres_url() -> tuple[Container, str]:
    """Starts a PostgreSQL for tests (fast, not durable). Returns it and its superuser's URL."""
    import psycopg  # noqa: PLC0415

    port = reserved_port()
    server = Container(
        POSTGRES_IMAGE,
        5432,
        port,
        {"POSTGRES_PASSWORD": "postgres"},
        "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=100",
    )
    server.start()
    url = f"postgresql://postgres:postgres@{LOOPBACK}:{port}/postgres"

    def reached() -> bool:
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    if not wait_until(reached, 60, every=0.1):
        server.remove()
        raise StackError("PostgreSQL in a container did not answer within a minute")
    return server, url
