"""Tracks the progress of the assigned partitions, and which of their records to fetch again."""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiokafka import TopicPartition

from service.consumer.crash_marks import IsolationRange
from service.domain.delivery import Delivery
from service.kafka.group import Membership
from service.kafka.record_batches import Unreadable

_log = structlog.get_logger(__name__)

FETCHES: Final = 4
"""How often a record batch with a wrong checksum is fetched: it may be damaged in transit once, but not every time."""
GAP_FETCHES: Final = 20
"""How often records after missing offsets are fetched: while two producers write at the same time, the embedded broker
may return a record batch before one with lower offsets."""
GAPS_SECONDS: Final = 60.0
"""Offsets that remain missing are permanently so (deleted, compacted, markers of transactions). For this long, no other
missing offsets are fetched again."""


@dataclass(slots=True, eq=False)
class Partition:
    """One partition while it is assigned to this consumer."""

    tp: TopicPartition
    done: int | None = None
    """Every offset below is committed in the database, except for those in `deferred`."""
    deferred: set[int] = field(default_factory=set)
    """Offsets of records that are deferred."""
    epoch: int = 0
    """Increases when the partition is rewound or revoked: reads from before are stale."""
    isolation: IsolationRange | None = None
    """The records that may have crashed a pod."""
    refetched: tuple[int, int] = (-1, 0)
    """The offset from which records are fetched again, and how often that was done."""
    gaps_until: float = 0.0
    """Until this time of the monotonic clock, missing offsets are accepted."""

    @property
    def committable(self) -> int | None:
        """The offset that may be committed to the group: every record below it is committed in the database."""
        return None if self.done is None else min([*self.deferred, self.done])

    def should_refetch(self, offset: int, fetches: int) -> bool:
        """Return whether to fetch from this offset again, at most `fetches` times in all. Counts the fetch."""
        before, fetched = self.refetched
        self.refetched = (offset, fetched + 1 if offset == before else 1)
        return self.refetched[1] < fetches

    def should_refetch_gap(self, offset: int) -> bool:
        """Return whether to fetch from this offset again, because its record is missing."""
        if time.monotonic() < self.gaps_until:
            return False
        if not (refetch := self.should_refetch(offset, GAP_FETCHES)):
            self.gaps_until = time.monotonic() + GAPS_SECONDS
            _log.info("offsets_missing", topic=self.tp.topic, partition=self.tp.partition, first=offset)
        return refetch


@dataclass(slots=True)
class PartitionRead:
    """The records that one poll read from one partition."""

    partition: Partition
    epoch: int
    deliveries: list[Delivery]

    @property
    def stale(self) -> bool:
        """Whether the partition was rewound or revoked since."""
        return self.epoch != self.partition.epoch

    def cut_before_refetch(self) -> int | None:
        """Drop corrupt records, and those after missing offsets, with all behind them, if another fetch may help.

        Returns the offset to fetch from again, None where nothing was dropped.
        """
        expected = self.partition.done
        for number, delivery in enumerate(self.deliveries):
            unreadable = delivery.value if isinstance(delivery.value, Unreadable) else None
            first = unreadable.first if unreadable else delivery.offset
            refetch = None
            if expected is not None and first > expected and self.partition.should_refetch_gap(expected):
                refetch = expected
            elif unreadable and unreadable.corrupt and self.partition.should_refetch(first, FETCHES):
                refetch = first
            if refetch is not None:
                del self.deliveries[number:]
                return refetch
            expected = delivery.offset + 1
        return None


class Assignment:
    """The partitions that are assigned to this consumer now, and its membership of the group."""

    def __init__(self) -> None:
        self.partitions: dict[TopicPartition, Partition] = {}
        self.membership: Membership

    def rewind(self, partition: Partition, offset: int) -> None:
        """Fetch from this offset again. Reads from before are stale then."""
        partition.epoch += 1
        self.membership.rewind(partition.tp, offset)

    def drop(self, tps: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Remove revoked partitions. Returns those that were assigned."""
        dropped = []
        for tp in list(tps):
            if partition := self.partitions.pop(tp, None):
                partition.epoch += 1
                dropped.append(tp)
        self.membership.abandon_fetches()
        return dropped


def offsets_of(deliveries: Iterable[Delivery]) -> Mapping[TopicPartition, set[int]]:
    """Return the offsets of the deliveries, by partition."""
    found: dict[TopicPartition, set[int]] = defaultdict(set)
    for delivery in deliveries:
        found[TopicPartition(delivery.topic, delivery.partition)].add(delivery.offset)
    return found


def first_offsets_of(deliveries: Iterable[Delivery]) -> dict[TopicPartition, int]:
    """Return the lowest offset of the deliveries, by partition."""
    return {tp: min(offsets) for tp, offsets in offsets_of(deliveries).items()}
