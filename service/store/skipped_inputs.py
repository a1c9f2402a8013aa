"""Notes and reads the offsets of input topics that operators have skipped.

Each function runs in the caller's transaction. Each raises psycopg.Error.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from psycopg import AsyncConnection

from service.postgres.arrays import Integers, Texts
from service.postgres.pipeline import PendingResult
from service.postgres.queries import fetch_rows, send_query
from service.postgres.statements import STATEMENTS


class SkippedRange(NamedTuple):
    """Offsets of a partition, from the first one to `next_offset` (exclusive), in one epoch of its log."""

    epoch: int
    first_offset: int
    next_offset: int


Skipped = dict[TopicPartition, list[SkippedRange]]
"""By partition, in the order of offsets."""


async def skip_inputs(conn: AsyncConnection[Any], tp: TopicPartition, skipped: SkippedRange) -> bool:
    """Note offsets as skipped, and as lost. Returns False where all of them are noted already."""
    parameters = skipped._asdict() | {"topic": tp.topic, "partition": tp.partition}
    ((skipped_at,),) = await fetch_rows(conn, "skip_inputs", **parameters)
    del parameters["epoch"]
    return bool(await fetch_rows(conn, "lose_skipped_inputs", **parameters, skipped_at=skipped_at))


async def note_skipped_inputs(
    conn: AsyncConnection[Any], skipped: Sequence[tuple[TopicPartition, SkippedRange]]
) -> None:
    """Note offsets only as skipped: what is lost with them is reported later."""
    await conn.execute(
        STATEMENTS["note_skipped_inputs"],
        {
            "topics": Texts([tp.topic for tp, _ in skipped]),
            "partitions": Integers([tp.partition for tp, _ in skipped]),
            "epochs": Integers([each.epoch for _, each in skipped]),
            "first_offsets": Integers([each.first_offset for _, each in skipped]),
            "next_offsets": Integers([each.next_offset for _, each in skipped]),
        },
    )


async def send_read_skipped_inputs(conn: AsyncConnection[Any]) -> PendingResult[Skipped]:
    """Send the read of all offsets that are skipped, in the last known log of their partitions."""
    return await send_query(conn, "read_skipped_inputs", _by_partition)


async def read_skipped_inputs(conn: AsyncConnection[Any]) -> Skipped:
    """Read all offsets that are skipped, in the last known log of their partitions."""
    return await (await send_read_skipped_inputs(conn))


def is_skipped(skipped: Skipped, tp: TopicPartition, first: int, last: int) -> bool:
    """Return whether all offsets from `first` to `last` are skipped."""
    return any(each.first_offset <= first and last < each.next_offset for each in skipped.get(tp, ()))


def _by_partition(rows: list[Any]) -> Skipped:
    found: Skipped = defaultdict(list)
    for topic, partition, *skipped in rows:
        found[TopicPartition(topic, partition)].append(SkippedRange(*skipped))
    return dict(found)
