"""Finds the rights (ACLs) that this client lacks, without using them."""

import asyncio
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    NoError,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.admin import ApiVersionRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from service.domain.topics import INCOMING_TOPICS, OUTGOING_TOPICS
from service.kafka.cluster import ClusterState, Operation, ask, operations
from service.kafka.connection import REQUEST_MS
from service.kafka.requests import DescribeGroups

_READS: Final = (Operation.READ, Operation.DESCRIBE)
NEEDED_ON_TOPICS: Final[Mapping[str, Sequence[Operation]]] = {
    **dict.fromkeys(INCOMING_TOPICS, _READS),
    # Recovery and audit read what was published.
    **dict.fromkeys(OUTGOING_TOPICS, (Operation.WRITE, *_READS)),
}
NEEDED_ON_GROUPS: Final = _READS

_DESCRIBE_CLUSTER: Final = 60
"""The number of a request that brokers know since Kafka 2.8, and since then Write on any topic is sufficient for an
idempotent producer."""

_TRANSIENT: Final = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    NodeNotReadyError,
    KafkaConnectionError,
)


class MissingRight(NamedTuple):
    """Operations that this client may not use on a resource."""

    kind: Literal["topic", "group", "cluster"]
    name: str
    operations: Sequence[Operation]

    def __str__(self) -> str:
        """Name the operations and the resource, for example `Read, Describe on topic T`."""
        resource = "the cluster" if self.kind == "cluster" else f"{self.kind} {self.name}"
        return f"{', '.join(each.label for each in self.operations)} on {resource}"

    def command(self, options: Mapping[str, Any]) -> str:
        """Return the command of Kafka's own tool that grants them to the user of these client options."""
        resource = ["--cluster"] if self.kind == "cluster" else [f"--{self.kind}", self.name]
        granted = [part for each in self.operations for part in ("--operation", each.label)]
        words = ["--add", "--allow-principal", f"User:{_user(options)[1]}", *granted, *resource]
        tool = ["kafka-acls.sh", "--bootstrap-server", options["bootstrap_servers"]]
        return shlex.join([*tool, "--command-config", "admin.properties", *words])


class NotAllowed(KafkaError):  # type: ignore[misc]  # aiokafka's classes have no types
    """This client lacks a right. The message names it and the command that grants it.

    `option` names the parameter of `client_options` that decides who the client is.
    """

    def __init__(self, right: MissingRight, options: Mapping[str, Any]) -> None:
        self.option, user = _user(options)
        super().__init__(f"user {user} lacks {right}: {right.command(options)}")

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[0])


def _user(options: Mapping[str, Any]) -> tuple[str, str]:
    """Return the option that decides who the client is, and the name of its principal."""
    if user := options.get("sasl_plain_username"):
        return "sasl_username", str(user)
    if options["security_protocol"] == "SSL":
        return "ssl_certfile", "SUBJECT-OF-THE-CERTIFICATE"
    return "security_protocol", "ANONYMOUS"


def missing_on_topics(cluster: ClusterState) -> list[MissingRight]:
    """Return the rights that this client lacks on topics. What the broker does not report is not missing."""
    return [
        right
        for topic, wanted in NEEDED_ON_TOPICS.items()
        if (right := _missing("topic", topic, wanted, _allowed(cluster, topic))) is not None
    ]


def _allowed(cluster: ClusterState, topic: str) -> frozenset[Operation] | None:
    return frozenset() if topic in cluster.hidden else cluster.topic_rights.get(topic)


def _missing(
    kind: Literal["topic", "group"], name: str, wanted: Sequence[Operation], allowed: frozenset[Operation] | None
) -> MissingRight | None:
    lacking = () if allowed is None else tuple(each for each in wanted if each not in allowed)
    return MissingRight(kind, name, lacking) if lacking else None


async def missing_on_groups(admin: AIOKafkaAdminClient, groups: Iterable[str]) -> list[MissingRight]:
    """Return the rights that this client lacks on consumer groups, which need not exist.

    Raises KafkaError, also where a group has no coordinator for some seconds.
    """
    found = [_missing("group", group, NEEDED_ON_GROUPS, await _allowed_on_group(admin, group)) for group in groups]
    return [right for right in found if right is not None]


async def _allowed_on_group(admin: AIOKafkaAdminClient, group: str) -> frozenset[Operation] | None:
    try:
        async with asyncio.timeout(REQUEST_MS / 1000):
            while True:
                try:
                    return await _operations_on_group(admin, group)
                except GroupAuthorizationFailedError:
                    return frozenset()
                except _TRANSIENT:  # a new cluster first creates the topic of the offsets
                    await asyncio.sleep(0.1)
    except TimeoutError:
        raise GroupCoordinatorNotAvailableError(group) from None


async def _operations_on_group(admin: AIOKafkaAdminClient, group: str) -> frozenset[Operation] | None:
    found = await ask(admin, FindCoordinatorRequest(group, 0))
    if (error := for_code(found.error_code)) is not NoError:
        raise error(group)
    ((code, *_, authorized),) = (await ask(admin, DescribeGroups([group]), found.coordinator_id)).groups
    if (error := for_code(code)) is not NoError:
        raise error(group)
    return operations(authorized)


async def missing_on_cluster(
    admin: AIOKafkaAdminClient, cluster: ClusterState, *, idempotent: bool
) -> list[MissingRight]:
    """Return the right on the cluster that an idempotent producer lacks: brokers before 2.8 need one.

    Raises KafkaError.
    """
    # None are reported to a user without Describe on the cluster, whatever its rights are.
    if not idempotent or not cluster.rights or Operation.IDEMPOTENT_WRITE in cluster.rights:
        return []
    answer = await ask(admin, ApiVersionRequest())
    return (
        [] if grants_idempotence(answer.api_versions) else [MissingRight("cluster", "", (Operation.IDEMPOTENT_WRITE,))]
    )


def grants_idempotence(api_versions: Iterable[tuple[int, int, int]]) -> bool:
    """Return whether brokers with these requests let whoever may write to a topic use an idempotent producer."""
    return any(key == _DESCRIBE_CLUSTER for key, *_ in api_versions)
