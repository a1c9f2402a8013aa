"""Keeps the number of partitions of each output topic that relays use.

Each function runs one statement in the caller's transaction. Each raises psycopg.Error.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from psycopg import AsyncConnection

from service.postgres.arrays import Integers, Texts
from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS


class Adopted(NamedTuple):
    """A topic with the numbers of partitions that relays used before, and use now."""

    topic: str
    used_before: int
    partitions: int


async def note_partitions(conn: AsyncConnection[Any], found: Mapping[str, int]) -> None:
    """Note how many partitions topics have now."""
    parameters = {"topics": Texts(list(found)), "found": Integers(list(found.values()))}
    await conn.execute(STATEMENTS["note_partitions"], parameters)


async def read_partitions(conn: AsyncConnection[Any]) -> dict[str, int]:
    """Return how many partitions of each topic relays use, from the first on."""
    return dict(await fetch_rows(conn, "read_partitions"))


async def find_added_partitions(conn: AsyncConnection[Any], found: Mapping[str, int]) -> list[Adopted]:
    """Return what `adopt_partitions` would change, where topics have as many partitions as `found`."""
    rows = await fetch_rows(
        conn, "find_added_partitions", topics=Texts(list(found)), found=Integers(list(found.values()))
    )
    return [Adopted(*row) for row in rows]


async def adopt_partitions(conn: AsyncConnection[Any]) -> list[Adopted]:
    """Make relays use all partitions that the topics have. Returns the topics that change."""
    return [Adopted(*row) for row in await fetch_rows(conn, "adopt_partitions")]
