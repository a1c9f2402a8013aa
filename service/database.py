"""Connections to PostgreSQL: one pool, transactions on it, and the timeouts of every session.

SQLAlchemy's engine keeps the pool; `transaction` hands out the psycopg connection underneath, because
the statements are files and the rows are tuples. What must hold: a connection goes back to the pool
idle and whole, or not at all. One whose work was cancelled, or whose commit was not answered, is closed:
nobody knows what its server still does, and the next user must not find out.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, fields
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import InFailedSqlTransaction
from psycopg.pq import TransactionStatus
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection as PooledConnection
from sqlalchemy.ext.asyncio import create_async_engine

from service import statements

EXPECTED_REVISION: Final = "0003"
"""The schema that this code is written for: the last file of migrations/versions. Revisions are numbers of four
digits, so that they compare as texts."""

APPLICATION_NAME: Final = "essay-lifecycle-service"

_CONNECT_SECONDS = 5
_POOL_TIMEOUT_SECONDS = 10
_RECYCLE_SECONDS = 1800

_GRACE_SECONDS = 5.0
"""A server ends a transaction that takes too long; one that has not even said so after this has gone silent."""

# As JSON, since the column may not be there yet: then the revision serves its own code only.
_REVISION = "select version_num, to_jsonb(told) ->> 'oldest_code' from els.alembic_version as told"

# libpq gives up on a server that has gone without a word after these, in seconds and milliseconds.
_SOCKET: Mapping[str, Any] = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}

# Every statement here probes indexes for a few rows. What the planner makes of an array of unknown length and of
# statistics that lag behind the tables must not turn one into a scan: a hash join has to read all that it hashes.
_PLANNER = ("-c enable_hashjoin=off", "-c enable_mergejoin=off")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a session may wait, work or idle, in milliseconds. sql/roles.sql says the same for els_app."""

    lock_timeout: int = 2_000
    idle_in_transaction_session_timeout: int = 10_000
    statement_timeout: int = 60_000
    transaction_timeout: int = 120_000
    client_connection_check_interval: int = 5_000

    def options(self) -> str:
        """As libpq's `options`, which the server applies when the session starts."""
        timeouts = [f"-c {timeout.name}={getattr(self, timeout.name)}" for timeout in fields(self)]
        return " ".join([*timeouts, *_PLANNER, "-c TimeZone=UTC"])


