"""Reads from the database and the broker what `top` shows."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from aiokafka.errors import KafkaError

from service.domain.cells import ALL_BATCHES, Slice
from service.domain.topics import INCOMING_TOPICS
from service.kafka.offsets import OffsetsReader, TopicOffsets
from service.postgres.pool import Database
from service.runtime.errors import one_line
from service.store import monitoring

EVENTS = 12
"""Number of latest events that are read."""

DATABASE_SECONDS = 10.0
"""A database that takes longer counts as unavailable, and does not hold up what is shown of the others."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Holds what was read at one moment. A value that could not be read is None; the errors say why."""

    health: Mapping[str, Any] | None
    events: Sequence[Mapping[str, Any]]
    offsets: TopicOffsets | None
    error: str | None
    broker_error: str | None
    read_at: float
    """Time of the event loop, in seconds."""
    of: Slice = ALL_BATCHES

    @property
    def level(self) -> str:
        """Returns "action needed", "notice" or "fine"."""
        return "action needed" if self.health is None else str(self.health["level"])

    @property
    def attention(self) -> list[str]:
        """Returns one message for each thing that needs an action, then one for each notice."""
        if self.health is None:
            return [f"the database is unavailable: {self.error}"]
        return list(self.health["attention"])


@dataclass(frozen=True, slots=True)
class Rates:
    """Holds rates per second between two snapshots: records that arrived, and rows of the outbox, which have the events
    of a batch in a transaction. None if a snapshot lacks the number.
    """

    arriving: float | None
    written: float | None
    published: float | None


class SnapshotReader:
    """Reads a snapshot of each cell: one, where there are no cells. Keeps its connections between two reads."""

    def __init__(self, databases: Sequence[Database], kafka: Mapping[str, Any], groups: Sequence[str]) -> None:
        """The databases and the groups of the cells are in the same order."""
        self._databases = databases
        self._offsets = OffsetsReader(kafka, *groups)

    async def read(self) -> Sequence[Snapshot]:
        """Read once, all servers at the same time. An error of a server is stored in the snapshot, not raised."""
        (offsets, broker_error), tables = await asyncio.gather(
            self._broker(), asyncio.gather(*map(_tables, self._databases))
        )
        at = asyncio.get_running_loop().time()
        return [
            Snapshot(health, events, of_group, error, broker_error, at, database.slice)
            for database, of_group, (health, events, error) in zip(self._databases, offsets, tables, strict=True)
        ]

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(self._offsets.close(), *(database.close() for database in self._databases))

    async def _broker(self) -> tuple[Sequence[TopicOffsets | None], str | None]:
        try:
            return await self._offsets.read_all(), None
        except (KafkaError, OSError, TimeoutError) as error:
            return [None] * len(self._databases), one_line(error, 200)


_Tables = tuple[Mapping[str, Any] | None, Sequence[Mapping[str, Any]], str | None]


async def _tables(database: Database) -> _Tables:
    """Read the verdict and the latest events, or return why they could not be read."""
    try:
        async with asyncio.timeout(DATABASE_SECONDS), database.transaction() as conn:
            health = await monitoring.watch_health(conn)
            if (holds := Slice(health["cells"], health["cell"])) != database.slice:
                return None, (), f"it holds {holds}"
            return health, await monitoring.watch_events(conn, EVENTS), None
    except TimeoutError:
        return None, (), f"it has not answered within {DATABASE_SECONDS:.0f} s"
    except psycopg.Error as error:
        return None, (), one_line(error, 200)


def rates(before: Snapshot | None, now: Snapshot) -> Rates:
    """Compute the rates between two snapshots."""
    if before is None:
        return Rates(None, None, None)
    seconds = max(now.read_at - before.read_at, 0.001)

    def rate(first: int | None, last: int | None) -> float | None:
        # A counter that fell: the statistics were reset, or the topics were created again.
        return None if first is None or last is None or last < first else (last - first) / seconds

    def counted(snapshot: Snapshot, name: str) -> int | None:
        return None if snapshot.health is None else int(snapshot.health[name])

    def arrived(snapshot: Snapshot) -> int | None:
        return (
            None if snapshot.offsets is None else sum(snapshot.offsets.ends.get(topic, 0) for topic in INCOMING_TOPICS)
        )

    return Rates(
        rate(arrived(before), arrived(now)),
        rate(counted(before, "written"), counted(now, "written")),
        rate(counted(before, "published"), counted(now, "published")),
    )
