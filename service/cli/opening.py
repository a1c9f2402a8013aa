"""Opens the database for one command."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import psycopg

from service.cli.output import CommandError
from service.postgres.fence import slice_error
from service.postgres.pool import Database
from service.postgres.schema import schema_error
from service.postgres.session import Timeouts
from service.runtime.errors import one_line
from service.settings import Settings
from service.wiring import CELL_SECONDS, open_database


@asynccontextmanager
async def opened_cells(
    cells: Sequence[Settings], timeouts: Timeouts | None = None
) -> AsyncIterator[tuple[Sequence[tuple[Settings, Database]], Mapping[int, str]]]:
    """Open the databases of cells for the body, and close them afterwards.

    Gives those that suit this code and are the right cells, and by the number of each other one why it does not.
    Raises CommandError where there is none that does.
    """
    databases = [open_database(each, timeouts) for each in cells]
    try:
        errors = await asyncio.gather(*map(_error_of, databases))
        found = list(zip(cells, databases, errors, strict=True))
        failed = {each.slice.cell: error for each, _, error in found if error is not None}
        if len(failed) == len(cells):
            raise CommandError(failed[cells[0].slice.cell])
        yield [(each, database) for each, database, error in found if error is None], failed
    finally:
        await asyncio.gather(*(database.close() for database in databases))


async def _error_of(database: Database) -> str | None:
    """Return why a database is of no use, after a limited time."""
    try:
        async with asyncio.timeout(CELL_SECONDS):
            return await schema_error(database) or await slice_error(database)
    except TimeoutError:
        return f"the database has not answered within {CELL_SECONDS:.0f} s"
    except psycopg.Error as error:
        return f"ELS_DATABASE_URL: {one_line(error)}"


@asynccontextmanager
async def opened_database(
    settings: Settings, timeouts: Timeouts | None = None, sessions: int | None = None
) -> AsyncIterator[Database]:
    """Open the database for the body, and close it afterwards.

    Raises CommandError where its schema does not suit this code, or it holds another slice of the batches than the
    settings say, and for each psycopg.Error.
    """
    database = open_database(settings, timeouts, sessions)
    try:
        if error := await schema_error(database) or await slice_error(database):
            raise CommandError(error)
        yield database
    except psycopg.Error as error:
        raise CommandError(f"ELS_DATABASE_URL: {one_line(error)}") from None
    finally:
        await database.close()
