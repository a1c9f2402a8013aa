"""Checks whether a server, and what stands in front of it, suits the service."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.postgres.errors import explained
from service.postgres.pipeline import Connection
from service.postgres.pool import Database
from service.postgres.session import APPLICATION_NAME, CONNECT_SECONDS, PLANNER, Pooler, Timeouts, conninfo

OLDEST_SERVER: Final = 17
"""The oldest major version of PostgreSQL that the service runs on: older ones lack `transaction_timeout`."""

_STATE: Final = """
select
    pg_is_in_recovery(),
    current_setting('transaction_read_only')::boolean,
    case when current_setting('transaction_read_only')::boolean then
        (select source from pg_settings where name = 'default_transaction_read_only')
    end,
    pg_backend_pid()
"""

_SHARES: Final = "a pooler that shares sessions stands in front of the server: set ELS_DATABASE_POOLER to transaction"

_ROUNDS: Final = 5
"""How often two sessions are compared. A pooler hands out the session that was used last, unless others take it."""

_LIMITS: Final = """
select
    current_setting('max_connections')::integer
        - current_setting('superuser_reserved_connections')::integer
        - current_setting('reserved_connections')::integer,
    (select nullif(rolconnlimit, -1) from pg_roles where rolname = session_user),
    (select nullif(datconnlimit, -1) from pg_database where datname = current_database())
