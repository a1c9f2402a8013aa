"""Sends statements to the server together, and waits for one result at a time.

psycopg's own pipeline sends each statement by itself, which costs as much as the rest of the work for a small one, and
waits for all results where one is needed. Here statements are collected until a result is awaited or one of them is
large, and only the awaited result is waited for, while the server works on what was sent after it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncPipeline
from psycopg._queries import PostgresQuery
from psycopg.abc import Params, PQGen, Query
from psycopg.generators import fetch_many, send
from psycopg.waiting import wait_async

_T = TypeVar("_T")

LARGE_PARAMETERS = 16 * 1024
"""A statement with more bytes of parameters is sent at once, so that the server can begin."""


class Connection(AsyncConnection[Any]):
    """A connection whose `pipeline` collects statements, and waits for one result at a time."""

    server_pid = 0
    """The process id of its session on the server, where it has one of its own."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.after_commit: list[Callable[[], None]] = []
        """Called once the present transaction is committed. They must not raise."""

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """Collect the statements of the body; a result is read where it is awaited. Pipelines can not be nested.

        A cancellation closes the connection, since the end of the pipeline would wait for all results.
        """
        pipeline = self._pipeline = _Pipeline(self)
        try:
            async with pipeline:
                try:
                    yield pipeline
                except BaseException as error:
                    if not isinstance(error, Exception):
                        self.pgconn.finish()
                    raise
        finally:
            self._pipeline = None

    async def wait(self, gen: PQGen[_T], interval: float = 0.1, timeout: float | None = None) -> _T:
        """Wait for the server, in `interval`s of seconds. A cancellation closes the connection.

        The driver would send a cancel request and wait again. A commit that waits for a synchronous standby must not be
        cancelled: the server would then report it as done, although the standby lacks it.
        """
        try:
            return await wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            self.pgconn.finish()
            raise


class _Pipeline(AsyncPipeline):
    _synced = False
    """Whether the last message that was sent is a sync."""
    _begun = False
    """Whether the server has sent a result. Until then `begin` may have failed, and then a statement that is sent after
    a sync would be a transaction of its own."""

    def _enqueue_sync(self) -> None:
        super()._enqueue_sync()
        self._synced = True

    def _communicate_gen(self) -> PQGen[None]:
        """Replace what the driver does after each statement and each sync."""
        while self.command_queue:
            self.command_queue.popleft()()
        last = self.result_queue[-1] if self.result_queue else None
        self._synced = self._synced and last is None
        if last is None or not isinstance(last[0], Cursor):
            yield from super()._communicate_gen()
        elif last[0].parameter_bytes > LARGE_PARAMETERS and self._begun:
            # End what is sent with a sync: after anything else, a session that waits for its client counts as active,
            # and idle_in_transaction_session_timeout would not end the session of a frozen pod.
            self._enqueue_sync()
            yield from self._communicate_gen()

    def wait_for_result(self, cursor: "Cursor") -> PQGen[None]:
        """Send and receive until the cursor has its result. Raises the first error of what was sent so far."""
        with self._results_in_order():
            try:
                if not self._synced or self.command_queue:  # the driver may have queued a cleanup command
                    self._enqueue_sync()
                yield from self._communicate_gen()
                yield from send(self.pgconn)  # the socket may not have taken all at once
                while cursor.pgresult is None and (results := (yield from fetch_many(self.pgconn))):
                    self._process_results(self.result_queue.popleft(), results)
                self._begun = True
            except psycopg.Error:
                yield from self._read_remaining()
                raise

    def _exit_gen(self) -> PQGen[None]:
        """Send and receive until all results are read. Raises the first error; the driver may raise a later one."""
        with self._results_in_order():
            try:
                self._enqueue_sync()
                yield from self._communicate_gen()
                yield from send(self.pgconn)
                yield from self._fetch_gen(flush=False)
            except psycopg.Error:
                yield from self._read_remaining()
                raise

    @contextmanager
    def _results_in_order(self) -> Iterator[None]:
        """Close the session where the server sent more results than the driver expects.

        A cancellation that arrives as a statement ends gives one result more.
        """
        try:
            yield
        except IndexError:
            self.pgconn.finish()
            raise psycopg.OperationalError("a result came that no statement waits for: the session is closed") from None

    def _read_remaining(self) -> PQGen[None]:
        """Read the results of statements that were sent after one that failed: they failed, too."""
        with suppress(psycopg.Error):
            self._enqueue_sync()
            yield from self._communicate_gen()
        with suppress(psycopg.Error):
            yield from send(self.pgconn)
            yield from self._fetch_gen(flush=False)


class Cursor(AsyncCursor[Any]):
    """A cursor of `Connection`. `parameter_bytes` is the size of its parameters."""

    parameter_bytes = 0

    def _convert_query(self, query: Query, params: Params | None = None) -> PostgresQuery:
        converted = super()._convert_query(query, params)
        self.parameter_bytes = sum(len(each) for each in converted.params or () if each)
        return converted

    def request_flush(self) -> None:
        """Ask the server to send the results of all statements so far as soon as it can, whatever follows them."""
        if self._conn._pipeline is not None and self.pgresult is None:  # noqa: SLF001
            self._pgconn.send_flush_request()

    async def _fetch_pipeline(self) -> None:
        pipeline = self._conn._pipeline  # noqa: SLF001
        if isinstance(pipeline, _Pipeline) and self.pgresult is None:
            async with self._conn.lock:
                await self._conn.wait(pipeline.wait_for_result(self))


class PendingResult(Generic[_T]):
    """The result of a statement that was sent. It can be awaited later, even after the commit is sent."""

    def __init__(self, cursor: AsyncCursor[Any], read: Callable[[list[Any]], _T]) -> None:
        """Create it right after the statement was sent. `read` converts the rows."""
        self._cursor = cursor
        self._read = read
        if isinstance(cursor, Cursor):
            cursor.request_flush()

    def __await__(self) -> Generator[Any, None, _T]:
        return self._rows().__await__()

    async def _rows(self) -> _T:
        return self._read(await self._cursor.fetchall())
