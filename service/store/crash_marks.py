"""Marks of poison-record isolation: which pod handles which records of a partition.

Each function runs one statement in the caller's transaction. Each raises psycopg.Error.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from psycopg import AsyncConnection

from service.postgres.arrays import Integers, Texts
from service.postgres.statements import STATEMENTS


class Mark(NamedTuple):
    """Which records a pod was handling when it crashed. `records` is None where it had marked the partition only."""

    offset: int
    records: int | None
    crashes: int


async def claim_marks(
    conn: AsyncConnection[Any], pod: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, Mark]:
    """Mark partitions as this pod's. Returns the marks that other pods left behind."""
    cursor = await conn.execute(STATEMENTS["claim_marks"], _partitions(pod, partitions))
    return {TopicPartition(row[0], row[1]): Mark(*row[2:]) async for row in cursor}


async def set_mark(conn: AsyncConnection[Any], pod: str, partition: TopicPartition, offset: int, records: int) -> None:
    """Mark the records that are handled next."""
    await conn.execute(
        STATEMENTS["set_mark"],
        {
            "pod": pod,
            "topic": partition.topic,
            "partition": partition.partition,
            "offset": offset,
            "records": records,
        },
    )


async def widen_mark(conn: AsyncConnection[Any], pod: str, partition: TopicPartition) -> None:
    """Mark the partition as a whole again."""
    await conn.execute(
        STATEMENTS["widen_mark"],
        {"pod": pod, "topic": partition.topic, "partition": partition.partition},
    )


async def release_marks(conn: AsyncConnection[Any], pod: str, partitions: Sequence[TopicPartition]) -> None:
    """Remove this pod's marks."""
    await conn.execute(STATEMENTS["release_marks"], _partitions(pod, partitions))


def _partitions(pod: str, partitions: Sequence[TopicPartition]) -> dict[str, object]:
    return {
        "pod": pod,
        "topics": Texts([partition.topic for partition in partitions]),
        "partitions": Integers([partition.partition for partition in partitions]),
    }
