"""Tests how far a transaction moves the row of a partition."""

import pytest
from aiokafka import TopicPartition

from service.consumer.partitions import Partition


@pytest.mark.parametrize(
    ("taken", "deferred", "dealt", "moves_to"),
    [
        (set(), set(), (), 9),
        ({5, 6}, set(), (5, 6), 9),
        ({5, 6}, set(), (5,), 6),
        ({5, 6}, {3}, (5, 6), 3),
        ({5, 6}, {3}, (3,), 5),
        ({5, 6}, {3, 4}, (3, 5, 6), 4),
    ],
    ids=["nothing is open", "a poll", "half of it", "behind deferred", "deferred, during a poll", "some are deferred"],
)
def test_a_row_never_moves_past_a_record_that_is_not_dealt_with(
    taken: set[int], deferred: set[int], dealt: tuple[int, ...], moves_to: int
) -> None:
    partition = Partition(TopicPartition("topic", 0), row=2, reached=9, taken=taken, deferred=deferred)
    assert partition.step(dealt).next_offset == moves_to
    partition.applied(moves_to, dealt)
    assert partition.row == moves_to
    assert partition.step(()).next_offset >= moves_to
