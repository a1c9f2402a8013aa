"""Applies polls to a database, as a pod does, without a broker."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg.rows import dict_row

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Incoming, Rejection
from service.intake.intake import Intake
from service.intake.outcome import Effects, Outcome
from service.intake.transaction import apply
from service.postgres.pool import Database
from service.runtime.health import Health
from tests.support.builders.events import deliveries
from tests.support.checks import invariants


async def deliver(database: Database, arrived: Sequence[Delivery], limits: IntakeLimits | None = None) -> None:
    """Apply a poll as the consumer does: what is free first, then what was set aside, each batch alone."""
    intake = Intake(database, limits or IntakeLimits(), Health(), forget)
    outcome = await intake.take(arrived)
    await intake.take_exclusive(outcome.deferred)


async def forget(_: Effects) -> None:
    """The effects go to metrics and to the log, which are not always of interest."""


class ApplyFixture:
    """Applies polls to a database, and reads the rows and events afterwards."""

    def __init__(self, database: Database, conn: psycopg.Connection[Any]) -> None:
        self.database, self.conn, self.limits = database, conn, IntakeLimits()

    async def poll(self, *events: Incoming | Rejection) -> None:
        """Apply a poll completely, as the consumer does, and check the invariants."""
        await deliver(self.database, deliveries(*events), self.limits)
        assert invariants.violations(self.conn) == []

    async def once(self, *arrived: Delivery, exclusive: bool = False) -> Outcome:
        """Apply a poll in one transaction, and commit it."""
        async with self.database.transaction() as conn:
            return await apply(conn, arrived, self.limits, exclusive=exclusive)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.conn.execute(query).fetchall()

    def row(self, table: str) -> dict[str, Any]:
        """The only row of a table."""
        (row,) = self.conn.cursor(row_factory=dict_row).execute(f"select * from els.{table}").fetchall()
        return row

    def slots(self, batch_id: str = "b") -> list[str | None]:
        """The contents of the slots in slot order: a text, `failed:` with an upload, or None."""
        rows = self.conn.execute(
            "select case state when 'failed' then 'failed:' || file_upload_id else text_storage_id end"
            " from els.slots where batch_id = %s order by position",
            [batch_id],
        )
        return [value for (value,) in rows]

    def excess(self) -> dict[str, str]:
        return dict(self.rows("select text_storage_id, reason from els.excess_content"))

    def outbox(self, batch_id: str = "b") -> list[dict[str, Any]]:
        """The events of a batch in the order in which they will be published."""
        rows = self.conn.execute("select event from ops.outbox_events where batch_id = %s order by seq", [batch_id])
        return [json.loads(event) for (event,) in rows]

    def topics(self, batch_id: str = "b") -> list[str]:
        return [event["event_type"] for event in self.outbox(batch_id)]


@asynccontextmanager
async def apply_fixture(database_url: str) -> AsyncIterator[ApplyFixture]:
    """Open a database for polls."""
    database = Database(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield ApplyFixture(database, conn)
    await database.close()
