"""Tracks the progress of the assigned partitions, and which of their records to fetch again."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import structlog
from aiokafka import TopicPartition

from service.consumer.crash_marks import IsolationRange, isolation_range
from service.domain.delivery import Delivery, fingerprint
from service.kafka.group import Membership
from service.kafka.record_batches import RecordBatch
from service.runtime import metrics
from service.store.crash_marks import Mark
from service.store.progress import LastRecord, Step, time_of
from service.store.skipped_inputs import SkippedRange

_log = structlog.get_logger(__name__)

FETCHES: Final = 4
"""How often a record batch with a wrong checksum is fetched: it may be damaged in transit once, but not every time."""
GAP_FETCHES: Final = 20
"""How often records after missing offsets are fetched: while two producers write at the same time, the embedded broker
may return a record batch before one with lower offsets."""
GAPS_SECONDS: Final = 60.0
"""Offsets that remain missing are permanently so (deleted, compacted, markers of transactions). For this long, no other
missing offsets are fetched again."""


class ReadRecord(Protocol):
    """A record that was read, and not decoded."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...


@dataclass(slots=True, eq=False)
class Partition:
    """One partition while it is assigned to this consumer."""

    tp: TopicPartition
    row: int | None = None
    """The offset that its row in the database is known to contain; None until it is known where to continue."""
    committed: int | None = None
    """The offset that the group has; None where it has none, or where another release committed it."""
    row_epoch: int = 0
    seen: int = 0
    """The offset that this pod last saw committed in the row, also while it is not known where to continue."""
    reached: int = 0
    """Every record below is dealt with, except for those of `taken` and `deferred`."""
    last: LastRecord | None = None
    """The last record below `reached`; None where it is not known."""
    taken: set[int] = field(default_factory=set)
    """Offsets of the poll that is in the database."""
    deferred: set[int] = field(default_factory=set)
    """Offsets of records that are deferred."""
    epoch: int = 0
    """Increases when the partition is rewound or revoked: reads from before are stale."""
    fetched: deque[RecordBatch] = field(default_factory=deque)
    """Record batches that are fetched, and not read to their end. The first may be open."""
    covered: int = 0
    """The end of the last record batch that was opened. One that begins behind it is after missing offsets."""
    mark: Mark | None = None
    """What a pod that crashed left behind, until it is known where to continue."""
    skipped: Sequence[SkippedRange] = ()
    """What operators have skipped of this log."""
    isolation: IsolationRange | None = None
    """The records that may have crashed a pod."""
    refetched: tuple[int, int] = (-1, 0)
    """The offset from which records are fetched again, and how often that was done."""
    gaps_until: float = 0.0
    """Until this time of the monotonic clock, missing offsets are accepted."""

    @property
    def position(self) -> int:
        """The offset that is read next."""
        return self.fetched[0].first if self.fetched else self.covered

    @property
    def unwritten(self) -> bool:
        """Whether the row is behind what is dealt with."""
        return self.row is not None and self.step(()).next_offset > self.row

    def locate(self, row: int, epoch: int, last: LastRecord | None, poll: int) -> int:
        """Continue at the offset of the row. `poll` is the largest number of records in a poll.

        Returns the offset to read from: what follows the last record that is known, since a new leader may have put
        others between that record and the offset. Those that are read again are repeats.
        """
        self.row = self.seen = row
        self.reached = row if last is None else min(row, last.offset + 1)
        self.row_epoch, self.last = epoch, last
        self.covered = self.reached
        self.invalidate()
        if self.mark is not None:
            self.isolation = isolation_range(self.mark, self.reached, poll)
            self.mark = None
        return self.reached

    def end_of_skipped(self, offset: int) -> int | None:
        """Return where to go on behind this offset, if an operator has skipped it; else None."""
        for each in self.skipped:
            if each.first_offset <= offset < each.next_offset:
                return each.next_offset
        return None

    def lose(self) -> None:
        """Forget where to continue: the topic has no record there."""
        self.row = None
        self.invalidate()

    def invalidate(self) -> None:
        """Make what was fetched and read before stale."""
        self.epoch += 1
        self.fetched.clear()

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Note the deliveries of a poll, in the order of their offsets, before they are applied."""
        self.taken = {delivery.offset for delivery in deliveries}
        last = deliveries[-1]
        self.reached = last.offset + 1
        self.last = LastRecord(last.offset, time_of(last.timestamp), fingerprint(last))

    def skip_to(self, offset: int, last: ReadRecord | None) -> None:
        """Note that below this offset there are only records that were taken, or belong to other cells.

        `last` is the last record below it, if one was read.
        """
        self.reached = max(self.reached, offset)
        if last is not None and (self.last is None or self.last.offset < last.offset):
            self.last = LastRecord(last.offset, time_of(last.timestamp), fingerprint(last))

    def rewind(self, offset: int) -> None:
        """Read from this offset again."""
        if offset < self.reached:
            self.reached, self.last = offset, None
        self.covered = offset
        self.invalidate()

    def step(self, dealt: Collection[int]) -> Step:
        """Return how far the row moves in a transaction that deals with these offsets."""
        open_offsets = (self.taken | self.deferred).difference(dealt)
        next_offset = min([self.reached, *open_offsets])
        record = self.last if next_offset == self.reached else None
        return Step(self.tp, self.row_epoch, self.seen, next_offset, record)

    def applied(self, next_offset: int, dealt: Collection[int]) -> None:
        """Note that such a transaction is committed."""
        self.taken.difference_update(dealt)
        self.deferred.difference_update(dealt)
        self.seen = max(self.seen, next_offset)
        if self.row is not None:
            self.row = max(self.row, next_offset)

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


class Refetch(NamedTuple):
    """A place in a read that another fetch may change."""

    place: int
    """How many deliveries are before it."""
    offset: int
    """Where to fetch from again."""
    is_gap: bool
    """Whether offsets are missing there. Otherwise the checksum of a record batch is wrong."""


@dataclass(slots=True)
class PartitionRead:
    """The records that one poll read from one partition."""

    partition: Partition
    epoch: int
    deliveries: list[Delivery] = field(default_factory=list)
    refetches: list[Refetch] = field(default_factory=list)
    position: int = 0
    """Every offset below is in a record batch that was read: it may be behind markers of transactions."""
    last_record: ReadRecord | None = None
    """The last record that was read. It may belong to another cell."""

    @property
    def stale(self) -> bool:
        """Whether the partition was rewound or revoked since."""
        return self.epoch != self.partition.epoch

    def add(self, records: Sequence[Any], deliveries: Sequence[Delivery]) -> None:
        """Note that records were read, and what was decoded of them: not those of other cells."""
        self.deliveries += deliveries
        self.last_record = records[-1] if records else None
        if len(deliveries) < len(records):
            metrics.OTHER_CELLS_INPUTS.inc(len(records) - len(deliveries))

    def opened(self, batch: RecordBatch) -> None:
        """Note that the records of this batch are read next."""
        place, covered = len(self.deliveries), self.partition.covered
        if batch.first > covered:
            self.refetches.append(Refetch(place, covered, is_gap=True))
        if batch.is_corrupt:
            self.refetches.append(Refetch(place, batch.base_offset, is_gap=False))
        self.partition.covered = max(covered, batch.next_offset)

    def cut_before_refetch(self) -> int | None:
        """Drop what is behind missing offsets and what has a wrong checksum, with all behind it, if a fetch may help.

        Returns the offset to fetch from again, None where nothing was dropped.
        """
        for place, offset, is_gap in self.refetches:
            if self.partition.should_refetch_gap(offset) if is_gap else self.partition.should_refetch(offset, FETCHES):
                del self.deliveries[place:]
                return offset
        return None


class Assignment:
    """The partitions that are assigned to this consumer now, and its membership of the group."""

    def __init__(self) -> None:
        self.partitions: dict[TopicPartition, Partition] = {}
        self.membership: Membership
        self.changed = asyncio.Event()
        """Set when partitions are assigned, or it is not known any more where to continue in one."""

    @property
    def unknown(self) -> list[Partition]:
        """The partitions with a leader of which it is not known where to continue, and nothing is in the database."""
        return [
            each
            for each in self.partitions.values()
            if each.row is None and not each.taken and self.membership.brokers.has_leader(each.tp)
        ]

    def lose(self, tp: TopicPartition) -> None:
        """Forget where to continue in a partition, if it is assigned."""
        if partition := self.partitions.get(tp):
            partition.lose()
            self.changed.set()

    def rewind(self, partition: Partition, offset: int) -> None:
        """Fetch from this offset again. Reads from before are stale then."""
        partition.rewind(offset)
        self.membership.rewind(partition.tp, offset)

    def check_leaders(self) -> None:
        """Forget where to continue in partitions with a new leader: it may have truncated the log."""
        for tp in self.membership.new_leaders():
            self.lose(tp)

    def drop(self, tps: Iterable[TopicPartition]) -> list[TopicPartition]:
        """Remove revoked partitions. Returns those that were assigned."""
        dropped = []
        for tp in list(tps):
            if partition := self.partitions.pop(tp, None):
                partition.invalidate()
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
