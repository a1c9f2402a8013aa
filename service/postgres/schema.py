"""Checks whether a database has the schema that this code needs."""

from typing import Final

from psycopg import AsyncConnection

from service.postgres.pool import Database
from service.postgres.session import APPLICATION_NAME, PLANNER, conninfo

EXPECTED_REVISION: Final = "0009"
"""The revision that this code is written for: the last file of migrations/versions. Revisions are numbers of four
digits, so that they compare as texts."""

OLDEST_SERVER: Final = 17
"""The oldest major version of PostgreSQL that the service runs on: older ones lack `transaction_timeout`."""

# As JSON, since the column may not exist yet: the revision then serves its own code only.
_REVISION: Final = "select version_num, to_jsonb(revision) ->> 'oldest_code' from els.alembic_version as revision"


async def server_error(url: str) -> str | None:
    """Say in one line why this code does not run on the server of `url`; None where it does. Raises psycopg.Error.

    Connects without our session settings: an older server rejects those that it does not know, and its error would not
    say why. Runs no statement: a server reports its version and the encoding of the database to each new connection. A
    pooler that reports neither passes.
    """
    async with await AsyncConnection.connect(conninfo(url, APPLICATION_NAME, None)) as connection:
        version = connection.info.server_version  # 0 where something in between reports none
        name = connection.info.parameter_status("server_version") or "unknown"
        encoding = connection.info.parameter_status("server_encoding")
    if 0 < version < OLDEST_SERVER * 10_000:
        return f"the server is PostgreSQL {name.split()[0]}; PostgreSQL {OLDEST_SERVER} or newer is needed"
    if encoding not in ("UTF8", None):
        return f"the encoding of the database is {encoding}; create it with encoding 'UTF8'"
    return None


async def read_revision(database: Database) -> str | None:
    """Return the revision of the schema; None where there is no schema yet. Raises psycopg.Error."""
    return (await _read_schema(database))[0]


async def schema_error(database: Database) -> str | None:
    """Say in one line why this code does not run on the schema; None where it does. Raises psycopg.Error.

    It runs on the revision that it was written for, and on a newer one that allows it: each revision states the oldest
    code that it still serves. So pods keep running during a migration, and old code may be started again after it.
    """
    revision, oldest_code = await _read_schema(database)
    if revision is None or revision < EXPECTED_REVISION:
        found = f"at revision {revision}" if revision else "missing (at revision none)"
        return f"the schema is {found}, this code needs {EXPECTED_REVISION}: run `python -m service migrate`"
    if revision > EXPECTED_REVISION and (oldest_code is None or oldest_code > EXPECTED_REVISION):
        needed = oldest_code or revision
        return f"the schema is at revision {revision}, for code of {needed} or newer; this is {EXPECTED_REVISION}"
    return None


async def planner_error(database: Database) -> str | None:
    """Say in one line which planner settings a session lacks; None where it has them all. Raises psycopg.Error.

    The URL's own `options` take precedence. Behind a pooler the settings are those of the role; a session that it
    opened before they were set keeps the old ones.
    """
    wanted = dict(option.removeprefix("-c ").split("=") for option in PLANNER)
    async with database.transaction() as connection:
        cursor = await connection.execute("select name, setting from pg_settings where name = any(%s)", [list(wanted)])
        found = dict(await cursor.fetchall())
    differ = [f"{name} is {found.get(name)}" for name, value in wanted.items() if found.get(name) != value]
    if not differ:
        return None
    remedy = "run `migrate`, then restart the pooler's sessions" if database.pooler else "set by the options of its URL"
    return f"{', '.join(differ)}: {remedy}"


async def durability_warning(database: Database) -> str | None:
    """Say in one line that commits of others would be lost in a crash; None where they are not. Raises psycopg.Error.

    The service's own transactions set `synchronous_commit`; the default applies to everyone who does not.
    """
    async with database.transaction() as connection:
        cursor = await connection.execute("select reset_val from pg_settings where name = 'synchronous_commit'")
        if await cursor.fetchone() != ("off",):
            return None
    return (
        "synchronous_commit is off by default: a crash of the server loses the last commits of sessions that do not set"
        " it (the service does)"
    )


async def _read_schema(database: Database) -> tuple[str | None, str | None]:
    """Return the revision, and the oldest code that runs on it."""
    async with database.transaction() as connection:
        cursor = await connection.execute("select to_regclass('els.alembic_version') is not null")
        if await cursor.fetchone() == (False,):
            return None, None
        cursor = await connection.execute(_REVISION)
        return await cursor.fetchone() or (None, None)
