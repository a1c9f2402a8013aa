"""Reads what the brokers report about themselves, about topics, and about what this client may do with them."""

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResourceType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import DescribeConfigsRequest

from service.kafka.requests import DescribeTopics

_NOT_REPORTED: Final = -(2**31)


class Operation(IntEnum):
    """An operation that an ACL allows. The value is its number in Kafka's protocol."""

    READ = 3
    WRITE = 4
    CREATE = 5
    ALTER = 7
    DESCRIBE = 8
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12

    @property
    def label(self) -> str:
        """The name that Kafka's tools use, for example `DescribeConfigs`."""
        return self.name.title().replace("_", "")


@dataclass(frozen=True, slots=True)
class PartitionState:
    """A partition, with the ids of the brokers that have a replica, a replica in sync, and that lead it."""

    number: int
    replicas: Sequence[int]
    in_sync: Sequence[int]
    leader: int = 0
    """-1 where there is none."""


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic that exists. `configs` is None where this client may not read them."""

    partitions: Sequence[PartitionState]
    configs: Mapping[str, str] | None

    @property
    def replication(self) -> int:
        """The replicas of the partition that has the fewest."""
        return min(len(each.replicas) for each in self.partitions)

    @property
    def in_sync(self) -> int:
        """The replicas in sync of the partition that has the fewest."""
        return min(len(each.in_sync) for each in self.partitions)

    def number(self, config: str) -> int | None:
        """Return a configuration that is a number; None where the broker does not report it."""
        value = (self.configs or {}).get(config)
        return int(value) if value is not None and value.lstrip("-").isdecimal() else None


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What the brokers report. Rights are None where they do not report them (the embedded broker does not)."""

    brokers: Mapping[int, str | None]
    """The rack of each broker that is available."""
    topics: Mapping[str, TopicState]
    missing: Sequence[str]
    hidden: Sequence[str]
    """Topics that this client may not describe, whether they exist or not."""
    rights: frozenset[Operation] | None
    """What this client may do with the cluster."""
    topic_rights: Mapping[str, frozenset[Operation] | None]


async def read_cluster(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> ClusterState:
    """Read the state of the cluster and of these topics. Raises KafkaError."""
    names = list(topics)
    answer = await ask(admin, DescribeTopics(names))
    found: dict[str, list[PartitionState]] = {}
    missing, hidden, rights = [], [], {}
    for code, name, _, partitions, authorized in answer.topics:
        error = for_code(code)
        rights[name] = operations(authorized)
        if error in (NoError, LeaderNotAvailableError) and partitions:
            found[name] = [
                PartitionState(number, replicas, in_sync, leader)
                for _, number, leader, _, replicas, in_sync, _ in sorted(partitions, key=lambda each: int(each[1]))
            ]
        elif error is TopicAuthorizationFailedError:
            hidden.append(name)
        elif error in (UnknownTopicOrPartitionError, LeaderNotAvailableError):
            missing.append(name)
        else:
            raise error(name)
    configs = await _configs(admin, found)
    return ClusterState(
        brokers={node: rack for node, _, _, rack in answer.brokers},
        topics={name: TopicState(partitions, configs[name]) for name, partitions in found.items()},
        missing=missing,
        hidden=hidden,
        rights=operations(answer.authorized_operations),
        topic_rights=rights,
    )


async def ask(admin: AIOKafkaAdminClient, request: Any, node: int | None = None) -> Any:
    """Send a request to this broker, or to any: one that has just gone is still listed. Raises KafkaError."""
    known = [broker.nodeId for broker in admin._client.cluster.brokers()]  # noqa: SLF001  aiokafka has no other way
    *others, last = [node] if node is not None else random.sample(known, len(known))
    try:
        for other in others:
            with suppress(NodeNotReadyError, KafkaConnectionError):
                return await admin._send_request(request, other)  # noqa: SLF001
        return await admin._send_request(request, last)  # noqa: SLF001
    except NotImplementedError:  # aiokafka's word for a version that the broker does not know
        raise IncompatibleBrokerVersion(f"{type(request).__name__} needs Kafka 2.4 or newer") from None


def operations(bits: int) -> frozenset[Operation] | None:
    """Return the operations of a bit field; None where the broker does not report them."""
    return None if bits == _NOT_REPORTED else frozenset(each for each in Operation if bits >> each & 1)


async def _configs(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, Mapping[str, str] | None]:
    """Return the configurations of existing topics."""
    resources = [(ConfigResourceType.TOPIC, name, None) for name in topics]
    if not resources:
        return {}
    answer = await ask(admin, DescribeConfigsRequest(resources, False))
    found: dict[str, Mapping[str, str] | None] = {}
    for code, _message, _type, topic, entries in answer.resources:
        unreadable = for_code(code) is TopicAuthorizationFailedError
        found[topic] = None if unreadable else {entry[0]: entry[1] for entry in entries}
    return {name: found.get(name, {}) for _, name, _ in resources}
