"""Runs Apache Kafka with this machine's Java: a broker and controller in one process, fetched through Maven.

Production runs this broker, so its behaviour decides. The test chooses the folder of the data, which survives `kill`
and `start`. `kafka_cluster` runs several of them as one cluster.
"""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.processes import (
    LOOPBACK,
    Program,
    StackError,
    plain_environment,
    port_answers,
    wait_until,
)
from deploy.servers.certificates import Certificate
from deploy.servers.maven import Jars
from deploy.servers.ports import reserved_port

KAFKA_VERSION = "4.4.0"
LOG4J_VERSION = "2.25.5"  # the one that this Kafka is built with

CLUSTER_ID = "4L6g3nShT-eMCtK--X86sw"  # any 16 bytes in base64

PROGRAMS = Jars(
    f"kafka-{KAFKA_VERSION}",
    [
        ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J_VERSION),
    ],
)

LOG4J = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c)%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""


def java() -> str | None:
    """Returns the path of a Java that can run Kafka (17 or newer), or None."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        return None
    said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', said)
    return found if version and int(version[1]) >= 17 else None


def missing() -> str | None:
    """Returns a text that says what this machine lacks for Apache Kafka, or None."""
    if java() is None:
        return "Java 17 or newer is missing"
    return PROGRAMS.missing()


@dataclass(frozen=True, slots=True)
class Security:
    """The TLS listeners of a broker, beside its plain one.

    One requires a password (SCRAM-SHA-512), the other a client certificate that `authority` has signed.
    """

    certificate: Certificate
    authority: Path
    username: str
    password: str
    password_port: int
    certificate_port: int

    def listeners(self) -> dict[str, str]:
        """Returns the listeners by name."""
        return {
            "PASSWORD": f"PASSWORD://localhost:{self.password_port}",
            "CERTIFICATE": f"CERTIFICATE://localhost:{self.certificate_port}",
        }

    def settings(self) -> dict[str, str]:
        """Returns the properties of the broker."""
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.password.scram-sha-512.sasl.jaas.config": login,
            "listener.name.certificate.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.certificate.both),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
            "ssl.enabled.protocols": "TLSv1.3",
        }


@dataclass(frozen=True, slots=True)
class Node:
    """The place of a broker in its cluster: its id, and the controller ports of all brokers by their ids."""

    id: int
    controllers: Mapping[int, int]

    @property
    def replicas(self) -> int:
        """The replicas of internal topics, and the default of others."""
        return min(3, len(self.controllers))

    def settings(self) -> dict[str, str]:
        """Returns the properties that name the broker and its cluster."""
        replicas, in_sync = str(self.replicas), str(max(1, self.replicas - 1))
        return {
            "process.roles": "broker,controller",
            "node.id": str(self.id),
            "controller.quorum.voters": ",".join(
                f"{number}@{LOOPBACK}:{port}" for number, port in self.controllers.items()
            ),
            "controller.listener.names": "CONTROLLER",
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": in_sync,
        }


@dataclass(frozen=True, slots=True)
class Login:
    """A listener with a password, and rights by ACLs: the user has those that are granted, everybody else has all."""

    username: str
    password: str
    port: int

    @property
    def listener(self) -> str:
        """Returns the listener with its address."""
        return f"LOGIN://{LOOPBACK}:{self.port}"

    def settings(self) -> dict[str, str]:
        """Returns the properties of the broker."""
        module = "org.apache.kafka.common.security.plain.PlainLoginModule"
        return {
            "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f'{module} required user_{self.username}="{self.password}";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }


class ApacheKafka:
    """One broker with its data under `home`. After a restart it has all records that it acknowledged."""

    idempotence = True
    heap = "1g"

    def __init__(
        self, home: Path, security: Security | None = None, *, node: Node | None = None, login: Login | None = None
    ) -> None:
        """Without `node`, it is a cluster of its own."""
        self.home = home
        self._security = security
        self._login = login
        self._node = node or Node(1, {1: reserved_port()})
        self.port = reserved_port()
        self.bootstrap_servers = f"{LOOPBACK}:{self.port}"
        self.program = Program("Apache Kafka", home / "kafka.json", home / "kafka.log")

    def start(self, seconds: float = 90) -> None:
        """Starts it and waits until it listens. Raises StackError if it does not."""
        properties = self.home / "server.properties"
        if not properties.exists():
            self._prepare(properties)
        self.program.start(self._java("kafka.Kafka", str(properties)), env=plain_environment(), cwd=self.home)
        settled = wait_until(lambda: port_answers(self.port) or not self.program.running(), seconds, 0.05)
        if not settled or not self.program.running():
            raise StackError(f"Apache Kafka did not start:\n{self.program.last_lines(40)}")

    def stop(self) -> bool:
        """Stops it with SIGTERM, and with SIGKILL after 30 s."""
        return self.program.stop((signal.SIGTERM, 30), (signal.SIGKILL, 10))

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        self.program.stop((signal.SIGKILL, 10))

    def running(self) -> bool:
        """Returns whether its process exists."""
        return self.program.running()

    def freeze(self) -> None:
        """Stops it from running (SIGSTOP), with its connections open, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it run again after `freeze`. Does nothing where it has ended."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if identity := self.program.identity():
            os.kill(identity.pid, number)

    def _prepare(self, properties: Path) -> None:
        (self.home / "log4j2.properties").write_text(LOG4J)
        draft = properties.with_suffix(".new")
        draft.write_text("".join(f"{name}={value}\n" for name, value in self._settings().items()))
        made = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(draft), *self._users()),
            env=plain_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise StackError(f"Kafka's storage could not be formatted: {made.stdout}{made.stderr}")
        draft.rename(properties)

    def _users(self) -> list[str]:
        if self._security is None:
            return []
        return ["--add-scram", f"SCRAM-SHA-512=[name={self._security.username},password={self._security.password}]"]

    def _settings(self) -> dict[str, str]:
        secure = self._security.listeners() if self._security else {}
        login = [self._login.listener] if self._login else []
        brokers = ",".join([f"PLAINTEXT://{self.bootstrap_servers}", *secure.values(), *login])
        controller = f"CONTROLLER://{LOOPBACK}:{self._node.controllers[self._node.id]}"
        return {
            **self._node.settings(),
            "listeners": f"{brokers},{controller}",
            "advertised.listeners": brokers,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
            ",PASSWORD:SASL_SSL,CERTIFICATE:SSL,LOGIN:SASL_PLAINTEXT",
            "log.dirs": str(self.home / "data"),
            # A missing topic is an error, as in production.
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            # A group starts with its first member, without a wait for more.
            "group.initial.rebalance.delay.ms": "0",
            # So small that a session can expire within a test.
            "group.min.session.timeout.ms": "500",
            # After a crash the broker can register again when its old session has expired.
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "2000",
            "log.segment.delete.delay.ms": "1000",
            **(self._security.settings() if self._security else {}),
            **(self._login.settings() if self._login else {}),
        }

    def _java(self, main: str, *arguments: str) -> list[str]:
        found = java()
        if found is None:
            raise StackError("Java 17 or newer is missing")
        return [
            found,
            f"-Xmx{self.heap}",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            f"-Dlog4j2.configurationFile={self.home / 'log4j2.properties'}",
            "-cp",
            f"{PROGRAMS.folder()}/*",
            main,
            *arguments,
        ]
