"""Sends batches without end: every kind of input, in random order, as fast as they are processed."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from deploy.servers.brokers import Broker
from service.domain.topics import ASSOCIATIONS_CONFIRMED, BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from tests.support.builders import inputs

Input = tuple[str, bytes | None, bytes]
"""topic, value, key"""

GARBAGE = (None, b"", b"{", b"\xff\xfe", b"[" * 99, b'{"event_type": "x"}')


def batch(dice: random.Random, batch_id: str, size: int) -> list[Input]:
    """Returns the inputs of one batch: repeats, failures, excess content, contradictions, classes, invalid records."""
    essays = [f"{batch_id}-e{number}" for number in range(size)]
    class_id = dice.choice((None, "8a"))
    registration = inputs.registration(batch_id, essays, class_id=class_id)
    sent: list[Input] = [(BATCH_REGISTERED, registration, batch_id.encode())]
    if class_id or dice.random() < 0.05:
        sent.append((ASSOCIATIONS_CONFIRMED, inputs.confirmation(batch_id, "8a"), batch_id.encode()))
    for number in range(size + (dice.random() < 0.1)):
        name = f"{batch_id}-{number}"
        if dice.random() < 0.03:
            sent.append((VALIDATION_FAILED, inputs.failure(batch_id, name), name.encode()))
        else:
            sent.append(_content(batch_id, name))
    sent += [dice.choice(sent) for _ in range(len(sent) // 20)]  # under their old event ids
    if dice.random() < 0.1:
        sent.append(_content(batch_id, f"{batch_id}-0"))  # under a new event id
    if dice.random() < 0.02:
        sent.append((BATCH_REGISTERED, inputs.registration(batch_id, essays[:1]), batch_id.encode()))
    if dice.random() < 0.05:
        sent.append((CONTENT_PROVISIONED, dice.choice(GARBAGE), batch_id.encode()))
    dice.shuffle(sent)
    return sent


def _content(batch_id: str, name: str) -> Input:
    return CONTENT_PROVISIONED, inputs.content(batch_id, name), f"upload-{name}".encode()


class Load:
    """Sends batches until it is stopped; at most `ahead` records more than the group has processed."""

    def __init__(self, broker: Broker, seed: int, *, ahead: int = 5_000, rate: float | None = None) -> None:
        """`rate` is in records per second; None means as fast as they are processed."""
        self.sent: Counter[str] = Counter()
        self.unsure = 0
        """Records whose sending failed; the broker may have them or not."""
        self.done = 0
        """The number of records that the group has committed; the caller updates it."""
        self._broker = broker
        self._dice = random.Random(seed)
        self._ahead = ahead
        self._rate = rate
        self._name = uuid4().hex[:6]

    async def run(self, stop: asyncio.Event) -> None:
        """Sends until `stop`; waits while the broker is unavailable."""
        inputs_ = self._inputs()
        while not stop.is_set():
            with suppress(KafkaError, OSError, TimeoutError):
                async with _producer(self._broker) as producer:
                    await self._send(producer, inputs_, stop)

    async def _send(self, producer: AIOKafkaProducer, some: Iterator[Input], stop: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while not stop.is_set():
            if self.sent.total() - self.unsure - self.done > self._ahead:
                await asyncio.sleep(0.05)
                continue
            futures = []
            for topic, value, key in (next(some) for _ in range(200)):
                futures.append(await producer.send(topic, value, key))
                self.sent[topic] += 1
            for ended in await asyncio.gather(*futures, return_exceptions=True):
                self.unsure += isinstance(ended, BaseException)
            if self._rate:
                due = max(due + 200 / self._rate, clock() - 1)
                await asyncio.sleep(max(0.0, due - clock()))

    def _inputs(self) -> Iterator[Input]:
        """Returns the inputs of thirty batches at a time, shuffled."""
        number = 0
        while True:
            mixed: list[Input] = []
            for _ in range(30):
                number += 1
                mixed += batch(self._dice, f"{self._name}-{number}", self._dice.choice((1, 5, 10, 10, 30)))
            self._dice.shuffle(mixed)
            yield from mixed


class _producer:  # noqa: N801  used as a function
    def __init__(self, broker: Broker) -> None:
        self._client = AIOKafkaProducer(
            bootstrap_servers=broker.bootstrap_servers,
            acks="all",
            enable_idempotence=broker.idempotence,
            linger_ms=5,
            request_timeout_ms=20_000,
        )

    async def __aenter__(self) -> AIOKafkaProducer:
        await self._client.start()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                await self._client.stop()


async def send(broker: Broker, some: list[Input]) -> None:
    """Sends these and waits for the acknowledgements. Raises KafkaError."""
    async with _producer(broker) as producer:
        await asyncio.gather(*[await producer.send(topic, value, key) for topic, value, key in some])
