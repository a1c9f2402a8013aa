"""What has passed its time limit expires, is reported and in the end deleted; nothing else is changed."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY
from pydantic import TypeAdapter

from deploy.servers.brokers import Broker
from deploy.servers.pods import pods, until
from service.domain import contract
from service.domain.delivery import IntakeLimits
from service.domain.events import Incoming
from service.domain.topics import (
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    INCOMING_TOPICS,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    VALIDATION_FAILED,
)
from service.postgres.pool import Database
from service.purge import policy, purge, reporting
from service.purge.policy import Chunk, PurgeReport, RetentionPolicy
from service.purge.purge import count_due, purge_once
from service.store import progress, retention
from tests.support.builders.progress import say_applied, say_partitions
from tests.support.checks import invariants
from tests.support.interleaving.interleaving import content, deliver, deliveries, failure, registration

CONTRACT = Path(__file__).parents[2] / "data" / "contract"
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


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[PurgeFixture]:
    database = Database(database_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield PurgeFixture(database_url, database, conn)
    await database.close()


def later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def sample(name: str) -> Any:
    return json.loads((CONTRACT / f"out.{name}.json").read_text())


def shape(value: Any) -> Any:
    """The names of all fields and the kinds of their values."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


# -- expiry


async def test_content_that_waited_too_long_becomes_expired_and_one_event_is_published(house: PurgeFixture) -> None:
    await house.poll(content("c1", traceparent=TRACE, tracestate="vendor=1"), content("c2"), content("c3", "d"))
    report = await house.purge(1.01)
    assert report == PurgeReport(expired_content=3)
    assert house.states() == {"c1": "expired", "c2": "expired", "c3": "expired"}
    assert sorted(house.subjects(PENDING_EXPIRED)) == ["c1", "c2", "c3"]
    assert await house.purge(1.02) == PurgeReport()
    assert len(house.events(PENDING_EXPIRED)) == 3


async def test_the_event_is_what_the_contract_says(house: PurgeFixture) -> None:
    event = content("c1", traceparent=TRACE, tracestate="vendor=1")
    await house.poll(event)
    await house.purge(1.01)
    (published,) = house.events(PENDING_EXPIRED)
    expected = sample("pending_content_expired")
    assert shape(published["data"]) == shape(expected["data"])
    assert list(published) == list(expected)
    TypeAdapter(contract.Envelope[contract.PendingExpired]).validate_json(json.dumps(published))
    ((stored_at, closed_at),) = house.rows("select stored_at, closed_at from els.pending_content")
    data = published["data"]
    assert datetime.fromisoformat(data["stored_at"]) == stored_at
    assert datetime.fromisoformat(data["expired_at"]) == closed_at
    assert (data["text_storage_id"], data["file_upload_id"]) == ("c1", "upload-c1")
    assert published["correlation_id"] == data["correlation_id"] == str(event.correlation_id)
    assert published["metadata"] == {"traceparent": TRACE, "tracestate": "vendor=1"}


