"""Brings existing topics in line with what this service needs. Reduces nothing, and adds no partitions."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    NoError,
    TopicAuthorizationFailedError,
    for_code,
)
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest

from service.kafka.cluster import ClusterState, Operation, PartitionState, ask, read_cluster
from service.kafka.connection import REQUEST_MS, admin_client
from service.kafka.requests import SetTopicConfigs
from service.kafka.rights import MissingRight, NotAllowed
from service.kafka.topics import MIN_IN_SYNC, REPLICATION, TOPICS, Difference, differences
from service.runtime.errors import one_line

COPY_SECONDS: Final = 60.0
"""How long to wait until new replicas are in sync. The brokers go on copying after that."""

PROPAGATION_SECONDS: Final = 5.0
"""How long to wait until every broker reports what was altered: they learn of it one after the other."""

COPYING: Final = "the brokers copy the new replicas: run it again later"
WAITING: Final = "too few replicas are in sync: run it again later"


class Alteration(NamedTuple):
    """A property that was too small. `error` says why it still is; None where it is altered, or would be."""

    difference: Difference
    error: str | None = None


class Altered(NamedTuple):
    """What was altered, and the state of the topics afterwards."""

    alterations: Sequence[Alteration]
    cluster: ClusterState


async def alter_topics(
    options: Mapping[str, Any],
    *,
    replication: int | None,
    dry_run: bool = False,
    topics: Mapping[str, Mapping[str, str]] = TOPICS,
    wait: float = COPY_SECONDS,
) -> Altered:
    """Raise the properties of existing topics that are too small. Leaves their other configurations alone.

    `replication` None stands for what the brokers can support. Properties that the broker does not report are left out.
    Waits at most `wait` seconds for new replicas. Raises KafkaError where the broker is unavailable.
    """
    async with admin_client(options) as admin:
        cluster = await read_cluster(admin, topics)
        wanted = [each for each in differences(cluster, topics, replication) if each.found is not None]
        if dry_run or not wanted:
            return Altered([Alteration(each) for each in wanted], cluster)
        errors = await _raise_replication(admin, options, cluster, wanted)
        errors |= await _await_replicas(admin, wanted, errors, wait)
        errors |= await _raise_configs(admin, options, await read_cluster(admin, topics), wanted)
        deadline = time.monotonic() + PROPAGATION_SECONDS
        while True:
            cluster = await read_cluster(admin, topics)
            left = {(each.topic, each.name) for each in differences(cluster, topics, replication)}
            unchanged = [each for each in wanted if each not in errors and (each.topic, each.name) in left]
            if not unchanged or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
    errors |= dict.fromkeys(unchanged, "the brokers left it unchanged")
    return Altered([Alteration(each, errors.get(each)) for each in wanted], cluster)


async def _raise_replication(
    admin: AIOKafkaAdminClient, options: Mapping[str, Any], cluster: ClusterState, wanted: Sequence[Difference]
) -> dict[Difference, str]:
    """Have the brokers add replicas, which takes them some time. Returns the errors."""
    raised = {each.topic: each for each in wanted if each.name == REPLICATION}
    plan = {topic: dict(place_replicas(cluster, topic, int(each.wanted))) for topic, each in raised.items()}
    try:
        rejected = await _reassign(admin, options, plan) if plan else {}
    except NotAllowed as error:
        return dict.fromkeys(raised.values(), str(error))
    except KafkaError as error:
        return dict.fromkeys(raised.values(), one_line(error))
    return {raised[topic]: why for topic, why in rejected.items()}


async def _await_replicas(
    admin: AIOKafkaAdminClient, wanted: Sequence[Difference], errors: Mapping[Difference, str], wait: float
) -> dict[Difference, str]:
    """Wait until the replicas that are wanted are in sync. Returns an error for each topic that has too few by then."""
    rejected = {each.topic for each in errors}
    waiting = [each for each in wanted if each.name in (REPLICATION, MIN_IN_SYNC) and each.topic not in rejected]
    deadline = time.monotonic() + wait
    while waiting:
        topics = (await read_cluster(admin, {each.topic for each in waiting})).topics
        waiting = [each for each in waiting if each.topic in topics and topics[each.topic].in_sync < int(each.wanted)]
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.2 if waiting else 0)
    return dict.fromkeys(waiting, COPYING)


def place_replicas(cluster: ClusterState, topic: str, replication: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the partitions of a topic that have too few replicas, each with the brokers that shall have one.

    Existing replicas stay, and the preferred leader stays the first. New ones go to racks that have none, then to the
    brokers that have the fewest replicas of this topic. There are at most as many as available brokers.
    """
    partitions: Sequence[PartitionState] = cluster.topics[topic].partitions
    load = Counter(broker for each in partitions for broker in each.replicas)
    for partition in partitions:
        replicas = list(partition.replicas)
        while len(replicas) < replication and (free := set(cluster.brokers) - set(replicas)):
            racks = {cluster.brokers.get(broker) for broker in replicas} - {None}
            chosen = min(free, key=lambda broker: (cluster.brokers[broker] in racks, load[broker], broker))
            load[chosen] += 1
            replicas.append(chosen)
        if len(replicas) > len(partition.replicas):
            yield partition.number, replicas


