"""Tests which properties of topics are too small, what else is wrong with them, and where new replicas are placed."""

from collections.abc import Mapping, Sequence

import pytest

from service.domain.topics import BATCH_READY, CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.kafka.alteration import is_too_early, place_replicas
from service.kafka.cluster import ClusterState, PartitionState, TopicState
from service.kafka.rights import grants_idempotence
from service.kafka.topics import Difference, differences, faults, min_in_sync, retentions, supported_replication


def topic(*replicas: Sequence[int], in_sync: int | None = None, **configs: str) -> TopicState:
    named = {name.replace("_", "."): value for name, value in configs.items()}
    return TopicState([PartitionState(n, each, each[:in_sync]) for n, each in enumerate(replicas)], named)


def cluster(brokers: int | Mapping[int, str | None], **topics: TopicState) -> ClusterState:
    known = brokers if isinstance(brokers, Mapping) else dict.fromkeys(range(1, brokers + 1))
    return ClusterState(known, topics, [], [], None, {})


def found(state: ClusterState, replication: int | None = None, size: int = 0) -> list[tuple[str, str, str | None]]:
    needed = {"max.message.bytes": str(size)} if size else {}
    return [(each.name, each.wanted, each.found) for each in differences(state, {"t": needed}, replication)]


@pytest.mark.parametrize(("brokers", "replicas", "needed"), [(1, 1, 1), (2, 2, 1), (3, 3, 2), (7, 3, 2)])
def test_topics_have_as_many_replicas_as_the_brokers_support_at_most_three(
    brokers: int, replicas: int, needed: int
) -> None:
    assert supported_replication(cluster(brokers)) == replicas
    assert min_in_sync(replicas) == needed


def test_a_topic_with_enough_of_everything_has_no_difference() -> None:
    assert found(cluster(3, t=topic([1, 2, 3], min_insync_replicas="2"))) == []
    assert found(cluster(5, t=topic([1, 2, 3, 4], min_insync_replicas="3"))) == []
    assert found(cluster(1, t=topic([1]))) == []  # the embedded broker does not report min.insync.replicas


def test_too_few_replicas_are_a_difference_also_of_one_partition() -> None:
    state = cluster(3, t=topic([1, 2, 3], [1], min_insync_replicas="1"))
    assert found(state) == [("replication factor", "3", "1"), ("min.insync.replicas", "2", "1")]
    assert found(state, replication=1) == []
    assert found(cluster(3, t=topic([1, 2], min_insync_replicas="1")), replication=2) == []


def test_a_topic_with_three_replicas_needs_two_in_sync_while_a_broker_is_down() -> None:
    assert found(cluster(2, t=topic([1, 2, 3], min_insync_replicas="1"))) == [("min.insync.replicas", "2", "1")]


def test_a_size_that_is_too_small_or_not_reported_is_a_difference() -> None:
    assert found(cluster(1, t=topic([1], max_message_bytes="1999")), size=2000) == [
        ("max.message.bytes", "2000", "1999")
    ]
    assert found(cluster(1, t=topic([1])), size=2000) == [("max.message.bytes", "2000", None)]
    assert found(cluster(1, t=topic([1], max_message_bytes="2001")), size=2000) == []


def test_configurations_that_may_not_be_read_are_not_compared() -> None:
    unreadable = TopicState([PartitionState(0, [1], [1])], None)
    assert found(cluster(3, t=unreadable), size=1) == [("replication factor", "3", "1")]


