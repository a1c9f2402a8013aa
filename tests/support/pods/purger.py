"""Runs polls and purges on a database, and reads what they leave."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from service.domain.events import Incoming
from service.postgres.pool import Database
from service.purge.policy import Chunk, PurgeReport, RetentionPolicy
from service.purge.purge import purge_once
from tests.support.builders.events import deliveries
from tests.support.checks import invariants
from tests.support.pods.applier import deliver

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

DAY = 86_400
AGES = 9_999 * DAY
POLICY = RetentionPolicy(pending_ttl=DAY, expired_retention=30 * DAY, batch_timeout=DAY)
FOR_EVER = RetentionPolicy(AGES, AGES, AGES, AGES, AGES, AGES)
SHORT = RetentionPolicy(
    pending_ttl=DAY,
    expired_retention=30 * DAY,
    batch_timeout=DAY,
    batch_retention=60 * DAY,
    closed_retention=60 * DAY,
    actions_retention=60 * DAY,
)


class PurgeFixture:
    """A database on which polls and purges run, and queries of what they leave."""

    def __init__(self, url: str, database: Database, conn: psycopg.Connection[Any]) -> None:
        self.url, self.database, self.conn = url, database, conn
        self.chunks: list[Chunk] = []

    async def poll(self, *events: Incoming) -> None:
        await deliver(self.database, deliveries(*events))
        assert invariants.violations(self.conn) == []

    async def purge(self, days: float = 0, retention_policy: RetentionPolicy = POLICY, **options: Any) -> PurgeReport:
        """A round, so many days from now."""
        report = await purge_once(
            self.database, retention_policy, now=later(days), committed=self.chunks.append, **options
        )
        assert self.rows("select * from ops.invariant_violations") == []
        return report

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.conn.execute(query.encode(), parameters).fetchall()

    def states(self) -> dict[str, str]:
        return dict(self.rows("select text_storage_id, state from els.pending_content"))

    def failures(self) -> dict[str, str]:
        return dict(self.rows("select file_upload_id, state from els.validation_failures"))

    def events(self, topic: str) -> list[dict[str, Any]]:
        rows = self.rows("select event from ops.outbox_events where topic = %s order by seq", topic)
        return [json.loads(event) for (event,) in rows]

    def subjects(self, topic: str) -> list[str]:
        """What the events are about."""
        return [event["data"].get("text_storage_id") or event["data"]["batch_id"] for event in self.events(topic)]

    @contextmanager
    def holding(self, statement: str, *parameters: Any) -> Iterator[None]:
        """While another transaction has run this and does not end."""
        with psycopg.connect(self.url) as other:
            other.execute(statement.encode(), parameters)
            yield
            other.rollback()

    def locked(self, batch_id: str) -> Any:
        """While another pod is working on a batch that is not registered."""
        return self.holding("select pg_advisory_xact_lock_shared(hashtextextended(%s, 0))", batch_id)


def later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def quarantine(house: PurgeFixture, state: str) -> None:
    house.conn.execute(
        'insert into els.quarantine (topic, fingerprint, state, "partition", "offset", reason, error, first_seen_at,'
        " last_seen_at, closed_at) values ('t', sha256(%s), %s, 0, 0, 'r', 'e', now(), now(), %s)",
        [state.encode(), state, None if state == "open" else later(0)],
    )
