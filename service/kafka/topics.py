"""The broker's side: client options, the topics with their limits, and the producer of the relay.

aiokafka is left alone where it does what we need; `Producer` holds the few places where it does not,
each with its reason, so that an upgrade has one file to look at.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
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
from service.kafka.connection import REQUEST_MS, CertificateError, admin_client, client_options
from service.kafka.producer import RECORD_BATCH, Producer

MEBIBYTE: Final = 1024 * 1024


_LARGE = {"max.message.bytes": str(LARGEST_RECORD)}
_OUTGOING = {"max.message.bytes": str(ORDINARY_RECORD)}

INCOMING: Final[Mapping[str, Mapping[str, str]]] = {
    BATCH_REGISTERED: _LARGE,
    CONTENT_PROVISIONED: {},
    VALIDATION_FAILED: {},
}
OUTGOING: Final[Mapping[str, Mapping[str, str]]] = {
    SLOT_ASSIGNED: _OUTGOING,
    BATCH_READY: _LARGE,
    EXCESS_CONTENT: _OUTGOING,
    VALIDATION_ERRORS: _LARGE,
    PENDING_EXPIRED: _OUTGOING,
    READINESS_TIMEOUT: _LARGE,
}
TOPICS: Final = {**INCOMING, **OUTGOING}
"""Every topic with the configuration that it needs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A topic whose configuration is not what it needs; `found` is None where it can't be told."""

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
    """Create what is missing. Returns the topics created, and where those that were there differ.

    Raises KafkaError where the broker is away or refuses, TimeoutError where it does not get to know them.
    """
    async with admin_client(options) as admin:
        wanted = [
            NewTopic(name, partitions, replication, topic_configs=dict(configs)) for name, configs in topics.items()
        ]
        response = await admin.create_topics(wanted)
        created = [name for name, code, *_ in response.topic_errors if _is_created(name, code)]
        await _seen(admin, topics)
        there = {name: configs for name, configs in topics.items() if name not in created}
        return created, await _differences(admin, there)


async def check_topics(
    options: Mapping[str, Any], topics: Mapping[str, Mapping[str, str]] = TOPICS
) -> tuple[list[str], list[Difference]]:
    """The topics that are missing, and where the others differ from what they need.

    Raises KafkaError where the broker is away.
    """
    async with admin_client(options) as admin:
        present = set(await admin.list_topics())
        missing = [name for name in topics if name not in present]
        there = {name: configs for name, configs in topics.items() if name in present}
        return missing, await _differences(admin, there)


async def _seen(admin: AIOKafkaAdminClient, topics: Iterable[str]) -> None:
    """Wait until the broker tells of these topics: one that was created is not at once known to all that answer."""
    async with asyncio.timeout(REQUEST_MS / 1000):
        while not set(topics) <= set(await admin.list_topics()):  # noqa: ASYNC110  it is the broker that is waited for
            await asyncio.sleep(0.05)


async def retentions(options: Mapping[str, Any], topics: Iterable[str] = INCOMING) -> dict[str, float]:
    """How many seconds each of the topics keeps its records, infinity where that is for ever.

    Those that are missing, or whose broker does not tell, are left out. Raises KafkaError where it is away.
    """
    async with admin_client(options) as admin:
        present = set(await admin.list_topics())
        found = await _configurations(admin, [name for name in topics if name in present])
    told = {name: configs.get("retention.ms") for name, configs in found.items()}
    return {name: _seconds(int(value)) for name, value in told.items() if value}


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
    """What the broker tells about topics that are there."""
    found: dict[str, dict[str, str]] = {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    for response in await admin.describe_configs(resources):
        for _code, _message, _type, topic, entries in response.resources:
            found[topic] = {entry[0]: entry[1] for entry in entries}
    return found


def _suffices(wanted: str, found: str | None) -> bool:
    """A limit may be higher than what we need."""
    return found is not None and found.isdigit() and int(found) >= int(wanted)


__all__: Sequence[str] = [
    "INCOMING",
    "OUTGOING",
    "RECORD_BATCH",
    "REQUEST_MS",
    "TOPICS",
    "CertificateError",
    "Difference",
    "Producer",
    "check_topics",
    "client_options",
    "create_topics",
]
