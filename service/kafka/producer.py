"""Extends aiokafka's producer for the relay."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    ProducerClosed,
)
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import TopicPartition

from service.domain.topics import (
    LARGEST_RECORD,
)
from service.kafka.compressed import compressed_batch
from service.kafka.connection import REQUEST_MS
from service.kafka.responses import Responses

RECORD_BATCH: Final = 900_000
"""Bytes of a record batch that the relay sends: below a topic's default limit (1,048,588), so that a broker rejects
only a record that is too large by itself."""

ANSWER_MS: Final = 5_000
"""Milliseconds to wait for the answer to a small request."""

METADATA_MS: Final = 5_000
"""How often the brokers are asked which topics and partitions there are. By default aiokafka does so every 300 s."""

UPLOAD_MS: Final = 80_000
"""Milliseconds to wait for the answer to a produce request: enough for the largest event on a slow connection. The
relay itself waits for less long where it sends less."""


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of a key by the rule of the default partitioner."""
    return _hash(key) % partitions


@lru_cache(maxsize=20_000)
def _hash(key: bytes) -> int:
    """Return the default partitioner's hash of a key. Cached, since it is pure Python, and a batch has many rows."""
    return int(murmur2(key)) & 0x7FFFFFFF


class Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka's classes have no types
    """A producer of explicit record batches that can always be closed, and does not wait for a missing topic.

    After an error it may have to be replaced: with idempotence, a record batch that was rejected leaves a gap in the
    sequence numbers of its partition that aiokafka never closes, so that the broker rejects all that follow.
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
            metadata_max_age_ms=METADATA_MS,
        )
        # A partition's error is raised after it was tried for this long: earlier than the timeout of the sender, which
        # would only know that there was no answer.
        self._message_accumulator._batch_ttl = ANSWER_MS / 1000  # noqa: SLF001  aiokafka takes the request's timeout
        self.idempotent = idempotent
        self._responses = Responses(self.client, "relay")
        self._named: set[str] = set()
        self._retry_after: dict[str, float] = {}

    async def start(self) -> None:
        """Connect. Raises KafkaError or TimeoutError after closing the producer."""
        try:
            async with asyncio.timeout(2 * REQUEST_MS / 1000):
                await super().start()
        except BaseException:
            await self.abandon()
            raise

    async def find(self, topics: Iterable[str]) -> None:
        """Fetch the metadata of these topics, as far as they exist. Raises KafkaError, TimeoutError.

        A topic that is not found is not requested again for some seconds, so that it does not delay the others. Each
        topic is requested by name once, even if its metadata is known: a client that starts knows all topics, and
        forgets all but the named ones as soon as one is named. A broker that creates topics automatically does so now,
        without the limits that the topics of this service need: production brokers should not.
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
                    raise KafkaConnectionError("no broker answers a request for metadata")
            if any(self._is_unknown(topic, now) for topic in unknown):
                await asyncio.sleep(0.1)
        for topic in topics:
            if self._is_unknown(topic, now):
                self._retry_after[topic] = now + 5

    def _is_unknown(self, topic: str, now: float) -> bool:
        known = self.client.cluster.available_partitions_for_topic(topic)
        return topic not in self._named or (not known and self._retry_after.get(topic, 0) <= now)

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has, 0 for an unknown topic."""
        return len(self.client.cluster.partitions_for_topic(topic) or ())

    def has_leader(self, topic: str, partition: int) -> bool:
        """Return whether the partition has a leader, as far as the metadata says."""
        return self.client.cluster.leader_for_partition(TopicPartition(topic, partition)) not in (None, -1)

    @property
    def throttled(self) -> str | None:
        """Say that a broker delays this producer for long because of a quota; None where none does."""
        return self._responses.quota

    @property
    def throttled_until(self) -> float:
        """The monotonic time up to which a broker delays this producer because of a quota."""
        return self._responses.throttled_until

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        """Send a record batch. Returns a future of its acknowledgement."""
        self._responses.forget(TopicPartition(topic, partition))
        return await super().send_batch(batch, topic, partition=partition)

    async def create_compressed(self, key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> BatchBuilder:
        """Return a record batch of one record that its topic takes only compressed."""
        return await compressed_batch(key, value, headers)

    def why_unanswered(self, topic: str, partition: int) -> Exception:
        """Return why records of a partition are not acknowledged, as far as the broker has told it."""
        rejection = self._responses.rejection(TopicPartition(topic, partition))
        return rejection or TimeoutError(self._responses.quota or "the broker does not acknowledge the records")

    async def abandon(self) -> None:
        """Close at once, without waiting for records that are being sent.

        aiokafka's `stop` waits until everything is sent, and an idempotent producer retries for ever: while the broker
        is unavailable `stop` never returns, and its sender task would go on in the background.
        """
        self._closed = True
        sender = self._sender.sender_task
        while sender is not None and not sender.done():
            sender.cancel()  # the first cancellation ends its loop, the next ones the requests that it waits for
            await asyncio.wait({sender}, timeout=0.1)
        self._message_accumulator.fail_all(ProducerClosed())
        await self.client.close()