async def _reassign(
    admin: AIOKafkaAdminClient, options: Mapping[str, Any], plan: Mapping[str, Mapping[int, Sequence[int]]]
) -> dict[str, str]:
    """Start the reassignment of partitions. Returns why topics were rejected. Raises KafkaError."""
    topics: list[Any] = [
        (topic, [(partition, list(replicas), {}) for partition, replicas in partitions.items()], {})
        for topic, partitions in plan.items()
        if partitions
    ]
    request = AlterPartitionReassignmentsRequest(REQUEST_MS, topics, {})
    answer = await admin._send_to_controller(request)  # noqa: SLF001  aiokafka has no other way
    error = for_code(answer.error_code)
    if error is ClusterAuthorizationFailedError:
        raise NotAllowed(MissingRight("cluster", "", (Operation.ALTER,)), options)
    if error is not NoError:
        raise error(answer.error_message or "")
    rejected = {topic: "too few brokers are available" for topic, partitions in plan.items() if not partitions}
    for topic, partitions, _ in answer.responses:
        for number, code, message, _ in partitions:
            if code:
                rejected[topic] = f"partition {number}: {for_code(code).__name__}: {message or ''}".rstrip(": ")
    return rejected


def is_too_early(cluster: ClusterState, difference: Difference) -> bool:
    """Return whether a topic would take no records after this: its `min.insync.replicas` would exceed those in sync."""
    state = cluster.topics.get(difference.topic)
    return difference.name == MIN_IN_SYNC and (state is None or state.in_sync < int(difference.wanted))


async def _raise_configs(
    admin: AIOKafkaAdminClient, options: Mapping[str, Any], cluster: ClusterState, wanted: Sequence[Difference]
) -> dict[Difference, str]:
    """Raise configurations. Returns the errors."""
    errors: dict[Difference, str] = {}
    raised: dict[str, list[Difference]] = {}
    for each in wanted:
        if is_too_early(cluster, each):
            errors[each] = WAITING
        elif each.name != REPLICATION:
            raised.setdefault(each.topic, []).append(each)
    if not raised:
        return errors
    values = {topic: {each.name: each.wanted for each in some} for topic, some in raised.items()}
    answer = await ask(admin, SetTopicConfigs(values))
    for code, message, _, topic in answer.responses:
        if code:
            errors |= dict.fromkeys(raised[topic], _rejection(options, topic, code, message))
    return errors


def _rejection(options: Mapping[str, Any], topic: str, code: int, message: str | None) -> str:
    error = for_code(code)
    if error is TopicAuthorizationFailedError:
        return str(NotAllowed(MissingRight("topic", topic, (Operation.ALTER_CONFIGS,)), options))
    return f"{error.__name__}: {message or ''}".rstrip(": ")
