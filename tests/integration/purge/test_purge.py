"""Rounds of the purge: one pod at a time, counted, logged, and in a pod."""

import asyncio
from dataclasses import fields
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from deploy.servers.brokers import Broker
from deploy.servers.pods import pods, until
from service.domain.cells import Slice, cell_of
from service.domain.topics import PENDING_EXPIRED
from service.postgres.pool import Database
from service.purge import purge, reporting
from service.purge.policy import PurgeReport
from service.purge.purge import count_due, purge_once
from tests.support.builders.events import content, failure, registration
from tests.support.checks import invariants
from tests.support.pods.purger import FOR_EVER, POLICY, SHORT, PurgeFixture, later, quarantine


async def test_one_pod_purges_at_a_time(house: PurgeFixture) -> None:
    await house.poll(content("c1"))
    with house.holding("select pg_advisory_xact_lock(hashtext('els'), hashtext('purge'))"):
        assert await house.purge(1.01) == PurgeReport(whole=False)
        assert house.states() == {"c1": "pending"}
    reports = await asyncio.gather(*(house.purge(1.01) for _ in range(4)))
    assert sum(report.expired_content for report in reports) == 1
    assert house.subjects(PENDING_EXPIRED) == ["c1"]


async def test_a_round_that_is_stopped_ends_after_its_chunk(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ROWS_PER_CHUNK", 1)
    await house.poll(content("c1"), content("c2"))
    report = await house.purge(1.01, stopped=lambda: bool(house.chunks))
    assert report == PurgeReport(expired_content=1, whole=False)


async def test_a_dry_run_counts_what_a_round_would_do_and_changes_nothing(house: PurgeFixture) -> None:
    await house.poll(content("c1"), content("c2"), failure("f1"), registration("late", 1), registration("d", 1))
    await house.poll(content("c3", "d"))
    quarantine(house, "replayed")
    before = invariants.state(house.conn)
    due = await count_due(house.database, SHORT, later(61))
    expected = PurgeReport(expired_content=2, expired_failures=1, timed_out_batches=1, deleted_quarantine=1)
    assert due == expected
    assert await count_due(house.database, FOR_EVER, later(61)) == PurgeReport()
    assert invariants.state(house.conn) == before
    assert await house.purge(61, SHORT) == expected
    house.conn.execute("delete from els.outbox_pages")
    await house.purge(61, SHORT)
    due = await count_due(house.database, SHORT, later(122))
    assert due == PurgeReport(deleted_content=2, deleted_failures=1, deleted_batches=1)


async def test_what_was_done_is_counted_when_it_is_committed(house: PurgeFixture) -> None:
    def counted(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    before = counted("els_pending_content_expired_total"), counted("els_batches_timed_out_total")
    await house.poll(content("c1"), content("c2"), failure("f1"), registration("late", 1))
    await purge_once(house.database, POLICY, now=later(2), committed=reporting.report)
    assert counted("els_pending_content_expired_total") == before[0] + 2
    assert counted("els_batches_timed_out_total") == before[1] + 1
    assert counted("els_purged_total", chore="expired_failures") >= 1


def test_every_task_that_changes_something_is_logged() -> None:
    silent = {"indexed_batches", "ended_waits", "passed_over", "whole", "held"}  # ended waits: as batch_ready
    logged = reporting._EVENT_OF.keys() | set(reporting._COUNTED)
    assert {each.name for each in fields(PurgeReport)} - silent == logged


async def test_the_services_own_role_may_do_all_that(house: PurgeFixture, app_url: str) -> None:
    await house.poll(content("c1"), failure("f1"), registration("late", 1))
    quarantine(house, "replayed")
    database = Database(app_url)
    try:
        await purge_once(database, SHORT, now=later(2))
        house.conn.execute("delete from els.outbox_pages")
        report = await purge_once(database, SHORT, now=later(63))
        assert report == PurgeReport(deleted_content=1, deleted_failures=1, deleted_batches=1, deleted_quarantine=1)
        assert await count_due(database, SHORT) == PurgeReport()
    finally:
        await database.close()


async def test_batches_of_another_cell_that_a_split_has_left_here_are_not_reported(house: PurgeFixture) -> None:
    ids = [f"late{number}" for number in range(8)]
    await house.poll(*(registration(batch_id, 1) for batch_id in ids))
    house.conn.execute("update els.slice set cells = 2, cell = 1, trims = true")
    own = {batch_id for batch_id in ids if cell_of(batch_id, 2) == 1}
    database = Database(house.url, of=Slice(2, 1))
    try:
        due = await count_due(database, POLICY, now=later(2))
        report = await purge_once(database, POLICY, now=later(2))
    finally:
        await database.close()
    assert due.timed_out_batches == report.timed_out_batches == len(own) < len(ids)
    assert set(house.rows("select batch_id from els.batches where timed_out_at is not null")) == {(id_,) for id_ in own}


async def test_a_pod_purges_by_itself_and_publishes_its_events(
    house: PurgeFixture, app_url: str, tansu: Broker, tmp_path: Path
) -> None:
    await house.poll(content("c1"), registration("late", 1))
    house.conn.execute("update els.pending_content set waiting_since = now() - interval '25 h'")
    house.conn.execute("update els.batches set registered_at = now() - interval '25 h'")
    late = "select count(*) from ops.batches where timed_out_at is not null"

    def done() -> bool:
        return house.states() == {"c1": "expired"} and house.rows(late) == [(1,)]

    settings = {"ELS_DATABASE_URL": app_url, "ELS_PURGE_INTERVAL_SECONDS": "1"}
    with pods(tmp_path, settings, tansu.settings) as running:
        (pod,) = running.start()
        await running.ready()
        await until(done, 90, pod.last_lines)
        await until(lambda: house.rows("select count(*) from els.outbox_pages") == [(0,)], 90, pod.last_lines)
        logged = [entry for entry in pod.logged() if entry.get("event") in ("content_expired", "batch_timed_out")]
        # Not of one round, perhaps: each waits until other topics are applied.
        assert {entry["batch_id"] for entry in logged} == {"b", "late"}
        assert await running.stop() == [0]
