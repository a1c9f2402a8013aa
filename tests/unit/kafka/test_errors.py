"""Tests that an error of Kafka is described by its cause."""

from types import SimpleNamespace

import pytest
from aiokafka import errors

from service.kafka.errors import absence, describe


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (errors.TopicAuthorizationFailedError("t"), "TopicAuthorizationFailedError: t: our Kafka user lacks a right"),
        (errors.TopicAuthorizationFailedError({"b", "a"}), "TopicAuthorizationFailedError: a, b: our Kafka user lacks"),
        (errors.GroupAuthorizationFailedError("g"), "GroupAuthorizationFailedError: g: our Kafka user lacks a right"),
        (errors.ClusterAuthorizationFailedError(), "ClusterAuthorizationFailedError: our Kafka user lacks a right"),
        (errors.NotEnoughReplicasError(), "NotEnoughReplicasError: missing replicas: "),
        (errors.NotEnoughReplicasAfterAppendError(), "NotEnoughReplicasAfterAppendError: missing replicas: "),
        (errors.LeaderNotAvailableError("t 0"), "LeaderNotAvailableError: t 0: the partition has no leader"),
        (errors.GroupCoordinatorNotAvailableError("g"), "GroupCoordinatorNotAvailableError: g: the consumer group has"),
        (errors.UnknownTopicOrPartitionError("t"), "UnknownTopicOrPartitionError: t: the topic is missing"),
    ],
)
def test_the_cause_follows_the_type_and_what_it_is_about(error: Exception, line: str) -> None:
    assert describe(error).startswith(line)
    assert "\n" not in describe(error)
    assert describe(error, 10) == line[:10]


def test_other_errors_stay_as_they_are() -> None:
    assert describe(ValueError("one\ntwo")) == "ValueError: one"
    assert describe(TimeoutError()) == "TimeoutError"


def test_a_topic_that_may_not_be_described_is_not_called_missing() -> None:
    cluster = SimpleNamespace(unauthorized_topics={"hidden"})
    assert isinstance(absence(cluster, "hidden"), errors.TopicAuthorizationFailedError)
    assert isinstance(absence(cluster, "t"), errors.UnknownTopicOrPartitionError)
