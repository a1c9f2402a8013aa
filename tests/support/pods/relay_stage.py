"""A stage for relays: a database with an outbox, a broker with topics, and what was acknowledged."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
from aiokafka import AIOKafkaConsumer, errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from service.domain.enveloped import Outgoing
from service.kafka.producer import Producer
from service.kafka.topics import create_topics
from service.postgres.pool import Database
from service.relay.relay import Relay
from service.store import outbox
from tests.support.builders.outbox import event
from tests.support.builders.producers import noting_ids

BOUND = 90
"""Seconds after which a wait has failed."""

LARGE = {"max.message.bytes": str(32 * 1024 * 1024)}


class Recording(Producer):
    """A producer that records the order of acknowledgements. `gate` can delay its sends."""

    def __init__(
        self,
        options: dict[str, Any],
        acknowledged: list[bytes],
        gate: asyncio.Event | None = None,
        *,
        idempotent: bool = False,
    ) -> None:
        super().__init__(options, idempotent=idempotent)
        self._acknowledged, self._gate = acknowledged, gate
        self.reached = asyncio.Event()

    def create_batch(self) -> Any:
        return noting_ids(super().create_batch())

    async def create_compressed(self, key: bytes, value: bytes, headers: Any) -> Any:
        batch = await super().create_compressed(key, value, headers)
        batch.ids = [dict(headers)["event_id"]]
        return batch

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        self.reached.set()
        if self._gate is not None:
            await self._gate.wait()
        future = await super().send_batch(batch, topic, partition=partition)

        def settled(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and done.exception() is None:
                self._acknowledged.extend(batch.ids)

        future.add_done_callback(settled)
        return future


class Rejecting(Recording):
    """A producer of a broker that rejects record batches with certain events, as too large."""

    def __init__(self, options: dict[str, Any], acknowledged: list[bytes], rejected: set[bytes]) -> None:
        super().__init__(options, acknowledged)
        self._rejected = rejected

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> Any:
        if self._rejected & set(batch.ids):
            raise errors.MessageSizeTooLargeError(topic)
        return await super().send_batch(batch, topic, partition=partition)


class Stage:
    """A database with an outbox, a broker with topics, and the acknowledged events."""

    def __init__(self, url: str, database: Database, options: dict[str, Any]) -> None:
        self.url, self.database, self.options = url, database, options
        self.topics: list[str] = []
        self.acknowledged: list[bytes] = []
        self.written: dict[str, list[bytes]] = {}

    async def create(self, count: int = 1, partitions: int = 3, configs: dict[str, str] | None = None) -> list[str]:
        names = [f"relay.{uuid4().hex}" for _ in range(count)]
        await self.create_named(names, partitions, configs or LARGE)
        return names

    async def create_named(self, names: Sequence[str], partitions: int, configs: dict[str, str]) -> None:
        topics = dict.fromkeys(names, configs)
        await create_topics(self.options, partitions=partitions, replication=1, topics=topics)
        self.topics += names

    async def commit(self, *events: tuple[str, str, str]) -> None:
        """Commit events of (batch, topic, text) in one transaction."""
        async with self.database.transaction() as conn:
            await self.write(conn, *(event(*each) for each in events))

    async def write(self, conn: psycopg.AsyncConnection[Any], *events: Outgoing) -> None:
        await outbox.insert_outbox(conn, events)
        for each in events:
            self.written.setdefault(each.batch_id, []).append(str(each.event_id).encode())

    def relay(self, gate: asyncio.Event | None = None, *, idempotent: bool = False, **options: Any) -> Relay:
        def producer() -> Producer:
            return Recording(self.options, self.acknowledged, gate, idempotent=idempotent)

        return Relay(self.database, producer, **options)

    async def configure(self, topic: str, configs: dict[str, str]) -> None:
        """Replaces the configuration of a topic."""
        admin = AIOKafkaAdminClient(**self.options)
        await admin.start()
        try:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=configs)])
        finally:
            await admin.close()

    @asynccontextmanager
    async def running(self, *relays: Relay) -> AsyncIterator[asyncio.Event]:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(relay.run(stop)) for relay in relays]
        try:
            yield stop
        finally:
            stop.set()
            await asyncio.wait_for(asyncio.gather(*tasks), BOUND)

    async def all(self, query: str) -> list[tuple[Any, ...]]:
        async with self.database.transaction() as conn:
            return await (await conn.execute(query)).fetchall()

    async def left(self) -> int:
        """Returns how many events are in the outbox."""
        return int((await self.all("select count(*) from ops.outbox_events"))[0][0])

    async def is_empty(self) -> bool:
        return await self.left() == 0

    async def owners(self) -> dict[UUID | None, int]:
        return dict(await self.all("select relay, count(*) from els.relay_shards group by relay"))

    async def expire_leases(self) -> None:
        async with self.database.transaction() as conn:
            await conn.execute("update els.relays set expires_at = clock_timestamp() - interval '1 second'")

    def assert_in_order(self) -> None:
        """Check that every row was acknowledged, for the first time after all earlier rows of its batch."""
        first = {event_id: place for place, event_id in reversed(list(enumerate(self.acknowledged)))}
        for batch_id, event_ids in self.written.items():
            places = [first[event_id] for event_id in event_ids]
            assert places == sorted(places), batch_id

    async def records(self, topic: str, count: int) -> list[Any]:
        """Returns at least `count` records of all partitions together, in the order of each partition.

        The topic may be so new that the consumer must refresh its metadata.
        """
        consumer = AIOKafkaConsumer(topic, **self.options, auto_offset_reset="earliest", metadata_max_age_ms=500)
        await consumer.start()
        try:
            found: list[Any] = []
            async with asyncio.timeout(BOUND):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=200)).values():
                        found += records
            return found
        finally:
            await consumer.stop()


def text_of(record: Any) -> str:
    return str(json.loads(record.value)["data"]["text"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(BOUND):
        while not await condition():  # noqa: ASYNC110  the condition depends on other processes
            await asyncio.sleep(0.01)
