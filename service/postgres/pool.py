"""Keeps a pool of connections to PostgreSQL, and runs transactions on them.

The pool is a list of psycopg connections (docs/decisions/0007-a-pool-of-our-own.md). A connection returns to it only
when it is idle and usable. One whose work was cancelled, or whose commit got no answer, is closed: what its server
still does is unknown, and the next user must not be affected by it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.errors import InFailedSqlTransaction

from service.domain.cells import ALL_BATCHES, Slice
from service.postgres import arrays
from service.postgres.errors import explained, is_server_lost
from service.postgres.liveness import (
    CHECK_AFTER_SECONDS,
    GRACE_SECONDS,
    IS_SERVED,
    RECHECK_SECONDS,
    DelayedTask,
    Served,
    hang_up,
    is_receiving,
)
from service.postgres.pipeline import Connection, Cursor
from service.postgres.session import (
    APPLICATION_NAME,
    BEGIN,
    CONNECT_SECONDS,
    Pooler,
    Timeouts,
    begin_durable,
    conninfo,
    start_of,
)

_POOL_TIMEOUT_SECONDS = 10
"""How long a transaction waits for a free connection."""

_RECYCLE_SECONDS = 1800
"""A connection that is older is closed, not used again."""

_UNUSED_SECONDS = 60
"""A connection that was not used for so long is closed: after a peak, the server's slots are free for other pods."""


@dataclass(slots=True)
class _Session:
    """A connection of the pool. `since` and `used` are the monotonic times at which it was opened and last returned.

    `generation` is that of the pool at that time: it rises when all older connections become unusable.
    """

    connection: Connection
    generation: int
    since: float
    used: float = 0.0


class Transactions(Protocol):
    """Runs transactions."""

    def transaction(self, *, pipelined: bool = False) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        """Run the body in a transaction, as `Database.transaction` does."""
        ...


