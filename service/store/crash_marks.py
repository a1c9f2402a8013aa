"""Reads and writes crash marks: which pod handles which records of a partition (poison-record isolation).

Each function runs one statement in the caller's transaction. Each raises psycopg.Error.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from psycopg import AsyncConnection

from service.postgres.arrays import Integers, Texts
from service.postgres.statements import STATEMENTS


class Mark(NamedTuple):
    """The records that a pod was handling when it crashed: so many from `offset` on.

    `records` is None where the pod had marked only the partition. `unpacking` says that they are of one batch, and that
    the pod was unpacking it. `crashes` counts those with the same single record, or with the same batch in unpacking.
    """

    offset: int
    records: int | None
    crashes: int
    unpacking: bool = False


async def claim_marks(
    conn: AsyncConnection[Any], pod: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, Mark]:
    """Mark partitions as this pod's. Returns the marks that other pods left."""
    cursor = await conn.execute(STATEMENTS["claim_marks"], _partitions(pod, partitions))
    return {TopicPartition(row[0], row[1]): Mark(*row[2:]) async for row in cursor}


async def set_mark(
    conn: AsyncConnection[Any],
    pod: str,
    partition: TopicPartition,
    offset: int,
    records: int,
    *,
    unpacking: bool = False,
) -> None:
    """Mark the records that the pod handles next, or whose batch it unpacks next."""
    await conn.execute(
        STATEMENTS["set_mark"],
        {
            "pod": pod,
            "topic": partition.topic,
            "partition": partition.partition,
            "offset": offset,
            "records": records,
            "unpacking": unpacking,
        },
    )


async def widen_mark(conn: AsyncConnection[Any], pod: str, partition: TopicPartition) -> None:
    """Mark only the partition again: its suspicious records are handled."""
    await conn.execute(
        STATEMENTS["widen_mark"],
        {"pod": pod, "topic": partition.topic, "partition": partition.partition},
    )


async def release_marks(conn: AsyncConnection[Any], pod: str, partitions: Sequence[TopicPartition]) -> None:
    """Remove this pod's marks of these partitions."""
    await conn.execute(STATEMENTS["release_marks"], _partitions(pod, partitions))


def _partitions(pod: str, partitions: Sequence[TopicPartition]) -> dict[str, object]:
    return {
        "pod": pod,
        "topics": Texts([partition.topic for partition in partitions]),
        "partitions": Integers([partition.partition for partition in partitions]),
    }
