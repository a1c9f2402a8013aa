"""Tests that of transactions only what is committed is read, as aiokafka does it, and every offset is covered."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.topics import CONTENT_PROVISIONED
from service.kafka.record_batches import Records
from tests.support.builders.batches import at, corrupt, marker, record_batch

TP = TopicPartition(CONTENT_PROVISIONED, 0)
PRODUCERS = (7, 8, 9)


class Log:
    """A log with transactions, as a leader keeps it."""

    def __init__(self) -> None:
        self.batches: list[bytes] = []
        self.committed: list[int] = []
        self._aborted: list[tuple[int, int, int]] = []
        self._open: dict[int, list[int]] = {}
        self._next = 0

    def append(self, producer: int, *, transactional: bool, records: int = 2) -> None:
        values = [b"%d" % (self._next + number) for number in range(records)]
        batch = record_batch(values, name=b"a-name", transaction_of=producer if transactional else None)
        self.batches.append(at(self._next, batch))
        offsets = range(self._next, self._next + records)
        if transactional:
            self._open.setdefault(producer, []).extend(offsets)
        else:
            self.committed += offsets
        self._next += records

    def end(self, producer: int, *, aborts: bool) -> None:
        if offsets := self._open.pop(producer, None):
            if aborts:
                self._aborted.append((producer, offsets[0], self._next))
            else:
                self.committed += offsets
            self.batches.append(at(self._next, marker(producer, aborts=aborts)))
            self._next += 1

    def end_all(self) -> None:
        for producer in list(self._open):
            self.end(producer, aborts=False)

    def fetched(self, first: int = 0) -> tuple[bytes, list[tuple[int, int]]]:
        """The batches from this one on, and the transactions aborted there, as the response to a fetch has them."""
        data = b"".join(self.batches[first:])
        begin = Records(data).next_batch().base_offset if data else self._next
        aborted = [(producer, since) for producer, since, end in self._aborted if end >= begin]
        return data, sorted(aborted, key=lambda each: each[1])


def read(data: bytes, aborted: Sequence[tuple[int, int]]) -> tuple[list[int], list[range]]:
    """Returns the offsets of the records, and the range of each batch."""
    records = Records(data)
    records.hide(aborted)
    found: list[int] = []
    covered = []
    while records.has_next():
        batch = records.next_batch()
        covered.append(range(batch.base_offset, batch.next_offset))
        if not batch.is_empty:
            found += covered[-1]
    return found, covered


def read_by_aiokafka(data: bytes, aborted: Sequence[tuple[int, int]]) -> list[int]:
    records = PartitionRecords(TP, MemoryRecords(data), aborted, 0, None, None, True, READ_COMMITTED)
    return [record.offset for record in records]


STEPS = st.lists(
    st.tuples(st.sampled_from(PRODUCERS), st.sampled_from(["in", "in", "beside", "commit", "abort"])), max_size=40
)


@example([(7, "in"), (7, "abort"), (7, "in"), (7, "commit")], 0)
@given(STEPS, st.integers(0, 40))
def test_what_is_committed_is_read_and_every_offset_is_covered(steps: list[tuple[int, str]], start: int) -> None:
    log = Log()
    for producer, step in steps:
        if step in ("in", "beside"):
            log.append(producer, transactional=step == "in")
        else:
            log.end(producer, aborts=step == "abort")
    log.end_all()  # a broker returns no records behind the first open transaction
    data, aborted = log.fetched(min(start, len(log.batches)))
    found, covered = read(data, aborted)
    assert found == read_by_aiokafka(data, aborted)
    assert found == sorted(offset for offset in log.committed if covered and offset >= covered[0].start)
    for before, after in pairwise(covered):
        assert before.stop == after.start


@pytest.mark.parametrize("damaged", [0, 1])
def test_behind_a_batch_that_cannot_be_read_nothing_is_taken_as_aborted(damaged: int) -> None:
    """It may be the marker that ends the transaction: then what follows is committed."""
    log = Log()
    log.append(7, transactional=True)
    log.end(7, aborts=True)
    log.append(7, transactional=True)
    log.end(7, aborts=False)
    log.batches[damaged] = corrupt(log.batches[damaged])
    found, _ = read(*log.fetched())
    assert set(found) >= {3, 4}


def test_a_marker_with_another_content_is_no_abort() -> None:
    log = Log()
    log.append(7, transactional=True)
    log.end(7, aborts=True)
    batches: list[Any] = [Records(each).next_batch() for each in (log.batches[1], marker(7, aborts=False))]
    assert [each.aborts for each in batches] == [True, False]
    assert not Records(marker(7, aborts=True, key=b"")).next_batch().aborts
