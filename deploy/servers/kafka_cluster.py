"""Runs a cluster of three brokers of Apache Kafka, each a controller, too; each can be stopped, killed and frozen."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.local.processes import LOOPBACK, StackError, wait_until
from deploy.servers.apache_kafka import ApacheKafka, Login, Node
from deploy.servers.ports import reserved_port

BROKERS = 3


class ClusterNode(ApacheKafka):
    """One broker of the cluster. Three of them share this machine, so the heap of each is small."""

    heap = "384m"

    def __init__(self, home: Path, node: Node, login: Login | None) -> None:
        super().__init__(home, node=node, login=login)
        self.id = node.id
        self.login_port = login.port if login else None

    def leader(self) -> tuple[int, int]:
        """Returns the epoch of the quorum that the broker last noted, and the id of its leader (-1: none)."""
        try:
            noted = json.loads((self.home / "data" / "__cluster_metadata-0" / "quorum-state").read_text())
        except (OSError, ValueError):  # it is being written
            return -1, -1
        return noted["leaderEpoch"], noted["leaderId"]


class KafkaCluster:
    """Brokers by their ids, with their data under `home`; internal topics have a replica on each."""

    idempotence = True

    def __init__(self, home: Path, *, username: str | None = None, password: str = "") -> None:
        """With a user name, each broker has a listener with that login, too (`login_servers`)."""
        controllers = {number: reserved_port() for number in range(1, BROKERS + 1)}
        self.nodes: dict[int, ClusterNode] = {}
        for number in controllers:
            (folder := home / str(number)).mkdir()
            login = Login(username, password, reserved_port()) if username else None
            self.nodes[number] = ClusterNode(folder, Node(number, controllers), login)
        self.bootstrap_servers = ",".join(node.bootstrap_servers for node in self.nodes.values())
        self.login_servers = ",".join(f"{LOOPBACK}:{node.login_port}" for node in self.nodes.values())

    def start(self) -> None:
        """Starts the brokers that do not run, all at once: none can serve without a quorum. Raises StackError."""
        waiting = [node for node in self.nodes.values() if not node.running()]
        with ThreadPoolExecutor(BROKERS) as threads:
            for started in [threads.submit(node.start) for node in waiting]:
                started.result()

    def stop(self) -> None:
        """Stops all at once, frozen ones, too."""
        with ThreadPoolExecutor(BROKERS) as threads:
            for node in self.nodes.values():
                node.thaw()
            for stopped in [threads.submit(node.stop) for node in self.nodes.values()]:
                stopped.result()

    def kill(self) -> None:
        """Ends all as a crash would."""
        for node in self.nodes.values():
            node.kill()

    def running(self) -> bool:
        """Returns whether all run."""
        return all(node.running() for node in self.nodes.values())

    def controller(self, seconds: float = 30) -> ClusterNode:
        """Returns the broker that leads the quorum of controllers. Raises StackError if there is none in time."""
        found: list[ClusterNode] = []

        def known() -> bool:
            _, leader = max(node.leader() for node in self.nodes.values())
            if leader in self.nodes and self.nodes[leader].running():
                found.append(self.nodes[leader])
            return bool(found)

        if not wait_until(known, seconds, 0.1):
            raise StackError("the brokers have no controller")
        return found[-1]


@contextmanager
def kafka_cluster(*, username: str | None = None, password: str = "") -> Iterator[KafkaCluster]:
    """Starts a cluster in a temporary folder, and stops it at the end."""
    with TemporaryDirectory(prefix="els-test-", ignore_cleanup_errors=True) as home:
        cluster = KafkaCluster(Path(home), username=username, password=password)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
