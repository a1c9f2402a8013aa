"""Provides what the operator actions share: a transaction whose errors are operation errors, and pages of rows."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import AsyncConnection

from service.operators.errors import Conflict, OperationError, operation_error
from service.postgres.pool import Database

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[_Row]):
    """Holds some rows. `next` is the cursor of the next page; None if there is none."""

    rows: Sequence[_Row]
    next: str | None


def check_own(database: Database, batch_id: str | None, error: type[OperationError] = Conflict) -> None:
    """Raise `error`, which names the other cell, where a batch (None: no certain one) belongs to another cell."""
    of = database.slice
    if batch_id is not None and not of.holds(batch_id):
        raise error(f"batch {batch_id} belongs to {of.owner(batch_id)}, and this is {of}")


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[AsyncConnection[Any]]:
    """Open the transaction of an operator action. Raises OperationError."""
    try:
        async with database.transaction() as conn:
            yield conn
    except psycopg.Error as error:
        raise operation_error(error) from None
