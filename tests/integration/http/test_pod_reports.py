"""Tests that a pod reports its state into the database, and removes it when it ends."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from service.http import pod_reports
from service.http.pod_reports import PodReports
from service.postgres.pool import Database
from service.store.pods import Backlog


class PodState:
    """What a pod would report."""

    def __init__(self, database: Database) -> None:
        self.parts: dict[str, str | None] = {"database": None, "consumer": "starting", "topics": None}
        self.broker: str | None = None
        self.broker_calls = 0
        self.reports = PodReports(
            database, ["consumer"], self._errors, self._broker_error, lambda: Backlog(3, 7, 100.0)
        )

    async def _errors(self) -> dict[str, str | None]:
        return self.parts

    async def _broker_error(self) -> str | None:
        self.broker_calls += 1
        return self.broker


@pytest.fixture
async def database(app_url: str) -> AsyncIterator[Database]:
    database = Database(app_url)
    yield database
    await database.close()


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as conn:
        yield conn


def shown(conn: psycopg.Connection[dict[str, Any]]) -> dict[str, Any]:
    (row,) = conn.execute("select * from ops.pods").fetchall()
    return row


async def test_a_pod_reports_when_it_becomes_ready_or_not_and_otherwise_seldom(
    database: Database, conn: psycopg.Connection[dict[str, Any]]
) -> None:
    pod = PodState(database)
    await pod.reports.report_changes()
    began = shown(conn)
    assert (began["errors"], began["broker_error"], began["roles"]) == (["consumer: starting"], None, ["consumer"])
    assert (began["partitions"], began["lag"], began["is_alive"]) == (3, 7, True)
    assert 99 < (began["seen_at"] - began["applied_at"]).total_seconds() < 102
    await pod.reports.report_changes()
    assert shown(conn) == began, "nothing has changed"
    pod.parts["consumer"] = None
    await pod.reports.report_changes()
    ready = shown(conn)
    assert (ready["errors"], ready["not_ready_since"]) == ([], None)
    assert ready["seen_at"] > began["seen_at"]
    assert ready["started_at"] == began["started_at"]
    assert pod.broker_calls == 1, "a pod that is ready does not look for the broker"
    pod.parts["topics"] = "paused"  # ops.stopped_topics says so
    await pod.reports.report_changes()
    assert shown(conn) == ready


async def test_a_pod_that_cannot_reach_the_broker_says_since_when(
    database: Database, conn: psycopg.Connection[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_reports, "REPORT_SECONDS", 0.0)
    pod = PodState(database)
    pod.broker = "ELS_KAFKA_BOOTSTRAP_SERVERS: nobody listens"
    await pod.reports.report_changes()
    first = shown(conn)
    assert first["broker_error"] == pod.broker
    assert abs((first["broker_away_since"] - first["not_ready_since"]).total_seconds()) < 0.1
    await pod.reports.report_changes()
    assert abs((shown(conn)["broker_away_since"] - first["broker_away_since"]).total_seconds()) < 0.5
    pod.broker = None
    await pod.reports.report_changes()
    found = shown(conn)
    assert (found["broker_error"], found["broker_away_since"]) == (None, None)
    assert found["not_ready_since"] is not None


async def test_a_pod_that_ends_leaves_no_row_and_one_that_went_silent_is_forgotten(
    database: Database, conn: psycopg.Connection[dict[str, Any]]
) -> None:
    silent, living = PodState(database), PodState(database)
    await silent.reports.report_changes()
    conn.execute("update els.pods set seen_at = now() - interval '9 minutes'")
    await living.reports.report_changes()
    alive = [row["is_alive"] for row in conn.execute("select is_alive from ops.pods order by seen_at").fetchall()]
    assert alive == [False, True]
    conn.execute(
        "update els.pods set seen_at = now() - interval '11 minutes' where not seen_at > now() - interval '1 m'"
    )
    living.parts["consumer"] = None
    await living.reports.report_changes()
    assert shown(conn)["is_alive"]
    await living.reports.leave()
    assert conn.execute("select from ops.pods").fetchall() == []
