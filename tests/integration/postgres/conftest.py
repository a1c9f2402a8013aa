"""Databases in which the tests of views plant their rows."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import dict_row

from tests.support.builders.rows import PLANT


@pytest.fixture(scope="session")
def planting(shared_url: str) -> Iterator[Connection[dict[str, Any]]]:
    """One session for all tests of a worker."""
    with psycopg.connect(shared_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(PLANT.encode())
        yield connection


@pytest.fixture
def database(planting: Connection[dict[str, Any]]) -> Iterator[Connection[dict[str, Any]]]:
    """A transaction, which is rolled back: a database of its own for each of these tests costs more than the test."""
    with planting.transaction(force_rollback=True):
        yield planting


@pytest.fixture
def own_database(database_url: str) -> Iterator[Connection[dict[str, Any]]]:
    """Autocommit."""
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(PLANT.encode())
        yield connection
