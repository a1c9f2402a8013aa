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
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    ProducerClosed,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition

from service.domain.incoming import (
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

MEBIBYTE: Final = 1024 * 1024
RECORD_BATCH: Final = 900_000
"""Bytes of one record batch of ours: below a topic's usual limit (1,048,588), so that only a record
that is too large by itself is ever refused."""

REQUEST_MS: Final = 10_000
ANSWER_MS: Final = 5_000
"""The same for a question that is small whatever happens."""
UPLOAD_MS: Final = 80_000
"""The same where the largest event goes out on a slow line; with what is smaller its sender has less patience."""

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


class CertificateError(Exception):
    """A file of `client_options` is not what it should be; `option` says which."""

    def __init__(self, option: str, why: str) -> None:
        super().__init__(why)
        self.option = option


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
    """What every client of ours is made with; the files are read now, and not again.

    Raises CertificateError where one is not what it should be.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": bootstrap_servers,
        "security_protocol": security_protocol,
    }
    if security_protocol.endswith("SSL"):
        options["ssl_context"] = _ssl_context(ssl_cafile, ssl_certfile, ssl_keyfile)
    if security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = sasl_mechanism
        options["sasl_plain_username"] = sasl_username
        options["sasl_plain_password"] = sasl_password
    return options


def _ssl_context(cafile: Path | None, certfile: Path | None, keyfile: Path | None) -> ssl.SSLContext:
    """Checks the broker's certificate and its name, whatever else."""
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise CertificateError("ssl_cafile", _plain(error)) from None
    if certfile is not None:
        try:
            # A passphrase is not asked for: nobody sits at a pod's terminal.
            context.load_cert_chain(certfile, keyfile, password="")
        except OSError as error:
            raise CertificateError("ssl_certfile", f"with its key, {_plain(error)}") from None
    return context


def _plain(error: OSError) -> str:
    """OpenSSL's words without its file and line."""
    if isinstance(error, ssl.SSLError):
        return f"it can't be read as PEM without a passphrase ({error.reason or 'no certificate in it'})"
    return f"it can't be read ({error.strerror})"


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
        self._options = options
        self._client = AIOKafkaAdminClient(**options, request_timeout_ms=REQUEST_MS)

    async def __aenter__(self) -> AIOKafkaAdminClient:
        try:
            await self._client.start()
        except BaseException as error:
            await self._client.close()
            if isinstance(error, KafkaConnectionError):
                raise await _cause(error, self._options) from None
            raise
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


_TELLING = (ssl.SSLError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)


async def _cause(said: KafkaConnectionError, options: Mapping[str, Any]) -> Exception:
    """Why no broker could be had: a client that starts keeps that for its log, so each is tried once more.

    What says something about the settings goes before a broker that is merely away.
    """
    rest = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    causes: list[Exception] = []
    for host, port, _ in collect_hosts(options["bootstrap_servers"]):
        try:
            connection = await create_conn(host, port, **rest, request_timeout_ms=REQUEST_MS)
        except (OSError, KafkaError) as error:
            # One that is ended later than its handshake tells why in what it was raised from.
            causes.append(error.__cause__ if isinstance(error.__cause__, OSError) else error)
        else:
            connection.close()
    telling = [cause for cause in causes if isinstance(cause, _TELLING)]
    return next(iter([*telling, *causes]), said)


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
            request_timeout_ms=UPLOAD_MS,
        )
        # What the broker says against a partition is told when it was tried for so long: before the patience of who
        # sends is over, which knows of silence only.
        self._message_accumulator._batch_ttl = ANSWER_MS / 1000  # noqa: SLF001  aiokafka takes the request's timeout
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
            async with asyncio.timeout(ANSWER_MS / 1000):
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
