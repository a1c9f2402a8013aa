"""Keeps the number of partitions of each output topic on which all relays agree.

The partition of a key depends on that number. If each relay took it from its own metadata, partitions that are added
would split the events of a batch between two partitions, in each pod at another moment.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from psycopg import AsyncConnection

from service.postgres.pool import Database
from service.store import output_topics

FEWER_SECONDS: Final = 15.0
"""A topic that has fewer partitions for so long was created anew."""


class AgreedPartitions:
    """The partitions that relays use, as this relay last read them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._found: dict[str, int] = {}
        self._fewer_since: dict[str, float] = {}
        self._agreed: dict[str, int] = {}

    def count(self, topic: str) -> int | None:
        """Return how many partitions of a topic are used, from the first on; None where that is not agreed yet."""
        return self._agreed.get(topic)

    async def read(self, conn: AsyncConnection[Any]) -> None:
        """Read them anew, in a transaction of the caller. Raises psycopg.Error."""
        self._agreed = await output_topics.read_partitions(conn)

    async def agree(self, found: Mapping[str, int]) -> None:
        """Agree on topics for which this relay finds so many partitions. Raises psycopg.Error.

        Costs nothing where it finds what it found before.
        """
        changed = {
            topic: count
            for topic, count in found.items()
            # A database that lost the row, or was replaced by one without it, is noted again.
            if (self._found.get(topic) != count or topic not in self._agreed) and self._is_sure(topic, count)
        }
        if not changed:
            return
        async with self._database.transaction() as conn:
            await output_topics.note_partitions(conn, changed)
            await self.read(conn)
        self._found |= changed

    def _is_sure(self, topic: str, count: int) -> bool:
        """Return whether a topic has so many partitions: a broker that lags may report fewer, for a while.

        Meanwhile, what belongs to the others is held, since they have no leader.
        """
        if count >= self._agreed.get(topic, count):
            self._fewer_since.pop(topic, None)
            return True
        return time.monotonic() - self._fewer_since.setdefault(topic, time.monotonic()) > FEWER_SECONDS
