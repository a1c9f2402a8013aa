"""Connections to PostgreSQL: one pool, transactions on it, and the timeouts of every session.

The pool is a list of psycopg connections (docs/decisions/0007-a-pool-of-our-own.md). What must hold: a
connection goes back to it idle and whole, or not at all. One whose work was cancelled, or whose commit was
not answered, is closed: nobody knows what its server still does, and the next user must not find out.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.errors import InFailedSqlTransaction

from service.postgres import arrays
from service.postgres.liveness import (
    CHECK_AFTER_SECONDS,
    GRACE_SECONDS,
    IS_SERVED,
    RECHECK_SECONDS,
    DelayedTask,
    hang_up,
    is_receiving,
)
from service.postgres.pipeline import Connection, Cursor
from service.postgres.session import APPLICATION_NAME, CONNECT_SECONDS, Timeouts, conninfo

_POOL_TIMEOUT_SECONDS = 10
_RECYCLE_SECONDS = 1800


@dataclass(slots=True)
class _Session:
    """A connection of the pool; `since` is when it was made, `era` goes up where all before are void."""

    connection: Connection
    era: int
    since: float


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
        self.pooler = pooler
        self._prepare_threshold = None if pooler else 5
        self._patience = (timeouts or Timeouts()).transaction_timeout / 1000 + GRACE_SECONDS
        self._free = asyncio.Semaphore(pool_size)
        self._idle: list[_Session] = []
        self._looking = asyncio.Lock()
        self._era = 0

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection]:
        """One transaction: committed at the end of the body, rolled back where it raises.

        With `pipelined` a statement is sent with those before it when an answer is asked for, the commit with the
        last: fewer round trips, and a failure is raised by what asks next. Not through a pooler.

        Raises psycopg.Error, also where no session could be had, and where the body hid that one of its
        statements failed. An error of the commit itself without a SQLSTATE leaves the outcome unknown;
        every input may be applied again, so doing it again is the answer.
        """
        async with self._session() as connection:
            async with self._pipeline(connection, pipelined):
                await connection.execute("begin", prepare=False)  # what failed to begin would be no transaction
                yield connection
                ended = await _commit(connection)
            # What had failed is rolled back by a commit, which is no error to the server.
            if ended.statusmessage != "COMMIT":
                raise InFailedSqlTransaction("a statement had failed: nothing is committed")

    async def connect_alone(self) -> AsyncConnection:
        """A session outside the pool, in autocommit, for LISTEN. The caller closes it."""
        return await self._connect()

    async def close(self) -> None:
        """Close all sessions that nobody holds; those in use are closed when they come back."""
        self._era += 1
        idle, self._idle = self._idle, []
        for session in idle:
            await session.connection.close()

    @asynccontextmanager
    async def _pipeline(self, connection: Connection, wanted: bool) -> AsyncIterator[None]:
        """Nothing where it is not wanted, or where a pooler would have to take part."""
        if not wanted or self.pooler:
            yield
            return
        async with connection.pipeline():
            yield

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Connection]:
        """A session of the pool for as long as the body runs, given back only when it is whole."""
        try:
            async with asyncio.timeout(_POOL_TIMEOUT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise psycopg.OperationalError("no database session was free in time") from None
        try:
            session = await self._take()
            watching = DelayedTask(min(CHECK_AFTER_SECONDS, self._patience), lambda: self._watch(session.connection))
            try:
                yield session.connection
            except BaseException as error:
                await self._settle(session.connection, error)
                raise
            finally:
                watching.cancel()
                self._give_back(session)
        finally:
            self._free.release()

    async def _watch(self, connection: Connection) -> None:
        """Hang up where the server has ended the session, or never heard of the transaction, and none of it came here.

        A peer that acknowledges every byte and answers none is found by no timeout of TCP.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience - CHECK_AFTER_SECONDS):
                pid = connection.pgconn.backend_pid
                while self.pooler or await self._is_served(pid) or is_receiving(connection):  # noqa: ASYNC110
                    await asyncio.sleep(RECHECK_SECONDS)
        hang_up(connection)

    async def _is_served(self, pid: int) -> bool:
        """Whether the server works for a session, or waits for its client in a transaction; True where it can't say.

        Behind a pooler, of sessions too, the number that a client knows is not the server's.
        """
        try:
            # One after the other: a server that is slow must not be asked by all at once.
            async with self._looking, asyncio.timeout(CONNECT_SECONDS), await self.connect_alone() as conn:
                asked, served = await (await conn.execute(IS_SERVED, [pid])).fetchone() or (None, True)
                return bool(served) or asked != conn.pgconn.backend_pid
        except (psycopg.Error, TimeoutError):
            return True

    async def _take(self) -> "_Session":
        """The session that was used last, so that those beyond what is needed grow old and go; else a new one."""
        while self._idle:
            session = self._idle.pop()
            if time.monotonic() - session.since < _RECYCLE_SECONDS:
                return session
            await session.connection.close()
        era = self._era
        return _Session(await self._connect(), era, since=time.monotonic())

    def _give_back(self, session: "_Session") -> None:
        if session.era != self._era:
            session.connection.pgconn.finish()
        elif not session.connection.closed:
            self._idle.append(session)

    async def _settle(self, connection: AsyncConnection, error: BaseException) -> None:
        """Roll back after an error of the body; after a cancellation, or where that fails, close."""
        if isinstance(error, Exception) and await _rolled_back(connection):
            return
        gone = connection.closed and isinstance(error, Exception)
        connection.pgconn.finish()
        if gone:  # the server, most likely with all of its sessions: nobody need find that out again
            await self.close()

    async def _connect(self) -> Connection:
        """In autocommit: transactions begin and end by statements of ours, which a pipeline can hold."""
        connection = await Connection.connect(
            self._conninfo, autocommit=True, prepare_threshold=self._prepare_threshold
        )
        connection.cursor_factory = Cursor
        arrays.register(connection)
        return connection


async def _commit(connection: AsyncConnection) -> AsyncCursor[Any]:
    return await connection.execute("commit")


async def _rolled_back(connection: AsyncConnection) -> bool:
    """Whether the session is idle and whole again."""
    try:
        await connection.rollback()
    except psycopg.Error:
        return False
    # Names that were given in vain: the driver forgets them with a rollback of its own, but in a pipeline the server
    # may have made it already.
    connection._prepared.clear()  # noqa: SLF001
    return not connection.closed
