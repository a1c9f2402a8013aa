"""Deletes what a split has left in the database: all rows of batches that belong to another cell by now.

The other half of the split has them, too, whether they have ended or not. So nothing is published, and nobody works on
them here, except an erasure of personal data. How far it is, is stored with each chunk: the next pod goes on there.
"""

import time
from collections.abc import Awaitable, Callable, Collection
from itertools import accumulate, takewhile
from typing import Any

from psycopg import AsyncConnection

from service.purge.policy import Chunk
from service.store import trimming

TRIM_SECONDS = 30.0
"""After so long, a round leaves the rest to the next one: nothing expires meanwhile."""

ROWS_PER_PAGE = 1_000
"""Rows, of the first of each batch's tables, among which a transaction looks for batches of other cells."""

SLOTS_PER_TRIM = 5_000
"""Slots after which a transaction ends."""

Locking = Callable[[AsyncConnection[Any], Collection[str]], Awaitable[list[str]]]
"""Locks batches without waiting, and returns those that it could lock."""


class Trimmer:
    """Trims in one round."""

    def __init__(self, lock: Locking) -> None:
        self._lock = lock
        self._began: float | None = None

    async def trim(self, conn: AsyncConnection[Any], *_: object) -> Chunk:
        """Delete the next batches of other cells with all their rows; only a read where there are none."""
        after = await trimming.read_trimming(conn)
        if after is None:
            return Chunk("trimmed_batches")
        self._began = self._began or time.monotonic()
        found, until = await trimming.find_batches_of_others(conn, after, ROWS_PER_PAGE)
        if until is None:
            await trimming.end_trimming(conn)
            return Chunk("trimmed_batches")
        slots_before = accumulate((batch.expected for batch in found), initial=0)
        some = [batch.batch_id for batch, slots in zip(found, slots_before, strict=False) if slots < SLOTS_PER_TRIM]
        if len(some) < len(found):
            until = some[-1]
        locked = set(await self._lock(conn, some))
        is_free = locked.issuperset(some)
        if not is_free:  # the next round goes on with the first batch that somebody works on
            some = list(takewhile(locked.__contains__, some))
            until = some[-1] if some else after
        await trimming.trim_batches(conn, some, until)
        more = is_free and time.monotonic() - self._began < TRIM_SECONDS
        return Chunk("trimmed_batches", [(batch_id,) for batch_id in some], more=more)