@pytest.mark.parametrize(
    ("state", "message", "is_error"),
    [
        (topic([1], cleanup_policy="compact,delete"), "cleanup.policy is compact,delete", True),
        (topic([1, 2], min_insync_replicas="3"), "min.insync.replicas is 3 and it has 2 replicas", True),
        (
            topic([1, 2, 3], in_sync=1, min_insync_replicas="2"),
            "missing replicas: 1 of 3 replicas of partition 0",
            True,
        ),
        (
            topic([1, 2, 3], in_sync=2, min_insync_replicas="2"),
            "missing replicas: 2 of 3 replicas of partition 0",
            False,
        ),
        (topic([1, 2], min_insync_replicas="2"), "it takes no records while a broker is down", False),
    ],
)
def test_what_stops_or_loses_records_is_a_fault(state: TopicState, message: str, is_error: bool) -> None:
    (fault,) = faults(cluster(3, t=state), ["t"])
    assert message in fault.message
    assert fault.is_error == is_error


def test_a_sound_topic_has_no_fault() -> None:
    assert faults(cluster(3, t=topic([1, 2, 3], cleanup_policy="delete", min_insync_replicas="2")), ["t"]) == []


def test_output_topics_with_different_numbers_of_partitions_are_a_warning() -> None:
    topics = {SLOT_ASSIGNED: topic([1], [1]), BATCH_READY: topic([1]), CONTENT_PROVISIONED: topic([1], [1], [1])}
    (fault,) = faults(cluster(1, **topics))
    assert (fault.topic, fault.is_error) == (BATCH_READY, False)
    assert "1 partitions and other output topics have 2" in fault.message


def test_new_replicas_are_spread_over_the_brokers_and_the_leaders_stay() -> None:
    placed = dict(place_replicas(cluster(4, t=topic([1], [1, 2, 3], [2], [1])), "t", 3))
    assert {number: replicas[0] for number, replicas in placed.items()} == {0: 1, 2: 2, 3: 1}
    assert all(len(set(replicas)) == 3 for replicas in placed.values())
    assert {broker for replicas in placed.values() for broker in replicas} == {1, 2, 3, 4}


def test_new_replicas_go_to_racks_that_have_none() -> None:
    racks = {1: "a", 2: "a", 3: "b", 4: "c", 5: "a"}
    assert dict(place_replicas(cluster(racks, t=topic([1])), "t", 3)) == {0: [1, 3, 4]}


def test_a_replica_on_a_broker_that_is_down_stays() -> None:
    assert dict(place_replicas(cluster(3, t=topic([9])), "t", 3)) == {0: [9, 1, 2]}


def test_there_are_no_more_replicas_than_brokers() -> None:
    assert dict(place_replicas(cluster(2, t=topic([1])), "t", 3)) == {0: [1, 2]}
    assert dict(place_replicas(cluster(1, t=topic([1])), "t", 3)) == {}


def test_min_insync_replicas_does_not_rise_above_the_replicas_in_sync() -> None:
    needed = Difference("t", "min.insync.replicas", "2", "1")
    assert is_too_early(cluster(3, t=topic([1, 2, 3], [1, 2, 3], in_sync=1)), needed)
    assert not is_too_early(cluster(3, t=topic([1, 2, 3], in_sync=2)), needed)
    assert is_too_early(cluster(3), needed)
    assert not is_too_early(cluster(3, t=topic([1], in_sync=1)), Difference("t", "max.message.bytes", "2", "1"))


def test_retentions_that_are_not_reported_are_left_out() -> None:
    state = cluster(1, a=topic([1], retention_ms="60000"), b=topic([1], retention_ms="-1"), c=topic([1]))
    assert retentions(state, ["a", "b", "c", "missing"]) == {"a": 60.0, "b": float("inf")}


def test_brokers_before_2_8_need_a_right_for_idempotence() -> None:
    assert not grants_idempotence([(3, 0, 9), (45, 0, 0)])
    assert grants_idempotence([(3, 0, 11), (60, 0, 0)])


def test_differences_of_two_topics_are_told_apart() -> None:
    state = cluster(3, a=topic([1], min_insync_replicas="2"), b=topic([1, 2, 3], min_insync_replicas="2"))
    assert differences(state, {"a": {}, "b": {}}) == [Difference("a", "replication factor", "3", "1")]
