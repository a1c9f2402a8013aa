"""Runs consumers within a test, with a database, a broker and a consumer group."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaConnectionError

from deploy.servers.brokers import Broker, committed_offsets
from deploy.servers.pods import until
from service.application import run_until_stopped
from service.consumer.consumer import Consumer
from service.domain.cells import ALL_BATCHES, Slice
from service.domain.delivery import IntakeLimits
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.kafka import topics
from service.kafka.connection import client_options
from service.kafka.group import ConsumerOptions
from service.postgres.pool import Database
from service.runtime.health import Health
from tests.support.builders.inputs import MEBIBYTE

BOUND = 120
"""Seconds after which a wait fails."""
PENDING = "select count(*) from els.pending_content"


class Running:
    """One consumer that runs in the test, with its health and its effects."""

    def __init__(
        self,
        url: str,
        broker: Broker,
        group: str,
        limit: int,
        *,
        replay: bool = False,
        restarts: bool = False,
        of: Slice = ALL_BATCHES,
    ) -> None:
        self.health = Health("consumer")
        self.effects: list[Effects] = []
        self.database = Database(url, pool_size=3, of=of)
        intake = Intake(self.database, IntakeLimits(consecutive_rejections=limit), self.health, self._committed)
        self.consumer = Consumer(
            client_options(broker.bootstrap_servers),
            self.database,
            intake,
            self.health,
            ConsumerOptions(
                group=group,
                replay=replay,
                max_poll_records=100,
                drain=10,
                of=of,
            ),
            lag=lambda *_: None,
        )
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self._run_again() if restarts else self.consumer.run(self._stop))

    async def _committed(self, effects: Effects) -> None:
        self.effects.append(effects)

    @property
    def partitions(self) -> int:
        return len(self.consumer._assignment.partitions)

    async def fail_and_run_again(self) -> None:
        """Ends the consumer, and restarts it as the process does whenever it fails."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = asyncio.create_task(self._run_again())

    async def _run_again(self) -> None:
        await run_until_stopped("consumer", self.consumer.run, self._stop, self.health)

    async def is_kept_out(self, message: str) -> None:
        """Waits until it has this error, before it joins the group."""

        def has_the_error() -> bool:
            if self._task.done():
                self._task.result()
            return self.health.parts["consumer"] == message

        await until(has_the_error, BOUND, lambda: str(self.health.parts))

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, BOUND)
        await self.database.close()


