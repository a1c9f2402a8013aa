"""Deletes the rows of batches that belong to other cells, which a split has left in this database."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from service.postgres.arrays import Texts
from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS
from service.store.retention import SizedBatch


async def read_trimming(conn: AsyncConnection[Any]) -> str | None:
    """Read after which batch id there may still be rows of other cells; None where there are none."""
    rows = await fetch_rows(conn, "read_trimming")
    return rows[0][0] if rows else None


async def find_batches_of_others(
    conn: AsyncConnection[Any], after: str, page: int
) -> tuple[list[SizedBatch], str | None]:
    """Look for batches of other cells among the next rows, in the order of their ids.

    Returns the batches, and the batch id up to which they were looked for; None where no row is left.
    """
    *found, end = await fetch_rows(conn, "find_batches_of_others", after=after, page=page) or [(None, 0)]
    return [SizedBatch(*row) for row in found], end[0]


async def trim_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str], until: str) -> None:
    """Delete all rows of batches that belong to other cells, and note that there are none up to `until`."""
    if batch_ids:
        await conn.execute(STATEMENTS["trim_batches"], {"batch_ids": Texts(batch_ids)})
    await conn.execute(STATEMENTS["note_trimmed"], {"after": until})


async def end_trimming(conn: AsyncConnection[Any]) -> None:
    """Note that no row of another cell is left."""
    await conn.execute(STATEMENTS["end_trimming"])