"""


async def server_error(url: str) -> str | None:
    """Say in one line why this code does not run on the server of `url`; None where it does. Raises psycopg.Error.

    Connects without our session settings: an older server rejects those that it does not know, and its error would not
    say why. A server reports its version and the encoding of the database to each new connection. A pooler that reports
    neither passes.
    """
    async with await _connect(url) as connection:
        version = connection.info.server_version  # 0 where something in between reports none
        name = connection.info.parameter_status("server_version") or "unknown"
        encoding = connection.info.parameter_status("server_encoding")
        if 0 < version < OLDEST_SERVER * 10_000:
            return f"the server is PostgreSQL {name.split()[0]}; PostgreSQL {OLDEST_SERVER} or newer is needed"
        if encoding not in ("UTF8", None):
            return f"the encoding of the database is {encoding}; create it with encoding 'UTF8'"
        return await session_error(connection, None)


async def session_error(connection: AsyncConnection[Any], pooler: Pooler | None) -> str | None:
    """Say in one line why a session is of no use; None where it is. Cheap. Raises psycopg.Error.

    Its server accepts no writes, or it has another session of the server than in the beginning, although `pooler` says
    that it keeps one; None: that is not checked.
    """
    is_standby, is_read_only, source, pid = await _row(connection, _STATE)
    if pooler in ("none", "session") and pid != getattr(connection, "server_pid", pid):
        return _SHARES
    if is_standby:
        return "the server is a standby: the primary is down, or the URL does not lead to it (it may name all hosts)"
    if is_read_only:
        return f"read-only: default_transaction_read_only is on (set by: {source}); reset it"
    return None


async def pooler_error(url: str, pooler: Pooler) -> str | None:
    """Say in one line that another pooler stands in front of the server than the setting says; None where it fits.

    A server tells each client its process id, and a pooler a number of its own. A pooler that shares sessions gives two
    of its clients the same one, or one client different ones. A session pooler that accepts our `options` fits, too.
    Raises psycopg.Error.
    """
    if pooler == "transaction":
        return None
    async with await _connect(url) as one:
        if pooler == "none" and await _server_pid(one) == one.pgconn.backend_pid:
            return None
        async with await _connect(url) as other:
            seen = [{await _server_pid(each) for each in (one, other)} for _ in range(_ROUNDS)]
    if len(seen[0]) == 1 or any(pids != seen[0] for pids in seen):
        return _SHARES
    if pooler == "none":
        try:
            await (await AsyncConnection.connect(conninfo(url, APPLICATION_NAME, Timeouts()))).close()
        except psycopg.OperationalError as error:
            if explained(error) is not error:
                return "a session pooler stands in front of the server: set ELS_DATABASE_POOLER to session"
            raise
    return None


async def planner_error(database: Database) -> str | None:
    """Say in one line which planner settings a session lacks; None where it has them all. Raises psycopg.Error.

    The URL's own `options` take precedence. Behind a transaction pooler the settings are those of the role; a session
    that it opened before they were set keeps the old ones.
    """
    found = await _settings(database, list(PLANNER))
    differ = [f"{name} is {found.get(name)}" for name, value in PLANNER.items() if found.get(name) != value]
    return f"{', '.join(differ)}: {_remedy(database)}" if differ else None


async def timeouts_error(database: Database) -> str | None:
    """Say in one line which timeouts of a session are off, or shorter than needed; None where none is.

    They come from where `planner_error` says. Raises psycopg.Error.
    """
    wanted = {name: int(value) for name, value in asdict(Timeouts()).items()}
    found = await _settings(database, list(wanted))
    differ = [
        f"{name} is {found[name]} ms and should be {value} ms"
        for name, value in wanted.items()
        if not value <= int(found[name])
    ]
    return f"{', '.join(differ)}: {_remedy(database)}" if differ else None


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


def count_on_server(url: str, urls: Iterable[str]) -> int:
    """Count those of the URLs that name the same host and port as `url`."""

    def server_of(each: str) -> list[object]:
        parts = conninfo_to_dict(each)
        return [parts.get(name) for name in ("host", "hostaddr", "port")]

    return [server_of(each) for each in urls].count(server_of(url))


async def connections_error(database: Database, pods: int, others: int, cells: int = 1) -> str | None:
    """Say in one line that the server allows fewer sessions than are needed; None where it allows as many.

    `pods` are those of this database, and as many of each of the other `cells` that are on its server.
    `others` have logins of their own, so that the limit of this role does not count for them.
    Behind a transaction pooler the pods' sessions are not the server's: nothing is compared. Raises psycopg.Error.
    """
    if database.pooler == "transaction":
        return None
    async with database.transaction() as connection:
        server, role, of_database = await _row(connection, _LIMITS)
    limits = {
        "max_connections without the reserved ones": (server, cells * pods + others),
        "CONNECTION LIMIT of the role": (role, cells * pods),
        "CONNECTION LIMIT of the database": (of_database, pods + others),
    }
    low = [
        f"{name} is {limit} and should be {needed}"
        for name, (limit, needed) in limits.items()
        if limit is not None and limit < needed
    ]
    which = f" for {cells} cells" if cells > 1 else ""
    return f"too few connections{which}: {', '.join(low)}; see docs/deployment.md" if low else None


def _remedy(database: Database) -> str:
    if database.pooler == "transaction":
        return "run `migrate`, or `alter role … set`, then restart the pooler's sessions"
    return "set by the options of its URL, or by a pooler that ELS_DATABASE_POOLER does not name"


async def _settings(database: Database, names: list[str]) -> dict[str, str]:
    async with database.transaction() as connection:
        cursor = await connection.execute("select name, setting from pg_settings where name = any(%s)", [names])
        return dict(await cursor.fetchall())


async def _connect(url: str) -> AsyncConnection[Any]:
    """Open a connection without our settings. To a server that accepts no writes if there is no other."""
    try:
        connection = await _open(conninfo(url, APPLICATION_NAME, None))
    except psycopg.OperationalError as error:
        if "read-only" not in str(error):
            raise explained(error) from None
        connection = await _open(conninfo(make_conninfo(url, target_session_attrs="any"), APPLICATION_NAME, None))
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await connection.execute("select")
    except TimeoutError:  # a pooler accepts a client before it has a session for it
        connection.pgconn.finish()
        raise psycopg.OperationalError("too few connections: the pooler gives no session in time") from None
    return connection


async def _open(info: str) -> AsyncConnection[Any]:
    """Open a connection of ours: a cancellation closes it, and sends no request that a pooler may misdirect."""
    return await Connection.connect(info, autocommit=True, prepare_threshold=None)


async def _server_pid(connection: AsyncConnection[Any]) -> int:
    (pid,) = await _row(connection, "select pg_backend_pid()")
    return int(pid)


async def _row(connection: AsyncConnection[Any], query: str) -> tuple[Any, ...]:
    (row,) = await (await connection.execute(query)).fetchall()
    return tuple(row)
