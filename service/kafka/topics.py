"""Creates the topics, and compares them with what this service needs."""

import asyncio
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    LARGEST_RECORD,
    ORDINARY_RECORD,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.kafka.cluster import ClusterState, Operation, TopicState, read_cluster
from service.kafka.connection import REQUEST_MS, admin_client
from service.kafka.rights import MissingRight, NotAllowed

MESSAGE_BYTES: Final = "max.message.bytes"
MIN_IN_SYNC: Final = "min.insync.replicas"
REPLICATION: Final = "replication factor"
"""A property of a topic that is no configuration, but compared like one."""

MOST_REPLICAS: Final = 3
"""Replicas of a topic where as many brokers are available: one may fail while another is maintained."""

_LARGE = {MESSAGE_BYTES: str(LARGEST_RECORD)}
_OUTGOING = {MESSAGE_BYTES: str(ORDINARY_RECORD)}

INCOMING: Final[Mapping[str, Mapping[str, str]]] = {
    BATCH_REGISTERED: _LARGE,
    CONTENT_PROVISIONED: {},
    VALIDATION_FAILED: {},
    ASSOCIATIONS_CONFIRMED: _LARGE,
}
OUTGOING: Final[Mapping[str, Mapping[str, str]]] = {
    SLOT_ASSIGNED: _OUTGOING,
    BATCH_COMPLETED: _LARGE,
    BATCH_READY: _LARGE,
    EXCESS_CONTENT: _OUTGOING,
    VALIDATION_ERRORS: _LARGE,
    PENDING_EXPIRED: _OUTGOING,
    READINESS_TIMEOUT: _LARGE,
    BATCH_CANCELLED: _OUTGOING,
}
TOPICS: Final = {**INCOMING, **OUTGOING}
"""Every topic with the configuration that this service needs, whatever the brokers."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A property of a topic that is too small. `found` is None where the broker does not report it."""

    topic: str
    name: str
    wanted: str
    found: str | None


class Fault(NamedTuple):
    """Something about a topic that raising a property does not cure. Not an error if it only may become one."""

    topic: str
    message: str
    is_error: bool = True


async def create_topics(
    options: Mapping[str, Any],
    *,
    partitions: int,
    replication: int | None,
    topics: Mapping[str, Mapping[str, str]] = TOPICS,
) -> tuple[list[str], list[Difference]]:
    """Create the missing topics. Returns their names, and the differences of the topics that existed before.

    `replication` None stands for what the brokers can support, at most three. Raises KafkaError where the broker is
    unavailable or rejects a topic, TimeoutError where a created topic does not become visible.
    """
    async with admin_client(options) as admin:
        before = await read_cluster(admin, topics)
        replicas = replication or supported_replication(before)
        wanted = [
            NewTopic(name, partitions, replicas, topic_configs={**configs, MIN_IN_SYNC: str(min_in_sync(replicas))})
            for name, configs in topics.items()
        ]
        errors = (await admin.create_topics(wanted)).topic_errors
        created = [
            name for name, code, *rest in errors if _is_created(options, name, code, *rest[:1], before=before.topics)
        ]
        cluster = await _await_topics(admin, topics)
        existing = {name: configs for name, configs in topics.items() if name not in created}
        return created, differences(cluster, existing, replication)


async def reach(options: Mapping[str, Any]) -> None:
    """Connect to the brokers. Raises KafkaError or OSError where none answers."""
    async with admin_client(options) as admin:
        await admin.list_topics()


async def read_topics(options: Mapping[str, Any], topics: Iterable[str] = TOPICS) -> ClusterState:
    """Read the state of these topics. Raises KafkaError where the broker is unavailable."""
    async with admin_client(options) as admin:
        return await read_cluster(admin, topics)


