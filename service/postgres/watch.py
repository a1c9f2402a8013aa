"""Watches whether the database is of use, and reports it as the part "database" of the health."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from service.postgres.fence import read_slice_error
from service.postgres.pool import Database
from service.postgres.schema import read_schema_error
from service.postgres.server import server_error, session_error
from service.runtime.errors import one_line
from service.runtime.health import Health

WAITS_FOR_STANDBY: Final = "the database waits for a synchronous standby"

SESSION_CHECK_SECONDS: Final = 1.0
"""Pause between two checks in a session of the pool."""

SERVER_CHECK_SECONDS: Final = 5.0
"""Pause between two checks in a new session: whether the server can be reached, allows one more, and accepts writes."""

UNANSWERED_SECONDS: Final = 11.0
"""A check that takes longer has failed. Longer than it takes to wait for a free session, or to connect."""


class DatabaseWatch:
    """Checks the database periodically, in a session of the pool and in new sessions with its server."""

    def __init__(self, database: Database, url: str, health: Health) -> None:
        self._database = database
        self._url = url
        self._health = health
        # The server first, since that check tells apart why no session can be opened.
        self._errors: dict[str, str | None] = {"server": "starting", "session": "starting"}

    async def run(self) -> None:
        """Check until cancelled."""
        await asyncio.gather(
            self._repeat("server", partial(server_error, self._url), SERVER_CHECK_SECONDS),
            self._repeat("session", partial(database_error, self._database), SESSION_CHECK_SECONDS),
        )

    async def _repeat(self, name: str, check: Callable[[], Awaitable[str | None]], every: float) -> None:
        while True:
            try:
                async with asyncio.timeout(UNANSWERED_SECONDS):
                    error = await check()
            except TimeoutError:
                error = "the database does not answer"
            except Exception as unavailable:  # noqa: BLE001  after any error, the next check may succeed
                error = one_line(unavailable)
            self._report(name, error)
            await asyncio.sleep(every)

    def _report(self, name: str, error: str | None) -> None:
        self._errors[name] = error
        self._health.report("database", next(filter(None, self._errors.values()), None))


async def database_error(database: Database) -> str | None:
    """Say in one line why the database is of no use; None where it is. Raises psycopg.Error.

    Where the server of a session accepts no writes, all sessions are closed: new ones may lead to the primary.
    Transactions that wait for a standby may hold all sessions, so they are looked at before one is taken.
    """
    if database.waits_for_standby:
        return WAITS_FOR_STANDBY
    async with database.transaction() as connection:
        error = await session_error(connection, database.pooler)
        if error is None:
            return await read_schema_error(connection) or await read_slice_error(connection)
    await database.close()
    return error
