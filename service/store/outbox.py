"""Inserts, reads and deletes rows of the outbox, and blocks batches whose next row could not be published.

Each function runs in the caller's transaction, and raises psycopg.Error. Texts of a row are read as bytes, as
PostgreSQL sends them and Kafka needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.types.string import ByteaBinaryLoader

from service.domain.enveloped import Outgoing
from service.postgres.arrays import Encoded, Integers, Texts, Uuids
from service.postgres.pipeline import PendingResult
from service.postgres.statements import STATEMENTS
from service.store.columns import origin_columns

PAUSE_SECONDS = 5.0
"""How long a batch is blocked after its next row could not be published the first time."""

LONGEST_PAUSE_SECONDS = 60.0
"""The pause grows up to this, while the same row can not be published."""


class OutboxRow(NamedTuple):
    """One row to publish. `age` is in seconds, by the database's clock, when it was read.

    Every transaction with an id below `horizon` had ended then.
    """

    seq: int
    shard: int
    batch_id: bytes
    topic: bytes
    payload: bytes
    event_id: bytes
    correlation_id: bytes
    traceparent: bytes | None
    tracestate: bytes | None
    age: float
    horizon: int


class OutboxKey(NamedTuple):
    """The key of a row. It is kept until the row is deleted, without the payload, which may be large."""

    batch_id: bytes
    seq: int
    shard: int


class FetchLimits(NamedTuple):
    """How much is read at a time. `size` is in bytes of payload; a single row may be larger."""

    rows: int = 2000
    size: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blocked:
    """A batch whose next row could not be published, with the error."""

    batch_id: bytes
    seq: int
    topic: bytes
    error: str


async def count_outbox(conn: AsyncConnection) -> int:
    """Count the rows that wait to be published, of all shards."""
    ((count,),) = await (await conn.execute(STATEMENTS["count_outbox"])).fetchall()
    return int(count)


async def fetch_outbox(
    conn: AsyncConnection, relay: UUID, watermarks: Sequence[tuple[int, int]], limits: FetchLimits
) -> PendingResult[list[OutboxRow]]:
    """Send the read of the next rows of some shards.

    `watermarks` are pairs of shard and watermark, in the order in which the shards are served.
    """
    return await _send(
        conn,
        "fetch_outbox",
        {
            "relay": relay,
            "shards": Integers([shard for shard, _ in watermarks]),
            "watermarks": Integers([watermark for _, watermark in watermarks]),
            "rows": limits.rows,
            "per_shard": max(1, limits.rows // 2),
            "bytes": limits.size,
        },
    )


async def fetch_blocked(
    conn: AsyncConnection, relay: UUID, shards: Sequence[int], limits: FetchLimits
) -> PendingResult[list[OutboxRow]]:
    """Send the read of the next rows of blocked batches whose pause is over."""
    return await _send(
        conn,
        "fetch_blocked",
        {
            "relay": relay,
            "shards": Integers(shards),
            "rows": limits.rows,
            "per_batch": max(1, limits.rows // 10),
            "bytes": limits.size,
        },
    )


async def delete_outbox(conn: AsyncConnection, rows: Sequence[OutboxKey]) -> PendingResult[int]:
    """Send the deletion of published rows. The result is the id of this transaction."""
    keys = {
        "batch_ids": Texts([row.batch_id for row in rows]),
        "seqs": Integers([row.seq for row in rows]),
        "shards": Integers([row.shard for row in rows]),
    }
    cursor = await conn.execute(STATEMENTS["delete_outbox"], keys, binary=True)
    return PendingResult(cursor, lambda rows: int(rows[0][0]))


async def block_batch(conn: AsyncConnection, blocked: Sequence[Blocked]) -> None:
    """Block batches whose next row could not be published. No batch may be given twice."""
    await conn.execute(
        STATEMENTS["block_batch"],
        {
            "batch_ids": Texts([stuck.batch_id for stuck in blocked]),
            "seqs": Integers([stuck.seq for stuck in blocked]),
            "topics": Texts([stuck.topic for stuck in blocked]),
            "errors": Texts([stuck.error for stuck in blocked]),
            "pause": PAUSE_SECONDS,
            "longest_pause": LONGEST_PAUSE_SECONDS,
        },
    )


async def unblock_batch(conn: AsyncConnection, batch_ids: Sequence[bytes]) -> None:
    """Unblock batches whose blocked row was published."""
    await conn.execute(STATEMENTS["unblock_batch"], {"batch_ids": Texts(batch_ids)})


async def forget_blocked(conn: AsyncConnection, shards: Sequence[int]) -> None:
    """Unblock the batches of these shards that have no rows left."""
    await conn.execute(STATEMENTS["forget_blocked"], {"shards": Integers(shards)})


async def _send(conn: AsyncConnection, statement: str, parameters: dict[str, Any]) -> PendingResult[list[OutboxRow]]:
    cursor = conn.cursor(binary=True)
    cursor.adapters.register_loader("text", ByteaBinaryLoader)
    await cursor.execute(STATEMENTS[statement], parameters)
    return PendingResult(cursor, lambda rows: [OutboxRow._make(values) for values in rows])


LARGE_EVENT_BYTES = 1024 * 1024
"""A larger event is inserted by a statement of its own: in an array of events it would be copied once more."""


async def insert_outbox(conn: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    """Insert events that must be published, in this order within a batch.

    Large ones are inserted by the statement `insert_large_event`.
    """
    for is_large, some in groupby(events, lambda event: len(event.payload) > LARGE_EVENT_BYTES):
        if not is_large:
            await _insert_events(conn, list(some))
            continue
        for event in some:
            large = event._asdict() | {"id": event.event_id, "payload": Encoded(event.payload)}
            await conn.execute(STATEMENTS["insert_large_event"], large)


async def _insert_events(conn: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    await conn.execute(
        STATEMENTS["insert_outbox"],
        {
            "ids": Uuids([event.event_id for event in events]),
            "batch_ids": Texts([event.batch_id for event in events]),
            "topics": Texts([event.topic for event in events]),
            "payloads": Texts([event.payload for event in events]),
            **origin_columns(events),
        },
    )
