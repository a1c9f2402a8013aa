"""Grants and revokes rights on a cluster of brokers, as a user who may do everything."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.errors import UnknownTopicOrPartitionError
from aiokafka.protocol.admin import (
    CreateAclsRequest,
    DeleteAclsRequest,
    DescribeAclsRequest,
    DescribeConfigsRequest,
)

from deploy.servers.brokers import Broker, delete_topics
from deploy.servers.kafka_cluster import KafkaCluster
from service.kafka import connection
from service.kafka.cluster import Operation
from service.kafka.requests import DescribeTopics
from service.kafka.topics import TOPICS

USER, PASSWORD = "els", "hush"

_RESOURCES = {"--topic": 2, "--group": 3, "--cluster": 4}
_ANY, _ALLOW, _LITERAL = 1, 3, 3


class GuardedCluster:
    """Three brokers. Clients of the plain listener may do everything, the user `els` what is granted."""

    def __init__(self, cluster: KafkaCluster) -> None:
        self.cluster = cluster
        self.broker = Broker("apache", cluster.bootstrap_servers, server=cluster)
        self.options = connection.client_options(cluster.bootstrap_servers)
        self.login = connection.client_options(
            cluster.login_servers,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="PLAIN",
            sasl_username=USER,
            sasl_password=PASSWORD,
        )
        self.settings = {
            "ELS_KAFKA_BOOTSTRAP_SERVERS": cluster.login_servers,
            "ELS_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "ELS_KAFKA_SASL_MECHANISM": "PLAIN",
            "ELS_KAFKA_SASL_USERNAME": USER,
            "ELS_KAFKA_SASL_PASSWORD": PASSWORD,
        }

    async def reset(self) -> None:
        """Starts the brokers that do not run, revokes all rights, and deletes our topics."""
        self.cluster.start()
        await self._admin(DeleteAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY))
        await self._until_granted(0)
        await delete_topics(self.cluster.bootstrap_servers)
        for number in self.cluster.nodes:  # one that lags would know the old topics, and then forget the new ones
            while not all(code for code, *_ in (await self._admin(DescribeTopics([*TOPICS]), number)).topics):
                pass

    async def grant(self, *commands: str) -> None:
        """Does what these commands of `kafka-acls.sh` would do."""
        for command in commands:
            words = shlex.split(command)
            assert words[0] == "kafka-acls.sh"
            assert words[5:8] == ["--add", "--allow-principal", f"User:{USER}"]
            allowed = [Operation[_constant(words[at + 1])] for at, word in enumerate(words) if word == "--operation"]
            kind = next(word for word in words if word in _RESOURCES)
            name = "kafka-cluster" if kind == "--cluster" else words[words.index(kind) + 1]
            for operation in allowed:
                await self.allow(_RESOURCES[kind], name, operation)

    async def allow(self, kind: int, name: str, operation: Operation) -> None:
        """Grants one right to the user, on all brokers."""
        before = await self._granted()
        await self._admin(CreateAclsRequest(kind, name, _LITERAL, f"User:{USER}", "*", operation, _ALLOW))
        await self._until_granted(max(before) + 1)

    async def all_know(self, *topics: str) -> None:
        """Waits until every broker that runs knows these topics: each learns of them by itself."""
        await self._until_all(lambda code: not code, topics)

    async def all_lack(self, *topics: str) -> None:
        """Waits until no broker that runs knows one of these topics any more."""
        await self._until_all(lambda code: code == UnknownTopicOrPartitionError.errno, topics)

    async def _until_all(self, answer: Callable[[int], bool], topics: Sequence[str]) -> None:
        for number, node in self.cluster.nodes.items():
            while node.running() and not all(
                answer(code) for code, *_ in (await self._admin(DescribeTopics([*topics]), number)).topics
            ):
                pass

    async def all_have(self, topic: str, configs: Mapping[str, str]) -> None:
        """Waits until every broker reports these properties of a topic."""
        await self.all_know(topic)
        admin = AIOKafkaAdminClient(**self.options)
        await admin.start()
        try:
            for number in self.cluster.nodes:
                while not await _has(admin, topic, configs, number):
                    pass
        finally:
            await admin.close()

    async def _until_granted(self, count: int) -> None:
        """Waits until every broker knows that there are so many rights."""
        while set(await self._granted()) != {count}:
            pass

    async def _granted(self) -> list[int]:
        request = DescribeAclsRequest(_ANY, None, _ANY, None, None, _ANY, _ANY)
        return [
            sum(len(acls) for *_, acls in (await self._admin(request, node)).resources) for node in self.cluster.nodes
        ]

    async def _admin(self, request: Any, node: int | None = None) -> Any:
        admin = AIOKafkaAdminClient(**self.options)
        await admin.start()
        try:
            return await admin._send_request(request, node)
        finally:
            await admin.close()


async def _has(admin: AIOKafkaAdminClient, topic: str, configs: Mapping[str, str], node: int) -> bool:
    resource = (ConfigResourceType.TOPIC, topic, None)
    answer = await admin._send_request(DescribeConfigsRequest([resource], False), node)
    found = {name: value for *_, entries in answer.resources for name, value, *_ in entries}
    return configs.items() <= found.items()


def _constant(label: str) -> str:
    """`DescribeConfigs` as `DESCRIBE_CONFIGS`."""
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in label).lstrip("_").upper()
