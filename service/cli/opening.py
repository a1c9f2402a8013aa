"""Opens the database for one command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from service.cli.output import CommandError
from service.postgres.fence import slice_error
from service.postgres.pool import Database
from service.postgres.schema import schema_error
from service.postgres.session import Timeouts
from service.runtime.errors import one_line
from service.settings import Settings
from service.wiring import open_database


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
