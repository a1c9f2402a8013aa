"""Keeps a pod out of the consumer group of another cell."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.structs import OffsetAndMetadata

from service.domain.cells import Slice
from service.domain.topics import INCOMING_TOPICS
from service.history.topics import committed_offsets, topic_partitions
from service.kafka.group import foreign_group_error

ANSWER_SECONDS: Final = 12.0
"""How long the brokers may take: a client waits for longer where a partition has lost its leader."""


class ForeignGroup(Exception):
    """The group is that of another cell. The message names it, in one line."""


async def group_error(kafka: Mapping[str, Any], group: str, of: Slice) -> str | None:
    """Say in one line that the group is that of another cell, by its name or its offsets; None where it is not.

    It is asked before a pod joins: as a member, the pod would take partitions away from the pods of that cell. So it
    does not join either where no broker answers. Raises KafkaError, TimeoutError.
    """
    if error := foreign_group_error(group, (), of):
        return error
    async with asyncio.timeout(ANSWER_SECONDS):
        inputs = (await topic_partitions(kafka))[INCOMING_TOPICS]
        committed = await committed_offsets(kafka, group, inputs)
    return foreign_group_error(group, (each.metadata or "" for each in committed.values()), of)


def check_group(group: str, of: Slice, committed: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Raise ForeignGroup where the group is that of another cell, by its name or by these offsets."""
    if error := foreign_group_error(group, (each.metadata or "" for each in committed.values()), of):
        raise ForeignGroup(error)
