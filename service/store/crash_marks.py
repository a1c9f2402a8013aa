"""Finding the record that kills the process.

A pod marks the partitions that it takes over, once, and unmarks them when it gives them back. So a mark that is
still there belonged to a pod that died: what it may have died of is the next poll of that partition. The pod that
follows takes those suspects in small portions, each marked before it is decoded; every death narrows the mark,
down to one record, and a record that was alone in three deaths is refused unread. As long as nobody dies there is
nothing to write: the innocent pay with no commit of their own.

Statements as in store.py: the connection first, no commit.
"""

from collections.abc import Sequence
from typing import Any

from aiokafka import TopicPartition
from psycopg import AsyncConnection

from service.postgres.arrays import Integers, Texts
from service.postgres.statements import STATEMENTS


async def claim(
    conn: AsyncConnection[Any], pod: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[int, int | None, int]]:
    """Mark partitions as this pod's; returns the marks (offset, records, deaths) that were left behind."""
    cursor = await conn.execute(STATEMENTS["claim_marks"], _partitions(pod, partitions))
    return {TopicPartition(row[0], row[1]): row[2:] async for row in cursor}


async def mark(conn: AsyncConnection[Any], pod: str, partition: TopicPartition, offset: int, records: int) -> None:
    """Say which records are taken next."""
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


async def widen(conn: AsyncConnection[Any], pod: str, partition: TopicPartition) -> None:
    """No record of the partition is suspected any more."""
    await conn.execute(
        STATEMENTS["widen_mark"],
        {"pod": pod, "topic": partition.topic, "partition": partition.partition},
    )


async def release(conn: AsyncConnection[Any], pod: str, partitions: Sequence[TopicPartition]) -> None:
    """Give the partitions back."""
    await conn.execute(STATEMENTS["release_marks"], _partitions(pod, partitions))


def _partitions(pod: str, partitions: Sequence[TopicPartition]) -> dict[str, object]:
    return {
        "pod": pod,
        "topics": Texts([partition.topic for partition in partitions]),
        "partitions": Integers([partition.partition for partition in partitions]),
    }
