"""Stores confirmations of students, and notes which batches are confirmed.

Each function runs one statement in the caller's transaction, and raises psycopg.Error.
"""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from service.domain.decisions import ConfirmableBatch
from service.domain.events import AssociationsConfirmed
from service.postgres.arrays import Integers, Texts
from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS
from service.store.columns import origin_columns


async def store_confirmations(
    conn: AsyncConnection[Any], confirmations: Sequence[tuple[AssociationsConfirmed, str]]
) -> set[tuple[str, str]]:
    """Store confirmations with their state: pending, applied or unused. One that was pending gets the new state.

    Returns those that were new or pending, as (batch_id, class_id). No such pair may be given twice.
    """
    events = [confirmation for confirmation, _ in confirmations]
    return set(
        await fetch_rows(
            conn,
            "store_confirmations",
            batch_ids=Texts([event.batch_id for event in events]),
            class_ids=Texts([event.class_id for event in events]),
            states=Texts([state for _, state in confirmations]),
            associations=Integers([event.associations for event in events]),
            **origin_columns(events),
        )
    )


async def read_pending_confirmations(
    conn: AsyncConnection[Any], batch_ids: Sequence[str]
) -> list[AssociationsConfirmed]:
    """Read the confirmations that wait for the registration of these batches, in the order in which they came."""
    rows = await fetch_rows(conn, "read_pending_confirmations", batch_ids=Texts(batch_ids))
    return [AssociationsConfirmed(*row) for row in rows]


async def find_stranded_confirmations(
    conn: AsyncConnection[Any], page: int
) -> list[tuple[AssociationsConfirmed, ConfirmableBatch]]:
    """Find confirmations that wait although their batch is registered, and lock the counter rows of these batches."""
    rows = await fetch_rows(conn, "find_stranded_confirmations", page=page)
    return [(AssociationsConfirmed(*row[:6]), ConfirmableBatch(*row[6:])) for row in rows]


async def confirm_batches(conn: AsyncConnection[Any], batch_ids: Sequence[str]) -> None:
    """Note that batches are confirmed, while their counter rows are locked. Those that were complete become ready."""
    await conn.execute(STATEMENTS["confirm_batches"], {"batch_ids": Texts(batch_ids)})
