"""Tests which offset of a partition may be committed."""

import pytest
from aiokafka import TopicPartition

from service.consumer.partitions import Partition


@pytest.mark.parametrize(
    ("done", "deferred", "committable"),
    [(None, set(), None), (5, set(), 5), (9, {3, 7}, 3), (5, {8}, 5)],
    ids=["nothing was read", "nothing is deferred", "some are deferred", "deferred behind a rewind"],
)
def test_no_offset_behind_a_deferred_or_unread_record_is_committable(
    done: int | None, deferred: set[int], committable: int | None
) -> None:
    assert Partition(TopicPartition("topic", 0), done, deferred).committable == committable
