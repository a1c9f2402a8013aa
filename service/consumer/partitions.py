"""What a consumer knows of its partitions: how far each has come, and what has to be fetched again."""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog
from aiokafka import TopicPartition

from service.consumer.crash_marks import Suspects
from service.domain.delivery import Delivery
from service.kafka.record_batches import Unreadable

_log = structlog.get_logger(__name__)

FETCHES = 4
"""Times that a record batch is fetched whose checksum does not fit: on the way it may be damaged once, not always."""
GAP_FETCHES = 20
"""Times that what stands behind offsets that are missing is fetched: the embedded broker shows a record batch before
one with lower offsets, where two producers write at once."""
GAPS_SECONDS = 60.0
"""Where a gap stays, offsets are missing for good (deleted, compacted, markers of transactions): none is looked for for
so long."""


@dataclass(slots=True, eq=False)
class Partition:
    """One partition while it is ours."""

    tp: TopicPartition
    done: int | None = None
    """Every offset below is dealt with, but for those that are held."""
    held: set[int] = field(default_factory=set)
    """Offsets of records that were set aside."""
    epoch: int = 0
    """Goes up when the partition is rewound or given back: what was read before is void."""
    suspected: Suspects | None = None
    doubted: tuple[int, int] = (-1, 0)
    """The offset from which what was fetched is to be fetched again, and how often it was."""
    gaps_until: float = 0.0
    """Until then offsets may be missing."""

    @property
    def committable(self) -> int | None:
        return None if self.done is None else min([*self.held, self.done])

    def doubt(self, offset: int, fetches: int) -> bool:
        """Whether another fetch from this offset is worth it, with so many in all."""
        before, fetched = self.doubted
        self.doubted = (offset, fetched + 1 if offset == before else 1)
        return self.doubted[1] < fetches

    def doubt_gap(self, offset: int) -> bool:
        """The same where what stands at this offset is missing."""
        if time.monotonic() < self.gaps_until:
            return False
        if not (worth_it := self.doubt(offset, GAP_FETCHES)):
            self.gaps_until = time.monotonic() + GAPS_SECONDS
            _log.info("offsets_missing", topic=self.tp.topic, partition=self.tp.partition, first=offset)
        return worth_it


@dataclass(slots=True)
class Read:
    """What one poll brought from one partition."""

    partition: Partition
    epoch: int
    deliveries: list[Delivery]

    @property
    def void(self) -> bool:
        return self.epoch != self.partition.epoch

    def cut_doubtful(self) -> int | None:
        """Leave what is torn or missing to another fetch, with all behind it; returns from which offset, if any is."""
        expected = self.partition.done
        for number, delivery in enumerate(self.deliveries):
            unreadable = delivery.value if isinstance(delivery.value, Unreadable) else None
            first = unreadable.first if unreadable else delivery.offset
            doubtful = None
            if expected is not None and first > expected and self.partition.doubt_gap(expected):
                doubtful = expected
            elif unreadable and unreadable.torn and self.partition.doubt(first, FETCHES):
                doubtful = first
            if doubtful is not None:
                del self.deliveries[number:]
                return doubtful
            expected = delivery.offset + 1
        return None


def offsets_of(deliveries: Iterable[Delivery]) -> dict[TopicPartition, set[int]]:
    found: dict[TopicPartition, set[int]] = defaultdict(set)
    for delivery in deliveries:
        found[TopicPartition(delivery.topic, delivery.partition)].add(delivery.offset)
    return found


def first_offsets_of(deliveries: Iterable[Delivery]) -> dict[TopicPartition, int]:
    return {tp: min(offsets) for tp, offsets in offsets_of(deliveries).items()}
