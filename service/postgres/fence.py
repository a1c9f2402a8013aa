"""Checks whether a database holds the slice of the batches that this process is set to."""

from typing import Any, Final

from psycopg import AsyncConnection

from service.postgres.pool import Database

_ERROR: Final = "select els.slice_error()"


async def slice_error(database: Database) -> str | None:
    """Say in one line that the database holds another slice than this process; None where it does not.

    The schema must suit this code. Raises psycopg.Error.
    """
    async with database.transaction() as connection:
        return await read_slice_error(connection)


async def read_slice_error(connection: AsyncConnection[Any]) -> str | None:
    """Do the same in the caller's transaction."""
    row = await (await connection.execute(_ERROR)).fetchone()
    return row[0] if row else None
