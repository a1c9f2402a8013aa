"""A database on which polls and purges run."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from service.postgres.pool import Database
from tests.support.pods.purger import PurgeFixture


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[PurgeFixture]:
    database = Database(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield PurgeFixture(database_url, database, conn)
    await database.close()
