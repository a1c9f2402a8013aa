"""Statements that go to the server together, and answers that are waited for each alone.

psycopg's own pipeline sends each statement by itself, which costs as much as all else about a small one, and waits for
all answers where one is asked for. Here statements gather until an answer is waited for, or until they are heavy;
and what is waited for is that answer, while the server is at work on what was sent behind it.
"""

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncPipeline
from psycopg._queries import PostgresQuery
from psycopg.abc import Params, PQGen, Query
from psycopg.generators import fetch_many, send

_T = TypeVar("_T")

HEAVY = 16 * 1024
"""Bytes of a statement's parameters that are worth a send of their own: the server can begin."""


class Connection(AsyncConnection[Any]):
    """A connection whose `pipeline` is the one below."""

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """Until its end, statements are only sent, and their answers read where they are asked for. Not to be nested.

        Where it is cancelled the connection is closed: the end of a pipeline would wait for the answers.
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


class _Pipeline(AsyncPipeline):
    _synced = False
    """Whether the last that went out was a sync."""
    _begun = False
    """Whether the server has answered something: what is sent after a sync could stand alone, had `begin` failed."""

    def _enqueue_sync(self) -> None:
        super()._enqueue_sync()
        self._synced = True

    def _communicate_gen(self) -> PQGen[None]:
        """What the driver does behind each statement and each sync."""
        while self.command_queue:
            self.command_queue.popleft()()
        last = self.result_queue[-1] if self.result_queue else None
        self._synced = self._synced and last is None
        if last is None or not isinstance(last[0], Cursor):
            yield from super()._communicate_gen()
        elif last[0].weight > HEAVY and self._begun:
            # A sync ends whatever is sent: behind anything else a session that waits for its client counts as active,
            # and no timeout for those who are idle in a transaction would end one whose pod is frozen.
            self._enqueue_sync()
            yield from self._communicate_gen()

    def answered(self, cursor: "Cursor") -> PQGen[None]:
        """Until the cursor has its answer. Raises the first failure of what was sent so far."""
        with self._in_step():
            try:
                if not self._synced or self.command_queue:  # the driver may have something to tidy up
                    self._enqueue_sync()
                yield from self._communicate_gen()
                yield from send(self.pgconn)  # the socket may not have taken all at once
                while cursor.pgresult is None and (results := (yield from fetch_many(self.pgconn))):
                    self._process_results(self.result_queue.popleft(), results)
                self._begun = True
            except psycopg.Error:
                yield from self._drained()
                raise

    def _exit_gen(self) -> PQGen[None]:
        """Until all is answered. Raises the first failure, where the driver may raise one that follows from it."""
        with self._in_step():
            try:
                self._enqueue_sync()
                yield from self._communicate_gen()
                yield from send(self.pgconn)
                yield from self._fetch_gen(flush=False)
            except psycopg.Error:
                yield from self._drained()
                raise

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """A cancellation that comes as a statement ends gives one answer more than the driver counts on."""
        try:
            yield
        except IndexError:
            self.pgconn.finish()
            raise psycopg.OperationalError("the answers are out of step: the session is closed") from None

    def _drained(self) -> PQGen[None]:
        """What was sent behind a failure has failed with it."""
        with suppress(psycopg.Error):
            self._enqueue_sync()
            yield from self._communicate_gen()
        with suppress(psycopg.Error):
            yield from send(self.pgconn)
            yield from self._fetch_gen(flush=False)


class Cursor(AsyncCursor[Any]):
    """A cursor of the connection above; `weight` is that of its parameters, in bytes."""

    weight = 0

    def _convert_query(self, query: Query, params: Params | None = None) -> PostgresQuery:
        converted = super()._convert_query(query, params)
        self.weight = sum(len(each) for each in converted.params or () if each)
        return converted

    def ask(self) -> None:
        """Have the server answer what was sent so far as soon as it can, whatever is sent behind it."""
        if self._conn._pipeline is not None and self.pgresult is None:  # noqa: SLF001
            self._pgconn.send_flush_request()

    async def _fetch_pipeline(self) -> None:
        pipeline = self._conn._pipeline  # noqa: SLF001
        if isinstance(pipeline, _Pipeline) and self.pgresult is None:
            async with self._conn.lock:
                await self._conn.wait(pipeline.answered(self))


class PendingResult(Generic[_T]):
    """What a statement answers, to be awaited when it is needed: others may be sent before, even the commit."""

    def __init__(self, cursor: AsyncCursor[Any], read: Callable[[list[Any]], _T]) -> None:
        """To be made where the statement was sent just now."""
        self._cursor = cursor
        self._read = read
        if isinstance(cursor, Cursor):
            cursor.ask()

    def __await__(self) -> Generator[Any, None, _T]:
        return self._rows().__await__()

    async def _rows(self) -> _T:
        return self._read(await self._cursor.fetchall())