class ConsumerFixture:
    """Starts consumers of one group, publishes records for them, and reads what they did from the database."""

    def __init__(self, app_url: str, superuser: str, broker: Broker) -> None:
        self.app_url, self.broker = app_url, broker
        self.restarts = False
        """Whether consumers are run again when they fail, as the process does."""
        self.group = f"group-{uuid4().hex[:8]}"
        self.slice = ALL_BATCHES
        self.conn = psycopg.connect(superuser, autocommit=True)
        self.ends: dict[TopicPartition, int] = {}
        self.running: list[Running] = []
        self.producer: AIOKafkaProducer

    def becomes_cell(self, of: Slice, group: str) -> None:
        """Makes the database, and the consumers from now on, a cell of several, whose groups begin with this name."""
        self.slice, self.group = of, group + of.suffix
        self.conn.execute("update els.slice set cells = %s, cell = %s", [of.cells, of.cell])

    def start_one(self, limit: int = 1_000, *, replay: bool = False) -> Running:
        """Starts a consumer that may not be able to join the group."""
        group = f"{self.group}.replay" if replay else self.group
        started = Running(self.app_url, self.broker, group, limit, replay=replay, restarts=self.restarts, of=self.slice)
        self.running.append(started)
        return started

    async def start(self, limit: int = 1_000, *, replay: bool = False) -> Running:
        started = self.start_one(limit, replay=replay)
        await until(lambda: started.partitions > 0, BOUND, lambda: "no partition was assigned")
        return started

    async def stop(self) -> None:
        while self.running:
            await self.running.pop().stop()

    async def publish(
        self, topic: str, *values: bytes | None, partition: int | None = 0, key: bytes | None = b"key"
    ) -> int:
        """Publishes the values in this order. Returns the offset of the last."""
        sent = [await self.producer.send(topic, value, key, partition) for value in values]
        for each in await asyncio.gather(*sent):
            tp = TopicPartition(each.topic, each.partition)
            self.ends[tp] = max(self.ends.get(tp, 0), each.offset + 1)
        return int(each.offset)

    async def send_in_a_transaction(self, topic: str, value: bytes, partition: int = 0) -> None:
        """Publishes a value in a transaction of its own; the broker writes a marker behind it."""
        async with (
            AIOKafkaProducer(
                bootstrap_servers=self.broker.bootstrap_servers, transactional_id=f"tests-{uuid4().hex}"
            ) as producer,
            producer.transaction(),
        ):
            sent = await producer.send_and_wait(topic, value, b"key", partition)
        self.ends[TopicPartition(topic, partition)] = sent.offset + 1

    async def publish_batch(self, topic: str, batch: bytes, records: int, partition: int = 0) -> int:
        """Publishes a finished record batch. Returns the offset of its first record."""
        async with self._plain_producer() as producer:
            builder = producer.create_batch()
            builder.close()
            builder._buffer, builder._relative_offset = bytearray(batch), records
            first = (await (await producer.send_batch(builder, topic, partition=partition))).offset
        self.ends[TopicPartition(topic, partition)] = first + records
        return int(first)

    @asynccontextmanager
    async def _plain_producer(self) -> AsyncIterator[AIOKafkaProducer]:
        """A producer that is not idempotent. It waits for a broker that listens and does not answer yet."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap_servers, enable_idempotence=False, acks="all"
        )
        async with asyncio.timeout(BOUND):
            while True:
                try:
                    await producer.start()
                    break
                except KafkaConnectionError:
                    await asyncio.sleep(0.1)
        try:
            yield producer
        finally:
            await producer.stop()

    async def delete_records(self, tp: TopicPartition, before: int) -> None:
        """Deletes the records below an offset, as a retention or an administrator does."""
        async with self.admin() as admin:
            await admin.delete_records({tp: RecordsToDelete(before_offset=before)})

    async def create_again(self, topic: str) -> None:
        """Deletes a topic with its records, and creates it with the same number of partitions."""
        await self.delete_topic(topic)
        await self.create_topic(topic)

    async def delete_topic(self, topic: str) -> None:
        """Deletes a topic with its records."""
        async with self.admin() as admin:
            await admin.delete_topics([topic])
        self.ends = {tp: end for tp, end in self.ends.items() if tp.topic != topic}

    async def create_topic(self, topic: str) -> None:
        """Creates a topic."""
        options = client_options(self.broker.bootstrap_servers)
        await topics.create_topics(options, partitions=3, replication=1, topics={topic: {}})

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.broker.bootstrap_servers)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def committed(self, *tps: TopicPartition) -> dict[TopicPartition, int]:
        return await committed_offsets(self.broker, self.group, tps or self.ends)

    async def all_committed(self) -> None:
        """Waits until the group has committed the end of what was published."""
        found: dict[TopicPartition, int] = {}

        async def at_the_end() -> bool:
            found.update(await self.committed())
            return found == self.ends

        await until(at_the_end, BOUND, lambda: f"committed {found} of {self.ends}", every=0.1)

    async def becomes(self, query: str, wanted: object) -> None:
        """Waits until the query returns the wanted value."""
        await until(lambda: self.value(query) == wanted, BOUND, lambda: f"{query} is {self.value(query)}, not {wanted}")

    def value(self, query: str) -> Any:
        row = self.conn.execute(query).fetchone()
        return row[0] if row else None

    def rejected(self) -> list[tuple[str, str]]:
        return self.conn.execute("select topic, reason from els.quarantine order by id").fetchall()


@asynccontextmanager
async def consumer_fixture(app_url: str, superuser: str, broker: Broker) -> AsyncIterator[ConsumerFixture]:
    consumers = ConsumerFixture(app_url, superuser, broker)
    consumers.producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers,
        enable_idempotence=broker.idempotence,
        acks="all",
        compression_type="gzip",  # values that are rejected as too large are small in transit
        max_request_size=64 * MEBIBYTE,
        request_timeout_ms=60_000,
    )
    await consumers.producer.start()
    try:
        yield consumers
    finally:
        await consumers.stop()
        await consumers.producer.stop()
        consumers.conn.close()


async def moves(running: Running) -> None:
    """Waits until it has applied another transaction."""
    before = len(running.effects)
    await until(lambda: len(running.effects) > before, BOUND, lambda: "no further transaction")
