"""What `top` shows, read at one moment from the database and the broker."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from service.domain.topics import INCOMING_TOPICS
from service.kafka.topics import OUTGOING
from service.postgres.pool import Database
from service.runtime.errors import one_line
from service.store import monitoring

EVENTS = 12
"""The number of latest events that are shown."""

BROKER_SECONDS = 3.0
"""A broker that takes longer to answer is away, for this snapshot."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """The ends of all topics, and the lag of the consumer group, by topic."""

    ends: Mapping[str, int]
    lag: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was read at one moment. What is None could not be read; the errors say why."""

    health: Mapping[str, Any] | None
    events: Sequence[Mapping[str, Any]]
    offsets: Offsets | None
    error: str | None
    broker_error: str | None
    read_at: float
    """By the loop's clock, in seconds."""

    @property
    def attention(self) -> list[str]:
        """What needs action, each in words."""
        if self.health is None:
            return [f"the database does not answer: {self.error}"]
        return list(self.health["attention"])


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates per second between two snapshots; None where one of them could not read it."""

    arriving: float | None
    written: float | None
    published: float | None


class SnapshotReader:
    """Reads snapshots. Connections are kept between two reads."""

    def __init__(self, database: Database, kafka: Mapping[str, Any], group: str) -> None:
        self._database = database
        self._kafka = kafka
        self._group = group
        self._clients: tuple[AIOKafkaConsumer, AIOKafkaAdminClient] | None = None
        self._partitions: list[TopicPartition] = []

    async def read(self) -> Snapshot:
        """Read once. An error of a server is in the snapshot, and is not raised."""
        (health, events, error), (offsets, broker_error) = await asyncio.gather(self._tables(), self._broker())
        return Snapshot(health, events, offsets, error, broker_error, asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Close the connections to the broker."""
        clients, self._clients = self._clients, None
        for client in clients or ():
            await client.stop() if isinstance(client, AIOKafkaConsumer) else await client.close()

    async def _tables(self) -> tuple[Mapping[str, Any] | None, Sequence[Mapping[str, Any]], str | None]:
        try:
            async with self._database.transaction() as conn:
                return await monitoring.watch_health(conn), await monitoring.watch_events(conn, EVENTS), None
        except psycopg.Error as error:
            return None, (), one_line(error, 200)

    async def _broker(self) -> tuple[Offsets | None, str | None]:
        try:
            async with asyncio.timeout(BROKER_SECONDS):
                return await self._offsets(), None
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            return None, one_line(error, 200)

    async def _offsets(self) -> Offsets:
        consumer, admin = self._clients or await self._connect()
        ends = await consumer.end_offsets(self._partitions)
        incoming = [tp for tp in self._partitions if tp.topic in INCOMING_TOPICS]
        committed = await admin.list_consumer_group_offsets(self._group, partitions=incoming)
        lag = dict.fromkeys(INCOMING_TOPICS, 0)
        for tp in incoming:
            # Nothing committed yet (-1): all of it waits.
            lag[tp.topic] += max(0, ends[tp] - max(0, committed[tp].offset if tp in committed else 0))
        totals: dict[str, int] = {}
        for tp, end in ends.items():
            totals[tp.topic] = totals.get(tp.topic, 0) + end
        return Offsets(totals, lag)

    async def _connect(self) -> tuple[AIOKafkaConsumer, AIOKafkaAdminClient]:
        consumer, admin = self._clients = AIOKafkaConsumer(**self._kafka), AIOKafkaAdminClient(**self._kafka)
        await consumer.start()
        await admin.start()
        described = await admin.describe_topics([*INCOMING_TOPICS, *OUTGOING])
        self._partitions = [
            TopicPartition(each["topic"], some["partition"]) for each in described for some in each["partitions"]
        ]
        return consumer, admin


def rates(before: Snapshot | None, now: Snapshot) -> Rates:
    """The rates between two snapshots."""
    if before is None:
        return Rates(None, None, None)
    seconds = max(now.read_at - before.read_at, 0.001)

    def rate(first: int | None, last: int | None) -> float | None:
        # Less than before: the statistics or the topics began anew.
        return None if first is None or last is None or last < first else (last - first) / seconds

    def counted(snapshot: Snapshot, name: str) -> int | None:
        return None if snapshot.health is None else int(snapshot.health[name])

    def arrived(snapshot: Snapshot) -> int | None:
        return (
            None if snapshot.offsets is None else sum(snapshot.offsets.ends.get(topic, 0) for topic in INCOMING_TOPICS)
        )

    return Rates(
        rate(arrived(before), arrived(now)),
        rate(counted(before, "written"), counted(now, "written")),
        rate(counted(before, "published"), counted(now, "published")),
    )
