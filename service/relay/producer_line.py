"""The producer of one worker: made when it is needed, replaced when it failed."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, cast

from aiokafka import errors
from aiokafka.producer.message_accumulator import BatchBuilder

from service.kafka.producer import Producer
from service.runtime.loop import cancelled

ANSWER_SECONDS, SLOWEST = 6.0, 500_000
"""How long an acknowledgement is waited for, and longer by what is on its way, at so many bytes a second; an idempotent
producer by itself waits for ever."""

CLOSING_SECONDS: Final = 15.0
"""How long a producer that is spent may go on with what it has."""


class ProducerLine:
    """The producer of one worker: made when it is needed, made anew when it is spent."""

    def __init__(self, producers: Callable[[], Producer]) -> None:
        self._producers = producers
        self._producer: Producer | None = None
        self._making = asyncio.Lock()
        self._on_the_way = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def producer(self) -> Producer:
        """One that is connected. Raises KafkaError or TimeoutError."""
        async with self._making:
            if self._producer is None:
                producer = self._producers()
                await producer.start()
                self._producer = producer
            return self._producer

    async def producer_for(self, topics: Iterable[str]) -> Producer:
        """One that knows these topics, as far as they exist. Raises KafkaError or TimeoutError, and is spent then."""
        producer = await self.producer()
        try:
            await producer.find(topics)
        except (errors.KafkaError, TimeoutError) as error:
            # Its connection may be one that nobody answers any more, and it would ask there for ever.
            self._replace(producer, error)
            raise
        return producer

    async def send(self, records: BatchBuilder, topic: str, partition: int) -> Exception | None:
        """Returns None when the broker has acknowledged, else why it has not (it may have them)."""
        try:
            producer = await self.producer()
        except (errors.KafkaError, TimeoutError) as unreachable:
            return cast("Exception", unreachable)
        self._on_the_way += (size := records.size())
        try:
            await asyncio.sleep(0)  # until all of the wave is counted
            async with asyncio.timeout(ANSWER_SECONDS + self._on_the_way / SLOWEST):
                await (await producer.send_batch(records, topic, partition=partition))
        except (errors.KafkaError, TimeoutError, AssertionError) as error:
            self._replace(producer, error)
            unknown: Exception = errors.UnknownTopicOrPartitionError(topic)
            return unknown if producer.partition(topic, b"") is None else error
        finally:
            self._on_the_way -= size
        return None

    def _replace(self, producer: Producer, error: Exception) -> None:
        """After a rejection only an idempotent one is spent; after silence, any."""
        if self._producer is not producer:
            return
        if producer.idempotent or not isinstance(error, errors.BrokerResponseError):
            self._producer = None
            task = asyncio.create_task(producer.close(CLOSING_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def renew(self) -> None:
        """Something else has lost its connection, and this one may be lost as well: the next is sent on a new one."""
        if self._producer is not None:
            self._replace(self._producer, TimeoutError())

    async def abandon(self) -> None:
        """Close all at once, whatever is on its way."""
        await cancelled(list(self._closing))
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.abandon()
