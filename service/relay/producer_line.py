"""Keeps the producer of one relay worker: creates it when it is needed, and replaces it after a failure."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, cast

from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder

from service.kafka.producer import Producer
from service.runtime.loop import cancelled

ACK_SECONDS, SLOWEST_BYTES_PER_SECOND = 6.0, 500_000
"""Time to wait for an acknowledgement: a base in seconds, plus the time for the bytes in flight at the slowest speed.
Without a limit, an idempotent producer waits for ever."""

CLOSING_SECONDS: Final = 15.0
"""Time that a replaced producer has to finish sending its records."""


class ProducerLine:
    """Owns the producer of one relay worker. A producer that failed is closed in the background."""

    def __init__(self, producers: Callable[[], Producer]) -> None:
        self._producers = producers
        self._producer: Producer | None = None
        self._starting = asyncio.Lock()
        self._in_flight = 0
        self._closing: set[asyncio.Task[None]] = set()

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
            self._replace(producer, error)
            raise
        return producer

    async def send(self, records: BatchBuilder, topic: str, partition: int) -> Exception | None:
        """Send a record batch. Returns None once acknowledged, else the error; the broker may have stored it anyway."""
        try:
            producer = await self.producer()
        except (errors.KafkaError, TimeoutError) as unreachable:
            return cast("Exception", unreachable)
        self._in_flight += (size := records.size())
        try:
            await asyncio.sleep(0)  # lets the other sends of the wave add to the bytes in flight
            async with asyncio.timeout(ACK_SECONDS + self._in_flight / SLOWEST_BYTES_PER_SECOND):
                await (await producer.send_batch(records, topic, partition=partition))
        except (errors.KafkaError, TimeoutError, AssertionError) as error:
            self._replace(producer, error)
            unknown: Exception = errors.UnknownTopicOrPartitionError(topic)
            return unknown if producer.partition(topic, b"") is None else error
        finally:
            self._in_flight -= size
        return None

    def _replace(self, producer: Producer, error: Exception) -> None:
        """Replace a producer that failed. One that is not idempotent can be kept if the broker did respond."""
        if self._producer is not producer:
            return
        if producer.idempotent or not isinstance(error, errors.BrokerResponseError):
            self._producer = None
            task = asyncio.create_task(producer.close(CLOSING_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def renew(self) -> None:
        """Use a new producer from now on: after a network failure elsewhere, this connection may be lost as well."""
        if self._producer is not None:
            self._replace(self._producer, TimeoutError())

    async def abandon(self) -> None:
        """Close all producers at once, without waiting for records in flight."""
        await cancelled(list(self._closing))
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.abandon()
