"""The relay's statements: rows of the outbox, blocked batches, and which relay has which shards.

Every function takes the connection first and never commits. Texts of a row come as bytes: that is
what Kafka wants, and what PostgreSQL sends.
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
"""How long a batch rests after its next row could not be published, the first time."""

LONGEST_PAUSE_SECONDS = 60.0


class OutboxRow(NamedTuple):
    """One row to publish. `age` is in seconds, by the database's clock, when it was read."""

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
    """What is left of a row when it is published: its payload may be large."""

    batch_id: bytes
    seq: int
    shard: int


class FetchLimits(NamedTuple):
    """How much is read at a time: `size` is in bytes of payload, and a single row may be larger."""

    rows: int = 2000
    size: int = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Blocked:
    """A batch whose next row could not be published."""

    batch_id: bytes
    seq: int
    topic: bytes
    error: str


async def count_outbox(conn: AsyncConnection) -> int:
    """How many rows wait to be published, whoever has their shards."""
    ((count,),) = await (await conn.execute(STATEMENTS["count_outbox"])).fetchall()
    return int(count)


async def fetch_outbox(
    conn: AsyncConnection, relay: UUID, watermarks: Sequence[tuple[int, int]], limits: FetchLimits
) -> PendingResult[list[OutboxRow]]:
    """The next rows of some shards, served in the order given: pairs of shard and watermark."""
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
    """The next rows of blocked batches whose pause is over."""
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
    """Take acknowledged rows away. Answers with the id of this transaction."""
    keys = {
        "batch_ids": Texts([row.batch_id for row in rows]),
        "seqs": Integers([row.seq for row in rows]),
        "shards": Integers([row.shard for row in rows]),
    }
    cursor = await conn.execute(STATEMENTS["delete_outbox"], keys, binary=True)
    return PendingResult(cursor, lambda rows: int(rows[0][0]))


async def block_batch(conn: AsyncConnection, blocked: Sequence[Blocked]) -> None:
    """Say which batches could not go on, and why; each batch once."""
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
    """Batches that went on after all."""
    await conn.execute(STATEMENTS["unblock_batch"], {"batch_ids": Texts(batch_ids)})


async def forget_blocked(conn: AsyncConnection, shards: Sequence[int]) -> None:
    """Blocked batches without rows are blocked no more."""
    await conn.execute(STATEMENTS["forget_blocked"], {"shards": Integers(shards)})


async def _send(conn: AsyncConnection, statement: str, parameters: dict[str, Any]) -> PendingResult[list[OutboxRow]]:
    cursor = conn.cursor(binary=True)
    cursor.adapters.register_loader("text", ByteaBinaryLoader)
    await cursor.execute(STATEMENTS[statement], parameters)
    return PendingResult(cursor, lambda rows: [OutboxRow._make(values) for values in rows])


LARGE_EVENT = 1024 * 1024
"""Bytes of an event that is not copied once more for being written together with others."""


async def insert_outbox(conn: AsyncConnection[Any], events: Sequence[Outgoing]) -> None:
    """What must be published, in this order within a batch."""
    for weighs_much, some in groupby(events, lambda event: len(event.payload) > LARGE_EVENT):
        if not weighs_much:
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