async def _await_topics(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> ClusterState:
    """Wait until a broker reports these topics: a created topic is not known to all brokers at once."""
    async with asyncio.timeout(REQUEST_MS / 1000):
        while (cluster := await read_cluster(admin, topics)).missing:  # noqa: ASYNC110  the brokers have no event
            await asyncio.sleep(0.05)
    return cluster


def _is_created(
    options: Mapping[str, Any], name: str, code: int, message: str | None = None, *, before: Container[str]
) -> bool:
    error = for_code(code)
    if code == 0:
        return True
    # A user who may not create topics is not told that one is there already.
    if error is TopicAlreadyExistsError or (error is TopicAuthorizationFailedError and name in before):
        return False
    if error is TopicAuthorizationFailedError:
        raise NotAllowed(MissingRight("topic", name, (Operation.CREATE,)), options)
    raise KafkaError(f"topic {name} could not be created: {error.__name__}: {message or ''}".rstrip(": "))


def supported_replication(cluster: ClusterState) -> int:
    """Return the number of replicas that the available brokers can support, at most three."""
    return max(1, min(MOST_REPLICAS, len(cluster.brokers)))


def min_in_sync(replication: int) -> int:
    """Return the replicas that must have a record before it is acknowledged.

    Two where there are three or more. With two replicas it is one: otherwise a topic would take no records while any
    broker is down.
    """
    return 2 if replication >= MOST_REPLICAS else 1


def differences(
    cluster: ClusterState, topics: Mapping[str, Mapping[str, str]] = TOPICS, replication: int | None = None
) -> list[Difference]:
    """Return the properties of existing topics that are too small.

    `replication` None stands for what the brokers can support.
    """
    needed = replication or supported_replication(cluster)
    return [
        difference
        for topic, configs in topics.items()
        if topic in cluster.topics
        for difference in _differences(topic, cluster.topics[topic], configs, needed)
    ]


def _differences(topic: str, state: TopicState, configs: Mapping[str, str], replication: int) -> Iterator[Difference]:
    if state.replication < replication:
        yield Difference(topic, REPLICATION, str(replication), str(state.replication))
    if state.configs is None:
        return
    wanted = {**configs, MIN_IN_SYNC: str(min_in_sync(max(replication, state.replication)))}
    for name, value in wanted.items():
        found = state.number(name)
        if found is None and name == MIN_IN_SYNC and value == "1":
            continue  # any value is sufficient
        if found is None or found < int(value):
            yield Difference(topic, name, value, None if found is None else str(found))


def faults(cluster: ClusterState, topics: Sequence[str] = tuple(TOPICS)) -> list[Fault]:
    """Return what else is wrong with existing topics, their partitions and replicas."""
    found = [fault for name in topics if name in cluster.topics for fault in _faults(name, cluster.topics[name])]
    counts = {name: len(cluster.topics[name].partitions) for name in OUTGOING if name in cluster.topics}
    if len(set(counts.values())) > 1:
        most = max(counts.values())
        fewer = {name: count for name, count in counts.items() if count < most}
        found += [
            Fault(
                name,
                f"it has {count} partitions and other output topics have {most}: readers that join topics by partition "
                "(Kafka Streams) need equal numbers",
                is_error=False,
            )
            for name, count in fewer.items()
        ]
    return found


ALTER: Final = "kafka-configs.sh --bootstrap-server BROKER --command-config admin.properties --alter"


def _faults(name: str, state: TopicState) -> Iterator[Fault]:
    policy = (state.configs or {}).get("cleanup.policy") or ""
    if "compact" in policy:
        yield Fault(
            name,
            f"cleanup.policy is {policy}: Kafka deletes all but the last record of each batch. Change it: "
            f"{ALTER} --topic {name} --add-config cleanup.policy=delete",
        )
    if leaderless := [each.number for each in state.partitions if each.leader < 0]:
        yield Fault(name, f"partition {leaderless[0]} has no leader: the brokers that have its replicas are down")
    needed, replicas = state.number(MIN_IN_SYNC) or 1, state.replication
    if needed > replicas:
        yield Fault(
            name,
            f"{MIN_IN_SYNC} is {needed} and it has {replicas} replicas: it takes no records. Raise the {REPLICATION}, "
            f"or {ALTER} --topic {name} --add-config {MIN_IN_SYNC}={min_in_sync(replicas)}",
        )
    elif state.in_sync < needed:
        yield Fault(name, f"missing replicas: {_in_sync(state)}, and it needs {needed}: it takes no records")
    elif state.in_sync < replicas:
        yield Fault(name, f"missing replicas: {_in_sync(state)}; is a broker down?", is_error=False)
    elif needed == replicas > 1:
        yield Fault(
            name, f"{MIN_IN_SYNC} is {needed} of {replicas} replicas: it takes no records while a broker is down", False
        )


def _in_sync(state: TopicState) -> str:
    worst = min(state.partitions, key=lambda each: len(each.in_sync))
    return f"{len(worst.in_sync)} of {len(worst.replicas)} replicas of partition {worst.number} are in sync"


def retentions(cluster: ClusterState, topics: Iterable[str] = INCOMING) -> dict[str, float]:
    """Return the retention of the topics in seconds, infinity where records are never deleted.

    Topics that are missing, or whose retention the broker does not report, are left out.
    """
    reported = {name: cluster.topics[name].number("retention.ms") for name in topics if name in cluster.topics}
    return {name: _seconds(value) for name, value in reported.items() if value is not None}


def _seconds(milliseconds: int) -> float:
    return float("inf") if milliseconds < 0 else milliseconds / 1000
