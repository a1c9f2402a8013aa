"""The broker's side: client options, the topics with their limits, and the producer of the relay.

aiokafka is left alone where it does what we need; `Producer` holds the few places where it does not,
each with its reason, so that an upgrade has one file to look at.
"""

import asyncio
import ssl
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    ProducerClosed,
    TopicAlreadyExistsError,
    for_code,
)
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition

from service.events import (
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)

MEBIBYTE: Final = 1024 * 1024
LARGEST_RECORD: Final = 32 * MEBIBYTE
"""What a registration's topics, and those that list its slots, take in one record, in bytes."""

RECORD_BATCH: Final = 900_000
"""Bytes of one record batch of ours: below a topic's usual limit (1,048,588), so that only a record
that is too large by itself is ever refused."""

REQUEST_MS: Final = 10_000

_LARGE = {"max.message.bytes": str(LARGEST_RECORD)}
# An event built from an input of 1 MiB always fits.
_OUTGOING = {"max.message.bytes": str(2 * MEBIBYTE)}

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


def client_options(
    bootstrap_servers: str,
    *,
    security_protocol: str = "PLAINTEXT",
    sasl_mechanism: str | None = None,
    sasl_username: str | None = None,
    sasl_password: str | None = None,
    ssl_cafile: Path | None = None,
    ssl_certfile: Path | None = None,
    ssl_keyfile: Path | None = None,
) -> dict[str, Any]:
    """What every client of ours is made with. Raises OSError or ssl.SSLError for unreadable files."""
    options: dict[str, Any] = {
        "bootstrap_servers": bootstrap_servers,
        "security_protocol": security_protocol,
    }
    if security_protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=ssl_cafile)
        if ssl_certfile is not None:
            context.load_cert_chain(ssl_certfile, ssl_keyfile)
        options["ssl_context"] = context
    if security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = sasl_mechanism
        options["sasl_plain_username"] = sasl_username
        options["sasl_plain_password"] = sasl_password
    return options


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
    async with _admin(options) as admin:
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
    async with _admin(options) as admin:
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
    async with _admin(options) as admin:
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


class _admin:  # noqa: N801  used as a function
    """An admin client that is closed whatever happens."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._client = AIOKafkaAdminClient(**options, request_timeout_ms=REQUEST_MS)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        try:
            await self._client.start()
        except BaseException:
            await self._client.close()
            raise
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


@lru_cache(maxsize=20_000)
def _hash(key: bytes) -> int:
    """The default partitioner's hash of a key; it is pure Python, and a batch has many rows."""
    return int(murmur2(key)) & 0x7FFFFFFF


class Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka's classes have no types
    """A producer of explicit record batches that can always be closed, and waits for no one topic.

    One that failed may be spent: with idempotence, a batch that was refused leaves a gap in the
    sequence of its partition, and aiokafka never closes it, so all that follows is refused too.
    """

    def __init__(self, options: Mapping[str, Any], *, idempotent: bool) -> None:
        super().__init__(
            **options,
            acks="all",
            enable_idempotence=idempotent,
            linger_ms=0,
            max_batch_size=RECORD_BATCH,
            max_request_size=LARGEST_RECORD,
            request_timeout_ms=REQUEST_MS,
        )
        self.idempotent = idempotent
        self._named: set[str] = set()
        self._looked_for: dict[str, float] = {}

    async def start(self) -> None:
        """Connect. Raises KafkaError or TimeoutError, and is closed then."""
        try:
            async with asyncio.timeout(2 * REQUEST_MS / 1000):
                await super().start()
        except BaseException:
            await self.abandon()
            raise

    async def find(self, topics: Iterable[str]) -> None:
        """Have the metadata of these topics, as far as they exist. Raises KafkaError, TimeoutError.

        A topic that is not found is not asked for again for some seconds, so that it holds up nobody.
        Each is asked for by name once, also where the metadata has it: a client that starts knows all
        topics, and forgets all but those that were named as soon as one is. A broker that creates topics
        by itself does so now, without the limits that ours need: production brokers should not.
        """
        now = time.monotonic()
        for _ in range(3):
            unknown = [topic for topic in topics if self._is_unknown(topic, now)]
            if not unknown:
                return
            async with asyncio.timeout(REQUEST_MS / 1000):
                for topic in unknown:
                    self.client.add_topic(topic)
                    self._named.add(topic)
                if not await self.client.force_metadata_update():
                    raise KafkaConnectionError("no broker answers for metadata")
            if any(self._is_unknown(topic, now) for topic in unknown):
                await asyncio.sleep(0.1)
        for topic in topics:
            if self._is_unknown(topic, now):
                self._looked_for[topic] = now + 5

    def _is_unknown(self, topic: str, now: float) -> bool:
        known = self.client.cluster.available_partitions_for_topic(topic)
        return topic not in self._named or (not known and self._looked_for.get(topic, 0) <= now)

    def partition(self, topic: str, key: bytes) -> int | None:
        """Where a key belongs, by the rule of the default partitioner; None for an unknown topic."""
        partitions = self.client.cluster.partitions_for_topic(topic)
        return _hash(key) % len(partitions) if partitions else None

    def has_leader(self, topic: str, partition: int) -> bool:
        """Whether the partition can be written to, as far as is known."""
        return self.client.cluster.leader_for_partition(TopicPartition(topic, partition)) not in (None, -1)

    async def close(self, seconds: float) -> None:
        """Send what is waiting, for so long at most."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop()
        except (TimeoutError, asyncio.CancelledError) as ended:
            await self.abandon()
            if isinstance(ended, asyncio.CancelledError):
                raise

    async def abandon(self) -> None:
        """Close at once, whatever is on its way.

        `stop` waits until all is sent, and an idempotent producer tries for ever: with the broker away
        it never returns, and its sender would go on in the background.
        """
        self._closed = True
        sender = self._sender.sender_task
        while sender is not None and not sender.done():
            sender.cancel()  # the first ends the loop, the others the requests that it waits for
            await asyncio.wait({sender}, timeout=0.1)
        self._message_accumulator.fail_all(ProducerClosed())
        await self.client.close()


__all__: Sequence[str] = [
    "INCOMING",
    "LARGEST_RECORD",
    "OUTGOING",
    "RECORD_BATCH",
    "REQUEST_MS",
    "TOPICS",
    "Difference",
    "Producer",
    "check_topics",
    "client_options",
    "create_topics",
]
