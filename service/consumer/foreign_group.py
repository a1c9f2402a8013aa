"""Keeps a pod out of the consumer group of another cell."""

from collections.abc import Mapping
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from service.domain.topics import INCOMING_TOPICS
from service.history.topics import committed_offsets, topic_partitions
from service.kafka.group import ConsumerOptions, foreign_group_error


class ForeignGroup(Exception):
    """Another cell has committed offsets of the group. The message names it, in one line."""


async def group_error(kafka: Mapping[str, Any], options: ConsumerOptions) -> str | None:
    """Say in one line that the group is that of another cell; None where it is not, or where no broker answers.

    It is asked before a pod joins: as a member, the pod would take partitions away from the pods of that cell.
    """
    if options.of.is_all:
        return None  # the offsets are looked at anyway when partitions are located
    try:
        inputs = (await topic_partitions(kafka))[INCOMING_TOPICS]
        check_group(options, await committed_offsets(kafka, options.group, inputs))
    except ForeignGroup as error:
        return str(error)
    except (KafkaError, TimeoutError):
        return None
    return None


def check_group(options: ConsumerOptions, committed: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Raise ForeignGroup where another cell has committed any of these offsets."""
    texts = (each.metadata or "" for each in committed.values())
    if error := foreign_group_error(options.group, texts, options.of):
        raise ForeignGroup(error)
