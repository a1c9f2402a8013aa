"""A database in which the tests of views plant their rows."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import dict_row

from tests.support.builders.rows import PLANT


@pytest.fixture
def database(database_url: str) -> Iterator[Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(PLANT.encode())
        yield connection
