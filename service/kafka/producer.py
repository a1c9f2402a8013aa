"""The producer of the relay."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    ProducerClosed,
)
from aiokafka.partitioner import murmur2
from aiokafka.structs import TopicPartition

from service.domain.topics import (
    LARGEST_RECORD,
)
from service.kafka.connection import REQUEST_MS

RECORD_BATCH: Final = 900_000
"""Bytes of one record batch of ours: below a topic's usual limit (1,048,588), so that only a record
that is too large by itself is ever rejected."""

ANSWER_MS: Final = 5_000
"""The same for a question that is small whatever happens."""

UPLOAD_MS: Final = 80_000
"""The same where the largest event goes out on a slow line; with what is smaller its sender has less patience."""


@lru_cache(maxsize=20_000)
def _hash(key: bytes) -> int:
    """The default partitioner's hash of a key; it is pure Python, and a batch has many rows."""
    return int(murmur2(key)) & 0x7FFFFFFF


class Producer(AIOKafkaProducer):  # type: ignore[misc]  # aiokafka's classes have no types
    """A producer of explicit record batches that can always be closed, and waits for no one topic.

    One that failed may be spent: with idempotence, a batch that was rejected leaves a gap in the
    sequence of its partition, and aiokafka never closes it, so all that follows is rejected too.
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