async def test_content_that_has_not_waited_long_stays_pending(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    assert await house.purge(0.99) == PurgeReport()
    assert house.states() == {"c1": "pending"}


async def test_without_a_time_given_the_databases_clock_decides(house: PurgeFixture) -> None:
    await house.poll(content("old"), content("new"))
    house.conn.execute("update els.pending_content set waiting_since = now() - interval '25 h' where arrival = 1")
    say_applied(house.conn)
    assert await purge_once(house.database, POLICY) == PurgeReport(expired_content=1)
    assert sorted(house.states().values()) == ["expired", "pending"]


@pytest.mark.parametrize(
    ("topics", "ago", "expired", "late"),
    [
        ((), 0, 0, 0),
        (INCOMING_TOPICS, 2, 0, 0),
        (INCOMING_TOPICS, 0, 2, 1),
        ((BATCH_REGISTERED,), 0, 2, 0),
        ((CONTENT_PROVISIONED, VALIDATION_FAILED), 0, 0, 0),
    ],
    ids=["nothing is known", "up to two hours ago", "up to now", "only registrations", "all but registrations"],
)
async def test_a_time_limit_runs_only_as_far_as_the_inputs_are_applied(
    house: PurgeFixture, topics: Sequence[str], ago: int, expired: int, late: int
) -> None:
    """What would prevent an expiry, or complete a batch, may be among the inputs that are not applied yet."""
    await house.poll(content("c"), failure("f", "d"), registration("r", 2))
    house.conn.execute("update els.pending_content set waiting_since = now() - interval '25 h'")
    house.conn.execute("update els.validation_failures set waiting_since = now() - interval '25 h'")
    house.conn.execute("update els.batches set registered_at = now() - interval '25 h'")
    if topics:
        say_applied(house.conn, *topics, ago=ago)
    due = await count_due(house.database, POLICY)
    assert due == await purge_once(house.database, POLICY)
    assert (due.expired_content + due.expired_failures, due.timed_out_batches) == (expired, late)


@pytest.fixture
async def due(house: PurgeFixture) -> PurgeFixture:
    """With content that expires, unless the brake is on."""
    await house.poll(content("c"))
    house.conn.execute("update els.pending_content set waiting_since = now() - interval '25 h'")
    say_applied(house.conn)
    return house


async def test_one_partition_that_is_not_applied_keeps_the_brake_on(due: PurgeFixture) -> None:
    """Nobody has read it yet, then a pod has taken it over, then it is applied."""
    say_partitions(due.conn, {BATCH_REGISTERED: 2})
    assert await purge_once(due.database, POLICY) == PurgeReport()
    due.conn.execute("insert into els.progress (topic, partition, next_offset) values (%s, 1, 0)", [BATCH_REGISTERED])
    assert await purge_once(due.database, POLICY) == PurgeReport()
    due.conn.execute("update els.progress set applied_until = now()")
    assert await purge_once(due.database, POLICY) == PurgeReport(expired_content=1)


async def test_a_partition_that_a_topic_has_no_more_does_not_keep_the_brake_on(due: PurgeFixture) -> None:
    """The topic was created anew with fewer partitions, which is believed when it has been found for long enough."""
    due.conn.execute("insert into els.progress (topic, partition, next_offset) values (%s, 1, 9)", [BATCH_REGISTERED])
    say_partitions(due.conn, {BATCH_REGISTERED: 2})
    for seconds, expired in ((1, 0), (10, 0), (17, 1)):
        async with due.database.transaction() as conn:
            at = datetime.now(UTC) + timedelta(seconds=seconds)
            await progress.note_input_topics(conn, {BATCH_REGISTERED: 1}, at)
        assert await purge_once(due.database, POLICY) == PurgeReport(expired_content=expired)
    found = due.conn.execute("select attention from ops.health").fetchone()
    assert found is not None
    assert not any("applied to its end" in line for line in found[0])


async def test_one_pod_that_finds_all_partitions_is_believed(due: PurgeFixture) -> None:
    """A broker that lags reports fewer, for as long as it likes."""
    due.conn.execute("insert into els.progress (topic, partition, next_offset) values (%s, 1, 9)", [BATCH_REGISTERED])
    for seconds, partitions in ((1, 2), (5, 1), (15, 2), (16, 1), (25, 1)):
        async with due.database.transaction() as conn:
            at = datetime.now(UTC) + timedelta(seconds=seconds)
            await progress.note_input_topics(conn, {BATCH_REGISTERED: partitions}, at)
    assert await purge_once(due.database, POLICY) == PurgeReport()


async def test_time_limits_run_no_further_than_the_partitions_are_known(due: PurgeFixture) -> None:
    due.conn.execute("update els.input_topics set known_at = now() - interval '2 h'")
    assert await purge_once(due.database, POLICY) == PurgeReport()
    due.conn.execute("delete from els.input_topics where topic = %s", [BATCH_REGISTERED])
    assert await purge_once(due.database, POLICY) == PurgeReport()


@pytest.mark.parametrize("column", ["progress set applied_until", "input_topics set known_at"])
async def test_a_time_that_has_not_come_keeps_the_brake_on(due: PurgeFixture, column: str) -> None:
    """The clock of the database was ahead when it was noted; it is noted again."""
    due.conn.execute(f"update els.{column} = now() + interval '2 days'".encode())
    assert await purge_once(due.database, POLICY) == PurgeReport()
    async with due.database.transaction() as conn:
        now = await progress.read_clock(conn)
        await progress.note_input_topics(conn, {BATCH_REGISTERED: 1}, now)
        await progress.mark_applied(conn, {TopicPartition(BATCH_REGISTERED, 0): (0, 0, now)})
    assert await purge_once(due.database, POLICY) == PurgeReport(expired_content=1)


async def test_what_waits_for_a_registration_in_quarantine_does_not_expire(house: PurgeFixture) -> None:
    await house.poll(content("c"), failure("f"), content("c2", "other"))
    house.conn.execute(
        'insert into els.quarantine (topic, fingerprint, partition, "offset", key, value, reason, error,'
        " first_seen_at, last_seen_at)"
        " values (%s, sha256('r'), 0, 0, 'b', '{}', 'invalid_field', 'a test', now(), now())",
        [BATCH_REGISTERED],
    )
    assert await count_due(house.database, POLICY, now=later(2)) == PurgeReport(expired_content=1)
    assert await house.purge(2) == PurgeReport(expired_content=1)
    assert house.states() == {"c": "pending", "c2": "expired"}
    house.conn.execute("update els.quarantine set state = 'discarded', closed_at = now()")
    assert await house.purge(2) == PurgeReport(expired_content=1, expired_failures=1)


async def test_while_the_database_is_behind_nothing_is_purged(house: PurgeFixture) -> None:
    house.conn.execute("insert into els.recovery (state, why) values ('behind', 'a test')")
    with pytest.raises(psycopg.Error, match="behind its topics"):
        await purge_once(house.database, POLICY)


async def test_on_another_server_nothing_is_purged_until_a_consumer_has_compared_it(house: PurgeFixture) -> None:
    house.conn.execute("insert into els.server_identity (identity) values ('another')")
    with pytest.raises(psycopg.Error, match="another server"):
        await purge_once(house.database, POLICY)
    house.conn.execute("update els.server_identity set identity = els.this_server()")
    assert await purge_once(house.database, POLICY) == PurgeReport()


async def test_failures_expire_without_an_event(house: PurgeFixture) -> None:
    await house.poll(failure("f1"), failure("f2", "d"))
    assert await house.purge(1.01) == PurgeReport(expired_failures=2)
    assert house.failures() == {"f1": "expired", "f2": "expired"}
    assert house.rows("select count(*) from els.outbox_pages") == [(0,)]
    assert house.rows("select count(expired_at) from ops.validation_failures") == [(2,)]


async def test_expired_content_that_is_delivered_again_stays_expired(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    await house.purge(1.01)
    before = invariants.state(house.conn)
    await house.poll(content("c1"), failure("f1"))
    assert invariants.state(house.conn) == before


async def test_a_registration_that_comes_late_still_finds_what_expired(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    await house.purge(1.01)
    await house.poll(content("c2"))
    await house.poll(registration(essays=3))
    slots = house.rows("select coalesce(text_storage_id, file_upload_id) from els.slots order by position")
    assert slots == [("c1",), ("c2",), ("f1",)]
    assert house.states() == {}
    assert house.rows("select state, closed_at from els.validation_failures") == [("slot", None)]
    assert house.rows("select state from ops.batches") == [("ready",)]


async def test_what_is_due_goes_in_chunks_in_the_order_of_arrival(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ROWS_PER_CHUNK", 3)
    names = [f"c{number}" for number in range(10)]
    await house.poll(*(content(name) for name in names))
    assert await house.purge(1.01) == PurgeReport(expired_content=10)
    assert [len(chunk.done) for chunk in house.chunks] == [3, 3, 3, 1]
    assert house.subjects(PENDING_EXPIRED) == names


async def test_a_batch_that_another_transaction_works_on_is_skipped_and_blocks_no_other(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ROWS_PER_CHUNK", 2)
    await house.poll(*(content(f"c{number}", "busy") for number in range(5)))
    await house.poll(content("free", "free"), failure("f1", "busy"))
    with house.locked("busy"):
        report = await house.purge(1.01)
        assert report == PurgeReport(expired_content=1, passed_over=1)
        assert house.subjects(PENDING_EXPIRED) == ["free"]
    assert await house.purge(1.01) == PurgeReport(expired_content=5, expired_failures=1)


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


async def test_a_registration_that_commits_while_the_purge_reads_takes_effect(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content was found due before its batch was registered; under the lock it is not changed."""
    await house.poll(content("c1"), failure("f1"))
    find = retention.find_due
    found: list[Any] = []

    async def register_meanwhile(*arguments: Any) -> Any:
        keys = await find(*arguments)
        if not found:
            found.extend(keys)
            await house.poll(registration(essays=2))
        return keys

    monkeypatch.setattr(retention, "find_due", register_meanwhile)
    assert await house.purge(0.5, RetentionPolicy(1, 30 * DAY, DAY)) == PurgeReport()
    assert found == [("b", "c1")]
    assert house.events(PENDING_EXPIRED) == []
    assert house.rows("select state from ops.batches") == [("ready",)]


async def test_a_registration_that_comes_while_the_purge_holds_the_batch_waits_and_finds_the_content(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.poll(content("c1"))
    expire = retention.expire_content
    arrived: list[asyncio.Task[None]] = []

    async def expire_with_a_registration_waiting(*arguments: Any) -> Any:
        expired = await expire(*arguments)
        if not arrived:
            arrived.append(asyncio.create_task(deliver(house.database, deliveries(registration(essays=1)))))
            await until(lambda: _one_waits(house), 60, lambda: "no transaction waits for the batch")
        return expired

    monkeypatch.setattr(retention, "expire_content", expire_with_a_registration_waiting)
    assert (await house.purge(1.01)).expired_content == 1
    await arrived[0]
    assert house.rows("select text_storage_id from els.slots") == [("c1",)]
    types = [kind for (kind,) in house.rows("select topic from ops.outbox_events order by seq")]
    assert types[0] == PENDING_EXPIRED
    assert len(types) == 4
    assert invariants.violations(house.conn) == []


async def _one_waits(house: PurgeFixture) -> bool:
    waiting = """
        select exists (
            select
            from pg_locks
            inner join pg_database
                on pg_database.oid = pg_locks.database
            where datname = current_database()
                and locktype = 'advisory'
                and not granted
        )
    """
    return house.rows(waiting) == [(True,)]


async def test_content_of_a_registered_batch_is_never_touched(house: PurgeFixture) -> None:
    """Not even where it must not be: it stays for ops.invariant_violations to show."""
    await house.poll(registration(essays=1))
    await house.poll(content("c1", "d"))
    house.conn.execute("update els.pending_content set batch_id = 'b'")
    await purge_once(house.database, POLICY, now=later(0.9 * 365))
    assert house.states() == {"c1": "pending"}
    assert house.events(PENDING_EXPIRED) == []


async def test_what_was_restored_can_expire_again_which_is_another_event(house: PurgeFixture) -> None:
    await house.poll(content("c1"))
    await house.purge(1.01)
    restore = "update els.pending_content set state = 'pending', closed_at = null, waiting_since = %s"
    house.conn.execute(restore, [later(1.5)])
    assert await house.purge(2.4) == PurgeReport()
    assert await house.purge(2.6) == PurgeReport(expired_content=1)
    assert len({event["event_id"] for event in house.events(PENDING_EXPIRED)}) == 2


async def test_an_event_that_is_too_large_does_not_stop_the_purge(house: PurgeFixture) -> None:
    await house.poll(content("c1", original_file_name="x" * 3000), content("c2"))
    assert await house.purge(1.01, limits=IntakeLimits(event_bytes=2000)) == PurgeReport(expired_content=2)
    assert house.subjects(PENDING_EXPIRED) == ["c2"]


# -- batches that are late


async def test_a_late_batch_is_reported_once_and_can_still_become_ready(house: PurgeFixture) -> None:
    await house.poll(registration(essays=3), registration("d", 1), content("c3", "d"))
    await house.poll(content("c1"), failure("f1"))
    assert await house.purge(1.01) == PurgeReport(timed_out_batches=1)
    assert await house.purge(3) == PurgeReport()
    (published,) = house.events(READINESS_TIMEOUT)
    assert published["data"]["batch_id"] == "b"
    assert published["data"]["ready_essays"] == [{"essay_id": "e1", "text_storage_id": "c1"}]
    assert published["data"]["missing_essay_ids"] == ["e3"]
    assert (published["data"]["expected_count"], published["data"]["actual_count"]) == (3, 1)
    assert published["data"]["timeout_duration_seconds"] == DAY
    await house.poll(content("c2"))
    assert house.rows("select state from ops.batches where batch_id = 'b' and timed_out_at is not null") == [("ready",)]
    assert len(house.events(READINESS_TIMEOUT)) == 1


async def test_the_report_of_a_late_batch_is_what_the_contract_says(house: PurgeFixture) -> None:
    await house.poll(registration(essays=2, traceparent=TRACE))
    await house.poll(content("c1"))
    await house.purge(1.01)
    (published,) = house.events(READINESS_TIMEOUT)
    expected = sample("batch_readiness_timeout")
    assert list(published) == list(expected)
    assert shape(published["data"]) == shape(expected["data"])
    TypeAdapter(contract.Envelope[contract.ReadinessTimeout]).validate_json(json.dumps(published))
    assert published["metadata"] == {"traceparent": TRACE}


async def test_a_late_batch_that_another_transaction_works_on_is_left_to_the_next_round(house: PurgeFixture) -> None:
    await house.poll(registration(essays=1), registration("d", 1))
    with house.holding("select from els.batches where batch_id = 'b' for no key update"):
        assert await house.purge(1.01) == PurgeReport(timed_out_batches=1)
        assert house.subjects(READINESS_TIMEOUT) == ["d"]
    assert await house.purge(1.01) == PurgeReport(timed_out_batches=1)


async def test_a_large_batch_is_reported_completely_in_a_transaction_of_its_own(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "SLOTS_PER_CHUNK", 10)
    monkeypatch.setattr(purge, "BATCHES_PER_CHUNK", 3)
    await house.poll(registration("large", 5_000))
    await house.poll(content("c1", "large"))
    await house.poll(*(registration(f"small{number}", 4) for number in range(6)))
    assert await house.purge(1.01) == PurgeReport(timed_out_batches=7)
    assert [len(chunk.done) for chunk in house.chunks if chunk.task == "timed_out_batches"] == [1, 2, 2, 2]
    data = house.events(READINESS_TIMEOUT)[0]["data"]
    assert data["missing_essay_ids"] == [f"e{number}" for number in range(2, 5_001)]
    assert len(data["ready_essays"]) == 1


# -- the end of what was kept


async def test_expired_content_is_deleted_at_the_end_of_its_retention(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    await house.purge(1.01)
    assert await house.purge(31) == PurgeReport()
    assert await house.purge(31.02) == PurgeReport(deleted_content=1, deleted_failures=1)
    assert (house.states(), house.failures()) == ({}, {})


async def test_by_default_closed_rows_are_kept_for_90_days_and_batches_and_actions_for_400(house: PurgeFixture) -> None:
    await house.poll(registration(essays=1), content("c1"), registration("late", 1), content("c2", "unknown"))
    await house.poll(failure("f1", "unknown"))
    for table in ("pending_content", "validation_failures"):
        house.conn.execute(f"update els.{table} set state = 'removed', closed_at = now()".encode())
    _quarantine(house, "discarded")
    _quarantine(house, "open")
    house.conn.execute("insert into els.operator_actions (who, action, why) values ('o', 'pending remove', '')")
    await house.purge(2)
    house.conn.execute("delete from els.outbox_pages")
    assert await house.purge(89) == PurgeReport()
    assert await house.purge(91) == PurgeReport(deleted_removed=1, deleted_removed_failures=1, deleted_quarantine=1)
    assert await house.purge(399) == PurgeReport()
    assert await house.purge(401) == PurgeReport(deleted_batches=1, deleted_actions=1)
    assert await house.purge(403) == PurgeReport(deleted_batches=1)  # reported as late after two days
    assert house.rows("select state from els.quarantine") == [("open",)]


async def test_batches_are_deleted_whole_at_the_end_of_their_retention(house: PurgeFixture) -> None:
    await house.poll(registration(essays=2), content("c1"), failure("f1"))
    await house.poll(content("excess"), failure("surplus"))
    await house.poll(registration("late", 1), registration("open", 1))
    await house.purge(2, SHORT)
    house.conn.execute("update els.batches set timed_out_at = null where batch_id = 'open'")
    assert await house.purge(61, SHORT) == PurgeReport(timed_out_batches=1)  # the rest is not published yet
    house.conn.execute("delete from els.outbox_pages")
    assert await house.purge(61, SHORT) == PurgeReport(deleted_batches=1)
    assert await house.purge(63, SHORT) == PurgeReport(deleted_batches=1)
    assert house.rows("select batch_id from els.batches") == [("open",)]
    assert house.rows("select batch_id from els.slots") == [("open",)]
    assert house.rows("select count(*) from els.excess_content") == [(0,)]
    assert house.failures() == {}


@pytest.mark.parametrize(
    "held",
    [
        "select from els.batches where batch_id = 'b' for no key update",
        "select from els.slots where batch_id = 'b' limit 1 for update",
        "select pg_advisory_xact_lock(hashtextextended('b', 0))",
    ],
)
async def test_a_batch_that_another_transaction_works_on_is_not_deleted(house: PurgeFixture, held: str) -> None:
    await house.poll(registration(essays=2))
    await house.poll(registration("d", 1))
    await house.purge(2)
    house.conn.execute("delete from els.outbox_pages")
    with house.holding(held):
        assert await house.purge(63, SHORT) == PurgeReport(deleted_batches=1, passed_over=1)
    assert await house.purge(63, SHORT) == PurgeReport(deleted_batches=1)


@pytest.mark.parametrize("late", [content("excess"), failure("surplus")])
async def test_a_batch_is_kept_as_long_as_its_latest_upload_may_be_delivered_again(
    house: PurgeFixture, late: Incoming
) -> None:
    """Else that upload's next delivery would wait for a registration that was long ago."""
    await house.poll(registration(essays=1), content("c1"))
    house.conn.execute("update els.batches set completed_at = now() - interval '61 days'")
    house.conn.execute("update els.batches set changed_at = completed_at, registered_at = completed_at")
    await house.poll(late)
    house.conn.execute("delete from els.outbox_pages")
    assert await count_due(house.database, SHORT, later(59)) == await house.purge(59, SHORT) == PurgeReport()
    assert await house.purge(61, SHORT) == PurgeReport(deleted_batches=1)


async def test_closed_rows_are_deleted_at_the_end_of_their_retention_and_open_ones_stay(house: PurgeFixture) -> None:
    await house.poll(content("c1"), content("c2"), failure("f1"), failure("f2"))
    house.conn.execute("update els.pending_content set state = 'removed', closed_at = now() where arrival = 1")
    house.conn.execute("update els.validation_failures set state = 'removed', closed_at = now() where arrival = 3")
    for state in ("open", "replayed", "discarded"):
        _quarantine(house, state)
    house.conn.execute("insert into els.operator_actions (who, action, why) values ('o', 'pending remove', '')")
    retention_policy = replace(FOR_EVER, closed_retention=60 * DAY, actions_retention=70 * DAY)
    assert await house.purge(59, retention_policy) == PurgeReport()
    due = PurgeReport(deleted_removed=1, deleted_removed_failures=1, deleted_quarantine=2)
    assert await count_due(house.database, retention_policy, later(61)) == due
    assert await house.purge(61, retention_policy) == due
    assert await house.purge(71, retention_policy) == PurgeReport(deleted_actions=1)
    assert house.states() == {"c2": "pending"}
    assert house.rows("select state from els.quarantine") == [("open",)]
    assert house.rows("select id from els.operator_actions") == []


async def test_what_is_closed_stays_while_it_is_delivered_again(house: PurgeFixture) -> None:
    """Its topic still has it: without the row, it would be open once more."""
    _quarantine(house, "discarded")
    house.conn.execute("update els.quarantine set last_seen_at = %s", [later(30)])
    retention_policy = replace(FOR_EVER, closed_retention=60 * DAY, actions_retention=70 * DAY)
    assert (
        await count_due(house.database, retention_policy, later(61))
        == await house.purge(61, retention_policy)
        == PurgeReport()
    )
    assert await house.purge(91, retention_policy) == PurgeReport(deleted_quarantine=1)


def _quarantine(house: PurgeFixture, state: str) -> None:
    house.conn.execute(
        'insert into els.quarantine (topic, fingerprint, state, "partition", "offset", reason, error, first_seen_at,'
        " last_seen_at, closed_at) values ('t', sha256(%s), %s, 0, 0, 'r', 'e', now(), now(), %s)",
        [state.encode(), state, None if state == "open" else later(0)],
    )


def test_a_retention_that_is_shorter_than_that_of_an_input_topic_is_named() -> None:
    assert policy.too_short(SHORT, {"a": 7 * DAY, "b": 29 * DAY}) == []
    (message,) = policy.too_short(SHORT, {"a": 7 * DAY, "b": 31 * DAY})
    assert "ELS_EXPIRED_RETENTION_SECONDS" in message
    assert "b keeps" in message
    assert len(policy.too_short(SHORT, {"a": float("inf")})) == 3
    assert len(policy.too_short(POLICY, {"a": 89 * DAY})) == 1


# -- reports


async def test_a_dry_run_counts_what_a_round_would_do_and_changes_nothing(house: PurgeFixture) -> None:
    await house.poll(content("c1"), content("c2"), failure("f1"), registration("late", 1), registration("d", 1))
    await house.poll(content("c3", "d"))
    _quarantine(house, "replayed")
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
    _quarantine(house, "replayed")
    database = Database(app_url)
    try:
        await purge_once(database, SHORT, now=later(2))
        house.conn.execute("delete from els.outbox_pages")
        report = await purge_once(database, SHORT, now=later(63))
        assert report == PurgeReport(deleted_content=1, deleted_failures=1, deleted_batches=1, deleted_quarantine=1)
        assert await count_due(database, SHORT) == PurgeReport()
    finally:
        await database.close()


# -- in a pod


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
