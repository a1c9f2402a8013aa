"""Inserts, reads and deletes rows of the outbox, and blocks batches whose next event could not be published.

A row has the events of one batch and transaction, one JSON envelope in each line, in the order of their publication.
Each function runs in the caller's transaction, and raises psycopg.Error. Texts of a row are read as bytes, as
PostgreSQL sends them and Kafka needs them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson
from psycopg import AsyncConnection
from psycopg.types.string import ByteaBinaryLoader

from service.domain.enveloped import Outgoing
from service.postgres.arrays import Integers, Texts
from service.postgres.pipeline import PendingResult
from service.postgres.statements import STATEMENTS

PAUSE_SECONDS = 5.0
"""How long a batch is blocked after its next event could not be published the first time."""

LONGEST_PAUSE_SECONDS = 60.0
"""The pause grows up to this, while the same event can not be published."""

EVENTS_PER_ROW: Final = 1_000
"""Limit of the events of a row. The number of an event is that of its row times this, plus its place in the row."""

ROW_BYTES: Final = 1024 * 1024
"""Limit of the bytes of a row; an event that is larger by itself has a row of its own."""

INSERT_BYTES: Final = 4 * ROW_BYTES
"""Limit of the bytes that a transaction collects before it inserts them."""


class OutboxRow(NamedTuple):
    """One row to publish. `age` is in seconds, by the database's clock, when it was read.

    `acknowledged` of its events are published already. `blocked`: its batch is blocked, and due for a retry. `is_page`:
    it has the form of this release. Transactions with ids below `horizon` had ended when the row was read.
    """

    seq: int
    shard: int
    batch_id: bytes
    events: bytes
    is_page: bool
    acknowledged: int
    blocked: bool
    age: float
    horizon: int


class OutboxKey(NamedTuple):
    """The key of a row. It is kept until the row is deleted, without the events, which may be large."""

    batch_id: bytes
    seq: int
    is_page: bool


class FetchLimits(NamedTuple):
    """How much is read at a time. `size` is in bytes of events, about 2,000 of them; a single row may be larger."""

    rows: int = 2000
    size: int = 3 * 512 * 1024


@dataclass(frozen=True, slots=True)
class Blocked:
    """A batch whose next event could not be published, and why. `acknowledged` events of its row are published.

    `was_blocked` by an earlier attempt to publish the same event. `ids`: its correlation id and trace id, as far as
    they are known.
    """

    batch_id: bytes
    seq: int
    acknowledged: int
    topic: bytes
    error: str
    was_blocked: bool = False
    ids: Mapping[str, str] = field(default_factory=dict)


class _NewRow(list[Outgoing]):
    """Events of one batch that become one row."""

    size = 0

    def has_room_for(self, event: Outgoing) -> bool:
        return self.size + len(event.payload) <= ROW_BYTES and len(self) < EVENTS_PER_ROW


class OutboxWriter:
    """Collects the events of one transaction, and inserts those of each batch as one row, or a few large ones."""

    def __init__(self, conn: AsyncConnection[Any]) -> None:
        self._conn = conn
        self._rows: list[_NewRow] = []
        self._row_of: dict[str, _NewRow] = {}
        self._size = 0

    async def add(self, events: Iterable[Outgoing]) -> None:
        """Collect events that must be published, in this order within a batch, and insert them where they are many.

        The counter rows of their batches must be locked.
        """
        for event in events:
            row = self._row_of.get(event.batch_id)
            if row is None or not row.has_room_for(event):
                row = self._row_of[event.batch_id] = _NewRow()
                self._rows.append(row)
            row.append(event)
            row.size += len(event.payload)
            self._size += len(event.payload)
            if self._size >= INSERT_BYTES:
                await self.flush()

    async def flush(self) -> None:
        """Insert what is collected."""
        rows, self._rows, self._row_of, self._size = self._rows, [], {}, 0
        if rows:
            await self._conn.execute(
                STATEMENTS["insert_outbox"],
                {
                    "batch_ids": Texts([row[0].batch_id for row in rows]),
                    "topics": Texts([orjson.dumps(Counter(event.topic for event in row)) for row in rows]),
                    "events": Texts([_lines(row) for row in rows]),
                },
            )


def _lines(row: _NewRow) -> bytes | bytearray:
    """Return the payloads in lines. A single one, which may be large, is not copied."""
    return row[0].payload if len(row) == 1 else b"\n".join(event.payload for event in row)


async def insert_outbox(conn: AsyncConnection[Any], events: Iterable[Outgoing]) -> None:
    """Insert all events that a transaction publishes, in this order within a batch."""
    writer = OutboxWriter(conn)
    await writer.add(events)
    await writer.flush()


async def count_outbox(conn: AsyncConnection) -> int:
    """Count the events that wait to be published, of all shards."""
    ((count,),) = await (await conn.execute(STATEMENTS["count_outbox"])).fetchall()
    return int(count)


async def fetch_outbox(
    conn: AsyncConnection, relay: UUID, shards: Iterable[int], watermark: int, limits: FetchLimits
) -> PendingResult[list[OutboxRow]]:
    """Send the read of the next rows of some shards, above `watermark`. The row with the lowest seq comes first."""
    return await _send_fetch(conn, "fetch_outbox", relay, shards, limits, watermark=watermark)


async def fetch_blocked(
    conn: AsyncConnection, relay: UUID, shards: Iterable[int], limits: FetchLimits
) -> PendingResult[list[OutboxRow]]:
    """Send the read of the next rows of blocked batches whose pause is over."""
    return await _send_fetch(conn, "fetch_blocked", relay, shards, limits, per_batch=max(1, limits.rows // 10))


async def _send_fetch(
    conn: AsyncConnection, statement: str, relay: UUID, shards: Iterable[int], limits: FetchLimits, **more: int
) -> PendingResult[list[OutboxRow]]:
    cursor = conn.cursor(binary=True)
    cursor.adapters.register_loader("text", ByteaBinaryLoader)
    bounds = {"rows": limits.rows, "bytes": limits.size, **more}
    await cursor.execute(STATEMENTS[statement], {"relay": relay, "shards": Integers(list(shards)), **bounds})
    return PendingResult(cursor, lambda rows: [OutboxRow._make(values) for values in rows])


async def delete_outbox(conn: AsyncConnection, rows: Sequence[OutboxKey]) -> PendingResult[int]:
    """Send the deletion of published rows. The result is the id of this transaction."""
    if previous := [row for row in rows if not row.is_page]:
        await conn.execute(STATEMENTS["delete_outbox_events"], _keys(previous))
    cursor = await conn.execute(STATEMENTS["delete_outbox"], _keys([row for row in rows if row.is_page]), binary=True)
    return PendingResult(cursor, lambda rows: int(rows[0][0]))


def _keys(rows: Sequence[OutboxKey]) -> dict[str, object]:
    return {"batch_ids": Texts([row.batch_id for row in rows]), "seqs": Integers([row.seq for row in rows])}


async def block_batch(conn: AsyncConnection, blocked: Sequence[Blocked]) -> None:
    """Block batches whose next event could not be published. No batch may be given twice."""
    await conn.execute(
        STATEMENTS["block_batch"],
        {
            "batch_ids": Texts([stuck.batch_id for stuck in blocked]),
            "seqs": Integers([stuck.seq for stuck in blocked]),
            "acknowledged": Integers([stuck.acknowledged for stuck in blocked]),
            "topics": Texts([stuck.topic for stuck in blocked]),
            "errors": Texts([stuck.error for stuck in blocked]),
            "pause": PAUSE_SECONDS,
            "longest_pause": LONGEST_PAUSE_SECONDS,
        },
    )


async def unblock_batch(conn: AsyncConnection, relay: UUID, batch_ids: Sequence[bytes]) -> None:
    """Unblock batches whose blocked event was published, of shards that this relay still holds."""
    await conn.execute(STATEMENTS["unblock_batch"], {"relay": relay, "batch_ids": Texts(batch_ids)})


async def forget_blocked(conn: AsyncConnection, shards: Iterable[int]) -> None:
    """Unblock the batches of these shards that have no rows left."""
    await conn.execute(STATEMENTS["forget_blocked"], {"shards": Integers(list(shards))})
