"""Connects to the two servers of a transfer: the one that the cell is on, and the standby."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from service.postgres.errors import explained
from service.postgres.pipeline import Connection
from service.postgres.session import conninfo

_NAME: Final = "essay-lifecycle-service cells"

# Durable on the server itself, whatever the default is. It waits for no synchronous standby: the one that was promoted
# may have been the only one. Whatever pods commit afterwards has the cut before it in the log.
_SESSION: Final = """
select set_config('synchronous_commit', 'local', false), set_config('lock_timeout', '5s', false),
    set_config('els.slice', '', false), set_config('timezone', 'UTC', false), pg_backend_pid()
"""

_TRY_LOCK: Final = "select pg_try_advisory_lock(hashtextextended('els.migrate', 0))"

_MAY_PROMOTE: Final = "select has_function_privilege('pg_promote(boolean, integer)', 'execute')"

_POSITION: Final = "select pg_current_wal_insert_lsn(), pg_current_xact_id()"

# The commit of what has a transaction id is in the log, behind the position.
_HAS_REPLAYED: Final = """
select
    pg_last_wal_replay_lsn() > %s::pg_lsn,
    concat_ws(
        ', ',
        'it is at ' || pg_last_wal_replay_lsn(),
        case when pg_get_wal_replay_pause_state() <> 'not paused' then 'its replay is paused' end,
        'it delays by ' || nullif(current_setting('recovery_min_apply_delay'), '0')
    )
"""


class Server:
    """One of the two. Each method raises psycopg.Error."""

    def __init__(self, url: str, setting: str) -> None:
        """`url` is libpq's; its login may act as els_owner. It should lead to this server and to no other.

        `setting` is where it is from, for errors.
        """
        self._conninfo = make_conninfo(conninfo(url, _NAME, None), target_session_attrs="any")
        self._setting = setting
        self._connection: Connection | None = None
        self._is_locked = False

    @property
    def place(self) -> str:
        """Returns the host, port and database, for people."""
        parts = conninfo_to_dict(self._conninfo)
        host = parts.get("host") or parts.get("hostaddr") or "localhost"
        return f"{host}:{parts.get('port') or 5432}/{parts.get('dbname') or parts.get('user') or ''}"

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            await self._connection.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Run the body in a READ COMMITTED transaction, as els_owner."""
        connection = await self._connected()
        async with connection.transaction():
            await connection.execute("set local role els_owner")
            yield connection

    async def lock(self, seconds: float) -> bool:
        """Keep migrations and other transfers out as long as the connection lasts. Returns whether that is so.

        The session of a command that was killed may last for a moment.
        """
        deadline = asyncio.get_running_loop().time() + seconds
        connection = await self._connected()
        while not (await _value(connection, _TRY_LOCK)):
            if asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(0.1)
        self._is_locked = True
        return True

    async def write_position(self) -> str:
        """Write something to the log that changes nothing. Returns a position that lies before it."""
        connection = await self._connected()
        async with connection.transaction():
            return str(await _value(connection, _POSITION))

    async def has_replayed(self, position: str) -> tuple[bool, str]:
        """Tell whether the standby has replayed the log beyond this position, and where it is."""
        connection = await self._connected()
        row = await (await connection.execute(_HAS_REPLAYED, [position])).fetchone()
        return (bool(row[0]), str(row[1])) if row else (False, "")

    async def may_promote(self) -> bool:
        """Tell whether the login may promote the standby."""
        return bool(await _value(await self._connected(), _MAY_PROMOTE))

    async def promote(self) -> None:
        """Ask the standby to become a primary. Does not wait for that."""
        await (await self._connected()).execute("select pg_promote(false)")

    async def _connected(self) -> Connection:
        """Connect, or connect anew: a promotion may end the connection. The lock would be lost with it."""
        if self._connection is None or self._connection.closed:
            if self._is_locked:
                raise psycopg.OperationalError(f"{self._setting}: the connection was lost")
            try:
                self._connection = await Connection.connect(self._conninfo, autocommit=True)
            except psycopg.OperationalError as error:
                raise psycopg.OperationalError(f"{self._setting}: {explained(error)}") from None
            await self._connection.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
            row = await (await self._connection.execute(_SESSION)).fetchone()
            if row and row[-1] != self._connection.pgconn.backend_pid:
                raise psycopg.OperationalError(
                    f"{self._setting}: a pooler stands in front of the server: name the server itself"
                )
        return self._connection


async def _value(connection: AsyncConnection[Any], query: str) -> Any:
    row = await (await connection.execute(query.encode())).fetchone()
    return row[0] if row else None
