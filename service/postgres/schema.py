"""Checks whether a database has the schema that this code needs."""

from typing import Any, Final

from psycopg import AsyncConnection

from service.postgres.pool import Database

EXPECTED_REVISION: Final = "0012"
"""The revision that this code is written for: the last file of migrations/versions. Revisions are numbers of four
digits, so that they compare as texts."""

# As JSON, since the column may not exist yet: the revision then serves its own code only.
_REVISION: Final = "select version_num, to_jsonb(revision) ->> 'oldest_code' from els.alembic_version as revision"


async def read_revision(database: Database) -> str | None:
    """Return the revision of the schema; None where there is no schema yet. Raises psycopg.Error."""
    async with database.transaction() as connection:
        return (await _read_schema(connection))[0]


async def schema_error(database: Database) -> str | None:
    """Say in one line why this code does not run on the schema; None where it does. Raises psycopg.Error.

    It runs on the revision that it was written for, and on a newer one that allows it: each revision states the oldest
    code that it still serves. So pods keep running during a migration, and old code may be started again after it.
    """
    async with database.transaction() as connection:
        return await read_schema_error(connection)


async def read_schema_error(connection: AsyncConnection[Any]) -> str | None:
    """Do the same in the caller's transaction."""
    revision, oldest_code = await _read_schema(connection)
    if revision is None or revision < EXPECTED_REVISION:
        found = f"at revision {revision}" if revision else "missing (at revision none)"
        return f"the schema is {found}, this code needs {EXPECTED_REVISION}: run `python -m service migrate`"
    if revision > EXPECTED_REVISION and (oldest_code is None or oldest_code > EXPECTED_REVISION):
        needed = oldest_code or revision
        return f"the schema is at revision {revision}, for code of {needed} or newer; this is {EXPECTED_REVISION}"
    return None


async def _read_schema(connection: AsyncConnection[Any]) -> tuple[str | None, str | None]:
    """Return the revision, and the oldest code that runs on it."""
    cursor = await connection.execute("select to_regclass('els.alembic_version') is not null")
    if await cursor.fetchone() == (False,):
        return None, None
    cursor = await connection.execute(_REVISION)
    return await cursor.fetchone() or (None, None)