class Database:
    """A pool of sessions with one server."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        pooler: bool = False,
        timeouts: Timeouts | None = None,
    ) -> None:
        """Nothing connects yet.

        `url` is libpq's (`postgresql://…`). With `pooler` a transaction pooler stands in between: no
        prepared statements, and no session settings but those of the role.
        """
        self._conninfo = conninfo(url, APPLICATION_NAME, None if pooler else timeouts or Timeouts())
        self._prepare_threshold = None if pooler else 5
        self._patience = (timeouts or Timeouts()).transaction_timeout / 1000 + _GRACE_SECONDS
        self._engine = create_async_engine(
            "postgresql+psycopg://",
            async_creator=self._connect,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_POOL_TIMEOUT_SECONDS,
            pool_recycle=_RECYCLE_SECONDS,
            pool_use_lifo=True,
            use_native_hstore=False,
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the body, rolled back where it raises.

        Raises psycopg.Error, also where no session could be had, and where the body hid that one of its
        statements failed. An error of the commit itself without a SQLSTATE leaves the outcome unknown;
        every input may be applied again, so doing it again is the answer.
        """
        async with self._session() as connection:
            yield connection
            if connection.info.transaction_status == TransactionStatus.INERROR:
                raise InFailedSqlTransaction("a statement had failed: nothing is committed")
            await connection.commit()

    async def connect_alone(self) -> AsyncConnection:
        """A session outside the pool, in autocommit, for LISTEN. The caller closes it."""
        return await self._connect(autocommit=True)

    async def revision(self) -> str | None:
        """The revision that the schema is at; None where there is none yet."""
        return (await self._schema())[0]

    async def schema_trouble(self) -> str | None:
        """Why this code does not run on the schema, in one line; None where it does.

        It does on the revision that it was written for, and on a newer one that says so: each tells the oldest code
        that it still serves. So pods go on while a migration is made, and old code may be started again after it.
        """
        revision, oldest_code = await self._schema()
        if revision is None or revision < EXPECTED_REVISION:
            there = f"at revision {revision}" if revision else "not there (at revision none)"
            return f"the schema is {there}, this code needs {EXPECTED_REVISION}: run `python -m service migrate`"
        if revision > EXPECTED_REVISION and (oldest_code is None or oldest_code > EXPECTED_REVISION):
            needed = oldest_code or revision
            return f"the schema is at revision {revision}, for code of {needed} or newer; this is {EXPECTED_REVISION}"
        return None

    async def _schema(self) -> tuple[str | None, str | None]:
        """Its revision, and the oldest code that runs on it."""
        async with self.transaction() as connection:
            cursor = await connection.execute("select to_regclass('els.alembic_version') is not null")
            if await cursor.fetchone() == (False,):
                return None, None
            cursor = await connection.execute(_REVISION)
            return await cursor.fetchone() or (None, None)

    async def close(self) -> None:
        """Close all sessions that nobody holds; those in use are closed when they come back."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[AsyncConnection]:
        """A session of the pool for as long as the body runs, given back only when it is whole."""
        try:
            async with self._engine.connect() as pooled:
                connection = await _driver_connection(pooled)
                # A peer that acknowledges every byte and answers none is found by no timeout of TCP.
                hanging_up = asyncio.get_running_loop().call_later(self._patience, _hang_up, connection)
                try:
                    yield connection
                except BaseException as error:
                    await self._settle(pooled, connection, error)
                    raise
                finally:
                    hanging_up.cancel()
        except DBAPIError as error:  # of the pool: the body uses the driver, which raises its own
            raise error.orig or error from None
        except PoolTimeoutError:
            raise psycopg.OperationalError("no database session was free in time") from None

    async def _settle(self, pooled: PooledConnection, connection: AsyncConnection, error: BaseException) -> None:
        """Roll back after an error of the body; after a cancellation, or where that fails, close."""
        if isinstance(error, Exception) and await _rolled_back(connection):
            return
        gone = connection.closed
        connection.pgconn.finish()
        await pooled.invalidate()
        if gone:  # the server, most likely with all of its sessions: nobody need find that out again
            await self._engine.dispose()

    async def _connect(self, autocommit: bool = False) -> AsyncConnection:
        connection = await AsyncConnection.connect(
            self._conninfo, autocommit=autocommit, prepare_threshold=self._prepare_threshold
        )
        statements.register(connection)
        return connection


def conninfo(url: str, application_name: str, timeouts: Timeouts | None) -> str:
    """`url` with our session settings added; what the URL says itself wins."""
    given = {name: value for name, value in conninfo_to_dict(url).items() if value is not None}
    ours: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": _CONNECT_SECONDS,
        **_SOCKET,
    }
    merged = {**ours, **given, "client_encoding": "utf8"}
    if timeouts is not None:
        merged["options"] = f"{timeouts.options()} {given.get('options', '')}".strip()
    return make_conninfo("", **merged)


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE behind an error, the driver's own or one that SQLAlchemy wrapped; else None."""
    original = getattr(error, "orig", None) or error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def _hang_up(connection: AsyncConnection) -> None:
    """Whoever waits for an answer on this connection is told that there comes none; cancelling would wait on."""
    if not connection.closed:
        with suppress(OSError), socket.socket(fileno=os.dup(connection.pgconn.socket)) as ours:
            ours.shutdown(socket.SHUT_RDWR)


async def _rolled_back(connection: AsyncConnection) -> bool:
    """Whether the session is idle and whole again."""
    try:
        await connection.rollback()
    except psycopg.Error:
        return False
    return not connection.closed


async def _driver_connection(pooled: PooledConnection) -> AsyncConnection:
    raw = await pooled.get_raw_connection()
    connection = raw.driver_connection
    if not isinstance(connection, AsyncConnection):
        raise TypeError(f"the pool gave {type(connection).__name__} where psycopg was expected")
    return connection
