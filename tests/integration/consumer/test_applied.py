"""Tests up to which time of the database a partition counts as applied, and which partitions are known."""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest
from aiokafka import TopicPartition

from service.consumer import applied
from service.consumer.applied import AppliedTimes
from service.consumer.partitions import Assignment, Partition
from service.domain.topics import BATCH_REGISTERED
from service.postgres.pool import Database

TP = TopicPartition(BATCH_REGISTERED, 0)
ROW = 5


class Brokers:
    """Brokers that answer with these ends and numbers of partitions."""

    def __init__(self) -> None:
        self.end, self.counts = 0, dict[str, int]()

    async def ends(self, tps: Sequence[TopicPartition], *, whole_log: bool) -> Mapping[TopicPartition, int]:
        assert whole_log
        return dict.fromkeys(tps, self.end)

    async def partition_counts(self) -> Mapping[str, int]:
        return self.counts

    def open_transaction(self, _: TopicPartition) -> None:
        return None


class Fixture:
    """A partition whose row has reached `ROW`, in a database."""

    def __init__(self, conn: psycopg.Connection[Any], database: Database) -> None:
        self.conn, self.brokers = conn, Brokers()
        assignment = Assignment()
        assignment.membership = cast("Any", SimpleNamespace(brokers=self.brokers))
        self.times = AppliedTimes(database, assignment, cast("Any", SimpleNamespace(names=())))
        self.conn.execute(
            "insert into els.progress (topic, partition, next_offset) values (%s, 0, %s)", [TP.topic, ROW]
        )

    async def note(self, end: int = ROW, **counts: int) -> None:
        self.brokers.end, self.brokers.counts = end, {TP.topic: counts["partitions"]} if counts else {}
        await self.times.note([Partition(TP, row=ROW, seen=ROW)])

    def value(self, query: str) -> Any:
        row = self.conn.execute(query.encode()).fetchone()
        return row[0] if row else None


@pytest.fixture
async def fixture(app_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fixture]:
    monkeypatch.setattr(applied, "APPLIED_SECONDS", -1.0)  # asks each time
    database = Database(app_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield Fixture(conn, database)
    await database.close()


APPLIED = "select applied_until is not null from els.progress"


async def test_a_log_that_was_created_anew_is_not_applied(fixture: Fixture) -> None:
    """Its end is below the row, which speaks of the log before: the new records are not read yet."""
    await fixture.note(end=ROW - 1)
    assert fixture.value(APPLIED) is False
    await fixture.note(end=ROW)
    assert fixture.value(APPLIED) is True


async def test_a_log_that_goes_on_behind_the_row_is_not_applied(fixture: Fixture) -> None:
    await fixture.note(end=ROW + 1)
    assert fixture.value(APPLIED) is False


async def test_the_number_of_partitions_is_noted_with_a_time(fixture: Fixture) -> None:
    """Without an answer, the time before stays."""
    known = "select known_at::text || ' ' || partitions from els.input_topics"
    await fixture.note(partitions=3)
    before = fixture.value(known)
    assert before.endswith(" 3")
    await fixture.note()
    assert fixture.value(known) == before
    await fixture.note(partitions=4)
    assert fixture.value(known).endswith(" 4")
    assert fixture.value(f"select known_at > '{before.rpartition(' ')[0]}' from els.input_topics") is True
