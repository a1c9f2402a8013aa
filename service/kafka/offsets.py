"""Reads how far the topics reach and how much of them the consumer group has still to read, for people."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from service.domain.topics import INCOMING_TOPICS
from service.kafka.topics import OUTGOING

BROKER_SECONDS = 3.0
"""A broker that takes longer to respond counts as unavailable."""

SHARED_SECONDS = 0.5
"""A result is that old at most: many who look do not make each other wait for a broker that is slow or down."""


class PartitionOffsets(NamedTuple):
    """The end of a partition, and how many of its records the consumer group has not read; 0 of an output topic."""

    end: int
    lag: int


@dataclass(frozen=True, slots=True)
class TopicOffsets:
    """Holds the offsets of all partitions of our topics."""

    partitions: Mapping[TopicPartition, PartitionOffsets]

    @property
    def ends(self) -> Mapping[str, int]:
        """Returns the end offsets by topic, summed over its partitions."""
        totals: dict[str, int] = {}
        for tp, offsets in self.partitions.items():
            totals[tp.topic] = totals.get(tp.topic, 0) + offsets.end
        return totals

    @property
    def lag(self) -> Mapping[str, int]:
        """Returns the lag of the consumer group by input topic, summed over its partitions."""
        lag = dict.fromkeys(INCOMING_TOPICS, 0)
        for tp, offsets in self.partitions.items():
            if tp.topic in lag:
                lag[tp.topic] += offsets.lag
        return lag


class OffsetsSource(Protocol):
    """Reads the offsets of one group."""

    async def read(self) -> TopicOffsets:
        """Read once. Raises KafkaError, OSError or TimeoutError."""
        ...

    @property
    def error(self) -> Exception | None:
        """Returns why the last read failed; None where it did not, or nothing was read yet."""
        ...


class OffsetsReader:
    """Reads offsets. Keeps its connections between two reads."""

    def __init__(self, kafka: Mapping[str, Any], *groups: str) -> None:
        """`groups` are those of which the lag is read: one, or that of each cell."""
        self._kafka = kafka
        self._groups = groups
        self._clients: tuple[AIOKafkaConsumer, AIOKafkaAdminClient] | None = None
        self._partitions: list[TopicPartition] = []
        self._reading = asyncio.Lock()
        self._read_at = float("-inf")
        self._last: Sequence[TopicOffsets] | Exception | None = None

    async def read(self) -> TopicOffsets:
        """Read once, of the first group. Raises what `read_all` raises."""
        return (await self.read_all())[0]

    def of(self, place: int) -> "GroupOffsets":
        """Returns the reader of one of the groups, counted from 0."""
        return GroupOffsets(self, place)

    async def read_all(self) -> Sequence[TopicOffsets]:
        """Read once, for each group. Who asks meanwhile gets the same result.

        Raises KafkaError, OSError or TimeoutError.
        """
        async with self._reading:
            if time.monotonic() - self._read_at > SHARED_SECONDS:
                self._last = await self._try()
                self._read_at = time.monotonic()
            if self._last is None or isinstance(self._last, Exception):
                raise self._last or TimeoutError
            return self._last

    @property
    def error(self) -> Exception | None:
        """Returns why the last read failed; None where it did not, or nothing was read yet."""
        return self._last if isinstance(self._last, Exception) else None

    async def close(self) -> None:
        """Close the connections to the broker."""
        clients, self._clients = self._clients, None
        for client in clients or ():
            await client.stop() if isinstance(client, AIOKafkaConsumer) else await client.close()

    async def _try(self) -> Sequence[TopicOffsets] | Exception:
        """Read, or return why that failed; the next read then connects again."""
        try:
            async with asyncio.timeout(BROKER_SECONDS):
                return await self._read()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            return error
        except BaseException:
            await self.close()
            raise

    async def _read(self) -> Sequence[TopicOffsets]:
        consumer, admin = self._clients or await self._connect()
        ends = await consumer.end_offsets(self._partitions)
        incoming = [tp for tp in self._partitions if tp.topic in INCOMING_TOPICS]
        groups = (admin.list_consumer_group_offsets(group, partitions=incoming) for group in self._groups)
        return [_offsets(ends, incoming, committed) for committed in await asyncio.gather(*groups)]

    async def _connect(self) -> tuple[AIOKafkaConsumer, AIOKafkaAdminClient]:
        consumer, admin = self._clients = AIOKafkaConsumer(**self._kafka), AIOKafkaAdminClient(**self._kafka)
        await consumer.start()
        await admin.start()
        described = await admin.describe_topics([*INCOMING_TOPICS, *OUTGOING])
        self._partitions = [
            TopicPartition(each["topic"], some["partition"]) for each in described for some in each["partitions"]
        ]
        return consumer, admin


class GroupOffsets:
    """Reads the offsets of one of several groups, with the reader of all."""

    def __init__(self, reader: OffsetsReader, place: int) -> None:
        self._reader = reader
        self._place = place

    async def read(self) -> TopicOffsets:
        """Read once. Raises KafkaError, OSError or TimeoutError."""
        return (await self._reader.read_all())[self._place]

    @property
    def error(self) -> Exception | None:
        """Returns why the last read failed; None where it did not, or nothing was read yet."""
        return self._reader.error


def _offsets(
    ends: Mapping[TopicPartition, int], incoming: Sequence[TopicPartition], committed: Mapping[TopicPartition, Any]
) -> TopicOffsets:
    """Return the offsets of a group."""
    # -1: the group has committed nothing on this partition yet, so all records wait.
    read = {tp: max(0, committed[tp].offset if tp in committed else 0) for tp in incoming}
    return TopicOffsets(
        {tp: PartitionOffsets(end, max(0, end - read[tp]) if tp in read else 0) for tp, end in ends.items()}
    )
