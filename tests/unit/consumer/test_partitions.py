"""How far a partition may be committed."""

import pytest
from aiokafka import TopicPartition

from service.consumer.partitions import Partition


@pytest.mark.parametrize(
    ("done", "held", "committable"),
    [(None, set(), None), (5, set(), 5), (9, {3, 7}, 3), (5, {8}, 5)],
    ids=["nothing was read", "nothing waits", "some wait", "what waits lies behind what was left"],
)
def test_no_offset_is_committed_past_what_waits_or_was_left(
    done: int | None, held: set[int], committable: int | None
) -> None:
    assert Partition(TopicPartition("topic", 0), done, held).committable == committable
