"""Creates and checks the topics, with the configuration that this service needs."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaError,
    TopicAlreadyExistsError,
    for_code,
)

from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
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
from service.kafka.connection import REQUEST_MS, admin_client

_LARGE = {"max.message.bytes": str(LARGEST_RECORD)}
_OUTGOING = {"max.message.bytes": str(ORDINARY_RECORD)}

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
}
TOPICS: Final = {**INCOMING, **OUTGOING}
"""Every topic with the configuration that this service needs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A configuration of a topic that is not sufficient. `found` is None where the broker does not report it."""

    topic: str
    name: str
    wanted: str
    found: str | None


async def create_topics(
    options: Mapping[str, Any],
    *,
    partitions: int,
    replication: int,
    topics: Mapping[str, Mapping[str, str]] = TOPICS,
) -> tuple[list[str], list[Difference]]:
    """Create the missing topics. Returns their names, and the differences of the topics that existed before.

    Raises KafkaError where the broker is unavailable or rejects a topic, TimeoutError where a created topic does not
    become visible.
    """
    async with admin_client(options) as admin:
        wanted = [
            NewTopic(name, partitions, replication, topic_configs=dict(configs)) for name, configs in topics.items()
        ]
        response = await admin.create_topics(wanted)
        created = [name for name, code, *_ in response.topic_errors if _is_created(name, code)]
        await _await_topics(admin, topics)
        existing = {name: configs for name, configs in topics.items() if name not in created}
        return created, await _differences(admin, existing)


async def check_topics(
    options: Mapping[str, Any], topics: Mapping[str, Mapping[str, str]] = TOPICS
) -> tuple[list[str], list[Difference]]:
    """Return the names of the missing topics, and the differences of the others.

    Raises KafkaError where the broker is unavailable.
    """
    async with admin_client(options) as admin:
        present = set(await admin.list_topics())
        missing = [name for name in topics if name not in present]
        existing = {name: configs for name, configs in topics.items() if name in present}
        return missing, await _differences(admin, existing)


async def _await_topics(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> None:
    """Wait until the brokers list these topics: a created topic is not known to all brokers at once."""
    async with asyncio.timeout(REQUEST_MS / 1000):
        while not set(topics) <= set(await admin.list_topics()):  # noqa: ASYNC110  the brokers have no event to wait for
            await asyncio.sleep(0.05)


async def retentions(options: Mapping[str, Any], topics: Iterable[str] = INCOMING) -> dict[str, float]:
    """Return the retention of the topics in seconds, infinity where records are never deleted.

    Topics that are missing, or whose retention the broker does not report, are left out. Raises KafkaError where it is
    unavailable.
    """
    async with admin_client(options) as admin:
        present = set(await admin.list_topics())
        found = await _configurations(admin, [name for name in topics if name in present])
    reported = {name: configs.get("retention.ms") for name, configs in found.items()}
    return {name: _seconds(int(value)) for name, value in reported.items() if value}


def _seconds(milliseconds: int) -> float:
    return float("inf") if milliseconds < 0 else milliseconds / 1000


def _is_created(name: str, code: int) -> bool:
    error = for_code(code)
    if code == 0:
        return True
    if error is TopicAlreadyExistsError:
        return False
    raise KafkaError(f"topic {name} could not be created: {error.__name__}")


async def _differences(admin: AIOKafkaAdminClient, topics: Mapping[str, Mapping[str, str]]) -> list[Difference]:
    """Return the configurations of existing topics that are not sufficient."""
    wanted = {name: configs for name, configs in topics.items() if configs}
    if not wanted:
        return []
    found = await _configurations(admin, wanted)
    return [
        Difference(topic, name, value, found.get(topic, {}).get(name))
        for topic, configs in wanted.items()
        for name, value in configs.items()
        if not _suffices(value, found.get(topic, {}).get(name))
    ]


async def _configurations(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the configurations of existing topics."""
    found: dict[str, dict[str, str]] = {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    for response in await admin.describe_configs(resources):
        for _code, _message, _type, topic, entries in response.resources:
            found[topic] = {entry[0]: entry[1] for entry in entries}
    return found


def _suffices(wanted: str, found: str | None) -> bool:
    """Return whether a limit is as high as needed, or higher."""
    return found is not None and found.isdigit() and int(found) >= int(wanted)
