"""Keeps the producer of one relay worker: creates it when it is needed, and replaces it after a failure."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import cast

from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder

from service.kafka.errors import absence
from service.kafka.producer import Producer
from service.runtime.loop import cancelled

ACK_SECONDS, SLOWEST_BYTES_PER_SECOND = 6.0, 500_000
"""Time to wait for an acknowledgement: a base in seconds, plus the time for the bytes in flight at the slowest speed.
Without a limit, an idempotent producer waits for ever."""


class ProducerLine:
    """Owns the producer of one relay worker.

    A producer that failed is closed as soon as nobody waits for its acknowledgements: it would go on sending what
    failed, beside its successor, which sends the same.
    """

    def __init__(self, producers: Callable[[], Producer]) -> None:
        self._producers = producers
        self._producer: Producer | None = None
        self._starting = asyncio.Lock()
        self._in_flight = 0
        self._sends: Counter[Producer] = Counter()
        self._closing: dict[Producer, asyncio.Task[None]] = {}

    @property
    def throttled(self) -> str | None:
        """Say that a broker delays the producer for long because of a quota; None where none does."""
        return self._producer.throttled if self._producer else None

    async def producer(self) -> Producer:
        """Returns a connected producer. Raises KafkaError or TimeoutError."""
        async with self._starting:
            if self._producer is None:
                producer = self._producers()
                await producer.start()
                self._producer = producer
            return self._producer

    async def producer_for(self, topics: Iterable[str]) -> Producer:
        """Returns a producer with metadata of these topics, as far as they exist.

        Raises KafkaError or TimeoutError; the producer is then replaced.
        """
        producer = await self.producer()
        try:
            await producer.find(topics)
        except (errors.KafkaError, TimeoutError) as error:
            # Its connection may be dead without an error: it would wait there for ever.
            if producer.idempotent or not isinstance(error, errors.BrokerResponseError):
                self._replace(producer)
            raise
        return producer

    async def send(self, records: BatchBuilder, topic: str, partition: int) -> Exception | None:
        """Send a record batch. Returns None once acknowledged, else the error; the broker may have stored it anyway."""
        try:
            producer = await self.producer()
        except (errors.KafkaError, TimeoutError) as unreachable:
            return cast("Exception", unreachable)
        self._in_flight += (size := records.size())
        self._sends[producer] += 1
        try:
            await asyncio.sleep(0)  # lets the other sends of the wave add to the bytes in flight
            if await self._is_acknowledged(producer, records, topic, partition):
                return None
            self._replace(producer)
            error = producer.why_unanswered(topic, partition)
        except (errors.KafkaError, TimeoutError, AssertionError) as failed:
            error = failed
            # One that is not idempotent can be kept if the broker did respond.
            if producer.idempotent or not isinstance(error, errors.BrokerResponseError):
                self._replace(producer)
        finally:
            self._in_flight -= size
            self._sends[producer] -= 1
            self._close_unused(producer)
        return error if producer.partitions(topic) else absence(producer.client.cluster, topic)

    async def _is_acknowledged(self, producer: Producer, records: BatchBuilder, topic: str, partition: int) -> bool:
        """Send a record batch. Returns False where there was no answer in time.

        Time during which a broker delays the producer because of a quota does not count. Raises KafkaError.
        """

        async def send() -> None:
            await (await producer.send_batch(records, topic, partition=partition))

        begun_at, sending = time.monotonic(), asyncio.create_task(send())
        try:
            while not sending.done():
                since = max(begun_at, producer.throttled_until)
                left = since + ACK_SECONDS + self._in_flight / SLOWEST_BYTES_PER_SECOND - time.monotonic()
                if left <= 0:
                    return False
                await asyncio.wait([sending], timeout=left)
        finally:
            if not sending.done():
                await cancelled([sending])
        sending.result()
        return True

    def _replace(self, producer: Producer) -> None:
        """Replace a producer that failed, unless it is replaced already."""
        if self._producer is producer:
            self._producer = None
            self._close_unused(producer)

    def _close_unused(self, producer: Producer) -> None:
        """Close a replaced producer, once nobody waits for it."""
        if self._producer is not producer and not self._sends[producer] and producer not in self._closing:
            del self._sends[producer]
            self._closing[producer] = task = asyncio.create_task(producer.abandon())
            task.add_done_callback(lambda _: self._closing.pop(producer))

    def renew(self) -> None:
        """Use a new producer from now on: after a network failure elsewhere, this connection may be lost as well."""
        if self._producer is not None:
            self._replace(self._producer)

    async def abandon(self) -> None:
        """Close all producers at once, without waiting for records in flight."""
        producer, self._producer = self._producer, None
        for each in {producer, *self._sends}:
            if each is not None and each not in self._closing:
                await each.abandon()
        await asyncio.gather(*self._closing.values())
