"""Time limits run only as far as the inputs are known to be applied."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from aiokafka import TopicPartition

from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, INCOMING_TOPICS, VALIDATION_FAILED
from service.purge.policy import PurgeReport
from service.purge.purge import count_due, purge_once
from service.store import progress
from tests.support.builders.events import content, failure, registration
from tests.support.builders.progress import say_applied, say_partitions
from tests.support.pods.purger import POLICY, PurgeFixture, later


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
