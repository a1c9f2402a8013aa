"""Describes errors of Kafka by their cause, for people."""

from typing import Any, Final

from aiokafka import errors

from service.runtime.errors import one_line

_NOT_ALLOWED: Final = "our Kafka user lacks a right (ACL) on {}; `els check` names it"
_MISSING_REPLICAS: Final = (
    "missing replicas: fewer than min.insync.replicas are in sync, so the topic takes no records; a broker is down"
)
_NO_LEADER: Final = "the partition has no leader: the brokers that have its replicas are down"
_CAUSES: Final[dict[type[BaseException], str]] = {
    errors.TopicAuthorizationFailedError: _NOT_ALLOWED.format("the topic"),
    errors.GroupAuthorizationFailedError: _NOT_ALLOWED.format("the consumer group"),
    errors.ClusterAuthorizationFailedError: _NOT_ALLOWED.format("the cluster"),
    errors.NotEnoughReplicasError: _MISSING_REPLICAS,
    errors.NotEnoughReplicasAfterAppendError: _MISSING_REPLICAS,
    errors.LeaderNotAvailableError: _NO_LEADER,
    errors.NotLeaderForPartitionError: _NO_LEADER,
    errors.GroupCoordinatorNotAvailableError: (
        "the consumer group has no coordinator: the brokers that have the topic __consumer_offsets are down"
    ),
    errors.UnknownTopicOrPartitionError: "the topic is missing; `els topics create` creates it",
    errors.MessageSizeTooLargeError: "the topic's max.message.bytes is too small; `els topics alter` raises it",
}


def describe(error: BaseException, most: int = 500) -> str:
    """Return one line with the type of an error and, where aiokafka tells it, its cause and the remedy."""
    cause = _CAUSES.get(type(error))
    if cause is None:
        return one_line(error, most)
    about = ", ".join(sorted(_names(error)))
    return f"{type(error).__name__}: {f'{about}: ' if about else ''}{cause}"[:most]


def _names(error: BaseException) -> set[str]:
    """Return the topics or groups that aiokafka attached to an error: one, or a set of them."""
    return {str(name) for part in error.args for name in (part if isinstance(part, set | frozenset) else [part])}


def absence(cluster: Any, topic: str) -> errors.KafkaError:
    """Return why the metadata of a client (`ClusterMetadata`) lacks a topic that was requested by its name.

    The brokers do not tell a client without the right Describe whether a topic exists.
    """
    if topic in cluster.unauthorized_topics:
        return errors.TopicAuthorizationFailedError(topic)
    return errors.UnknownTopicOrPartitionError(topic)