class Database:
    """A pool of sessions with one server."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 6,
        pooler: Pooler = "none",
        timeouts: Timeouts | None = None,
        of: Slice = ALL_BATCHES,
    ) -> None:
        """Create an empty pool, without connecting.

        `url` is libpq's (`postgresql://…`). The database refuses to be changed where it holds another slice than `of`.
        """
        timeouts = timeouts or Timeouts()
        self._conninfo = conninfo(url, APPLICATION_NAME, timeouts if pooler == "none" else None)
        self.pooler = pooler
        self.slice = of
        self._begin = begin_durable(of) if pooler == "transaction" else BEGIN
        self._start = start_of(of, timeouts.settings if pooler == "session" else {})
        self._changes_session = pooler == "transaction"
        self._longest_seconds = timeouts.transaction_timeout / 1000 + GRACE_SECONDS
        self._free = asyncio.Semaphore(pool_size)
        self._idle: list[_Session] = []
        self._checking = asyncio.Lock()
        self._waiting_for_standby: set[int] = set()
        self._generation = 0

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection]:
        """Run the body in a READ COMMITTED transaction: committed at its end, rolled back where it raises.

        The commit is durable (`synchronous_commit` at least `on`), unless the body sets another.

        With `pipelined`, statements are sent together when a result is awaited, and the commit with the last ones: this
        takes fewer round trips, and an error is raised by the next await. Ignored behind a transaction pooler.

        Raises psycopg.Error, also where no connection was free in time, and where the body caught the error of a
        statement. After an error of the commit itself without a SQLSTATE the outcome is unknown: run the transaction
        again, since every input may be applied twice.
        """
        async with self._session() as connection:
            connection.after_commit.clear()
            async with self._pipeline(connection, pipelined):
                # Not prepared: where that failed, the statements after it would run outside a transaction.
                await connection.execute(self._begin, prepare=False)
                yield connection
                ended = await _commit(connection)
            # The commit of a failed transaction is a rollback, and no error of the server.
            if ended.statusmessage != "COMMIT":
                raise InFailedSqlTransaction("a statement failed: the transaction is rolled back")
            for call in connection.after_commit:
                call()

    async def connect_unpooled(self) -> Connection:
        """Open a connection outside the pool, in autocommit, for LISTEN. The caller closes it."""
        return await self._connect()

    @property
    def waits_for_standby(self) -> bool:
        """Tell whether a commit has waited for a synchronous standby for long.

        Unknown behind a transaction pooler: False.
        """
        return bool(self._waiting_for_standby)

    async def close(self) -> None:
        """Close all idle connections. Those in use are closed when they are returned."""
        self._generation += 1
        idle, self._idle = self._idle, []
        for session in idle:
            await session.connection.close()

    @asynccontextmanager
    async def _pipeline(self, connection: Connection, wanted: bool) -> AsyncIterator[None]:
        """Begin a pipeline where it is wanted, and all of it goes to one session of the server."""
        if not wanted or self._changes_session:
            yield
            return
        async with connection.pipeline():
            yield

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Connection]:
        """Take a connection of the pool for the body. It is returned only if it is usable."""
        try:
            async with asyncio.timeout(_POOL_TIMEOUT_SECONDS):
                await self._free.acquire()
        except TimeoutError:
            raise psycopg.OperationalError("no database session was free in time") from None
        try:
            session = await self._take()
            watching = DelayedTask(
                min(CHECK_AFTER_SECONDS, self._longest_seconds), lambda: self._watch(session.connection)
            )
            try:
                yield session.connection
            except BaseException as error:
                await self._roll_back_or_close(session.connection, error)
                raise
            finally:
                watching.cancel()
                self._give_back(session)
        finally:
            self._free.release()

    async def _watch(self, connection: Connection) -> None:
        """Hang up where the server has ended the session, or does not know the transaction, and no bytes arrive.

        No timeout of TCP detects a peer that acknowledges every byte and never answers. A commit may wait for a standby
        for any time: a session that took the place of this one would wait, too, and the server would keep both.
        """
        # Unknown behind a transaction pooler, and behind one of which nobody has told.
        known = self.pooler == "session" or connection.server_pid == connection.pgconn.backend_pid
        pid, clock = connection.server_pid, asyncio.get_running_loop().time
        ends_at = clock() + self._longest_seconds - CHECK_AFTER_SECONDS
        try:
            while True:
                served = await self._is_served(pid) if known else Served.YES
                if served is None:  # nobody can tell: as before
                    served = Served.BY_STANDBY if pid in self._waiting_for_standby else Served.YES
                if served is Served.BY_STANDBY:
                    self._waiting_for_standby.add(pid)
                elif clock() > ends_at or not (served or is_receiving(connection)):
                    break
                await asyncio.sleep(RECHECK_SECONDS)
        finally:
            self._waiting_for_standby.discard(pid)
        hang_up(connection)

    async def _is_served(self, pid: int) -> Served | None:
        """Tell what the server does for a session. None where that cannot be found out."""
        try:
            # One check at a time, so as not to load a slow server further.
            async with self._checking, asyncio.timeout(CONNECT_SECONDS), await self.connect_unpooled() as conn:
                (served,) = await (await conn.execute(IS_SERVED, [pid])).fetchone() or (Served.YES,)
                return Served(served)
        except (psycopg.Error, TimeoutError):
            return None

    async def _take(self) -> "_Session":
        """Take the connection that was used last, or open one. So those that are not needed stay unused."""
        while self._idle:
            session = self._idle.pop()
            if time.monotonic() - session.since < _RECYCLE_SECONDS:
                return session
            await session.connection.close()
        generation = self._generation
        return _Session(await self._connect(), generation, since=time.monotonic())

    def _give_back(self, session: "_Session") -> None:
        if session.generation != self._generation:
            session.connection.pgconn.finish()
        elif not session.connection.closed:
            session.used = time.monotonic()
            self._idle.append(session)
        while self._idle and self._idle[0].used < time.monotonic() - _UNUSED_SECONDS:
            self._idle.pop(0).connection.pgconn.finish()

    async def _roll_back_or_close(self, connection: AsyncConnection, error: BaseException) -> None:
        """Roll back after an error of the body. After a cancellation, or where the rollback fails, close.

        Where the server ended the session, or accepts no writes any more, all idle sessions are most likely of no use,
        too: close them before anyone uses one.
        """
        is_lost = is_server_lost(error)
        if isinstance(error, Exception) and not is_lost and await _rolled_back(connection):
            return
        is_lost = is_lost or (connection.closed and isinstance(error, Exception))
        connection.pgconn.finish()
        if is_lost:
            await self.close()

    async def _connect(self) -> Connection:
        """Open a connection in autocommit: `transaction` sends begin and commit, so that a pipeline can hold them."""
        try:
            connection = await Connection.connect(
                self._conninfo, autocommit=True, prepare_threshold=None if self._changes_session else 5
            )
        except psycopg.OperationalError as error:
            raise explained(error) from None
        if not self._changes_session:  # there each transaction does it
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    started = await (await connection.execute(self._start)).fetchone()
            except TimeoutError:
                connection.pgconn.finish()
                raise psycopg.OperationalError("a new database session does not answer") from None
            connection.server_pid = started[1] if started else 0
        connection.cursor_factory = Cursor
        arrays.register(connection)
        return connection


async def _commit(connection: AsyncConnection) -> AsyncCursor[Any]:
    return await connection.execute("commit")


async def _rolled_back(connection: AsyncConnection) -> bool:
    """Roll back. Returns whether the connection is idle and usable again."""
    try:
        await connection.rollback()
    except psycopg.Error:
        return False
    # Forget names of statements that were never prepared. The driver does so only for a rollback of its own, and in a
    # pipeline the server may have rolled back already.
    connection._prepared.clear()  # noqa: SLF001
    return not connection.closed
