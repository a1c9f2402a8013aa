"""Watches the brokers of one consumer: what cannot be read now, how far the topics go, and whether anybody answers.

aiokafka waits for a broker that no longer answers without end, and for one that delays it because of a quota as well.
"""

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.errors import BrokerResponseError, IllegalStateError, KafkaError

from service.domain.topics import INCOMING_TOPICS
from service.kafka.errors import absence, describe
from service.kafka.responses import Responses

SILENT_SECONDS = 6.0
"""A membership ends when a broker does not answer for this long, or for the session's timeout where that is longer."""


class Stalled(Exception):
    """No progress despite lag, no assigned partition, or no answer from a broker: a new membership is needed."""


class BrokerView:
    """What one consumer knows of its brokers."""

    def __init__(self, client: AIOKafkaConsumer, session_timeout: float) -> None:
        self._client = client
        self._cluster = client._client.cluster  # noqa: SLF001  aiokafka has no other way
        self._session_timeout = session_timeout
        self._responses = Responses(client._client, "consumer")  # noqa: SLF001  aiokafka has no other way
        self._silent_since = math.inf
        self.received_at = time.monotonic()
        """When records were received last."""

    @property
    def silence_timeout(self) -> float:
        """Seconds without an answer from a broker after which the membership ends."""
        return max(SILENT_SECONDS, self._session_timeout)

    @property
    def throttled(self) -> str | None:
        """Say that a broker delays this consumer because of a quota; None where none does."""
        return self._responses.quota

    def lacking(self) -> str | None:
        """Say which input topics or partitions cannot be read now; None where all can."""
        for topic in INCOMING_TOPICS:
            partitions = self._cluster.partitions_for_topic(topic)
            if not partitions:
                return describe(absence(self._cluster, topic))
            for partition in sorted(partitions):
                if not self.has_leader(TopicPartition(topic, partition)):
                    return f"partition {partition} of {topic} has no leader"
        return None

    async def partition_counts(self) -> dict[str, int]:
        """Ask how many partitions the input topics have now. Returns nothing where no broker answers."""
        if not await self._client._client.force_metadata_update():  # noqa: SLF001  aiokafka has no other way
            return {}
        return {
            topic: len(partitions)
            for topic in INCOMING_TOPICS
            if (partitions := self._cluster.partitions_for_topic(topic))
        }

    def has_leader(self, tp: TopicPartition) -> bool:
        """Return whether a broker serves the partition now, as far as is known."""
        return self._cluster.leader_for_partition(tp) not in (None, -1)

    def stable_end(self, tp: TopicPartition) -> int | None:
        """Return where the last fetch found the first open transaction, or the end; None where it is not known.

        Raises IllegalStateError where the partition is not assigned.
        """
        if tp not in self._client.assignment():  # which aiokafka only asserts
            raise IllegalStateError(f"{tp} is not assigned")
        stable: int | None = self._client.last_stable_offset(tp)
        if stable is None or stable < 0:
            stable = self._client.highwater(tp)
        return stable

    def open_transaction(self, tp: TopicPartition) -> int | None:
        """Return the offset at which records wait for the end of a producer's transaction; None where none is known."""
        with suppress(IllegalStateError):
            stable, end = self.stable_end(tp), self._client.highwater(tp)
            return stable if stable is not None and end is not None and stable < end else None
        return None

    async def is_at_the_end(self, tp: TopicPartition) -> bool:
        """Return whether the position is at the end of what may be read: an empty fetch may also mean a slow broker."""
        try:
            end = self.stable_end(tp)
            return end is not None and await self._client.position(tp) >= end
        except IllegalStateError:
            return False

    async def ends(self, tps: Sequence[TopicPartition], *, whole_log: bool = False) -> Mapping[TopicPartition, int]:
        """Return the end offsets of these partitions, as far as they have a leader.

        They are behind what may be read; with `whole_log`, behind all records, also those of open transactions.

        Raises KafkaError, IllegalStateError after a rebalance meanwhile, TimeoutError where there was no answer, and
        Stalled where there has been none for `silence_timeout`.
        """
        asked_at, partial = time.monotonic(), self._partial_responses()
        try:
            async with asyncio.timeout(self.silence_timeout / 2):
                ends = await self._end_offsets([*filter(self.has_leader, tps)], whole_log)
        except IllegalStateError:  # a KafkaError as well, but not a missing answer
            raise
        except BrokerResponseError:
            raise
        except (KafkaError, TimeoutError):
            self._check_silence(asked_at, partial)
            raise
        self._silent_since = math.inf
        return ends

    async def _end_offsets(self, tps: Sequence[TopicPartition], whole_log: bool) -> Mapping[TopicPartition, int]:
        fetcher = self._client._fetcher  # noqa: SLF001  aiokafka has no other way
        if whole_log:
            fetcher = copy(fetcher)
            fetcher._isolation_level = READ_UNCOMMITTED  # noqa: SLF001  the same
        return await fetcher.end_offsets(tps, int(self.silence_timeout * 1000))  # type: ignore[no-any-return]

    def _check_silence(self, asked_at: float, partial: Mapping[int, int]) -> None:
        """Raise Stalled where a request was not answered and nothing else was received for `silence_timeout`.

        The connection may be dead. By then the group has reassigned the partitions, and the client itself would wait
        for longer than a rebalance takes. While bytes arrive, the broker is slow and not silent, and while a quota
        delays answers, it has said so. `partial` is the result of `_partial_responses` at `asked_at`.
        """
        self._silent_since = min(self._silent_since, asked_at)
        if any(size and size != partial.get(connection) for connection, size in self._partial_responses().items()):
            self._silent_since = time.monotonic()  # a large response delays those behind it on its connection
        silent = time.monotonic() - max(self._silent_since, self.received_at, self._responses.throttled_until)
        if silent >= self.silence_timeout:
            raise Stalled(f"no word from the broker for {silent:.0f} s")

    def _partial_responses(self) -> dict[int, int]:
        """Return the bytes of partly received responses, by connection."""
        connections = self._client._client._conns.values()  # noqa: SLF001  aiokafka has no other way
        return {id(each): len(each._reader._buffer) for each in connections if each._reader is not None}  # noqa: SLF001
