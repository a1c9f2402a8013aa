"""Tests that a consumer notices a database or a topic that was set back, on a real server and a real broker."""

import asyncio
import os
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from deploy.local.postgres import Postgres
from deploy.servers.brokers import Broker
from deploy.servers.pods import pods, until
from service.consumer.locator import Locator
from service.consumer.partitions import Partition
from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.kafka.connection import client_options
from service.kafka.group import Membership
from service.kafka.topics import create_topics
from service.postgres import migration
from service.postgres.pool import Database
from service.recovery.recovery import Recovered, RecoveryOptions, recover
from service.store.operator_actions import Operator
from service.store.outbox import EVENTS_PER_ROW
from tests.support.builders.batches import record_batch
from tests.support.builders.inputs import content, registration
from tests.support.checks.invariants import violations
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, consumer_fixture
from tests.support.servers.failover import copy_data, replace

ROW = f"select next_offset from els.progress where topic = '{CONTENT_PROVISIONED}' and \"partition\" = 0"
TP = TopicPartition(CONTENT_PROVISIONED, 0)
ANSWERED_SECONDS = 2
"""After these the broker has answered the last fetch of a frozen pod, with no records."""
LEAVES = pytest.mark.only_in_test_all("leaving a group, which the embedded broker is slow to see")


@pytest.fixture
def restarting(strict_consumers: ConsumerFixture) -> ConsumerFixture:
    strict_consumers.restarts = True
    return strict_consumers


async def recovered(consumers: ConsumerFixture) -> Recovered:
    database = Database(consumers.app_url)
    options = RecoveryOptions(
        consumers.group,
        IntakeLimits(),
        InputLimits(),
        Operator("a test", "restored"),
        quiet_seconds=0.5,
    )
    try:
        return await recover(database, client_options(consumers.broker.bootstrap_servers), options)
    finally:
        await database.close()


async def applied(consumers: ConsumerFixture, *texts: str) -> None:
    await consumers.publish(CONTENT_PROVISIONED, *(content("b", text) for text in texts))
    await consumers.all_committed()


async def test_the_row_is_what_the_group_commits(restarting: ConsumerFixture) -> None:
    await restarting.start()
    await applied(restarting, "t0", "t1")
    assert restarting.value(ROW) == restarting.ends[TP]
    query = "select record_offset = next_offset - 1 and record_at is not null and record_digest is not null"
    assert restarting.value(f"{query} from els.progress where next_offset > 0") is True


@pytest.mark.parametrize("when", ["at the start", "while it runs", "while nothing comes"])
async def test_a_database_that_was_set_back_is_noticed_and_nothing_more_is_applied(
    on_apache: ConsumerFixture, when: str
) -> None:
    """The rows are set back, as a restored backup or a promoted standby sets them back, with the contents."""
    running = await on_apache.start()
    await applied(on_apache, "t0")
    before = on_apache.value(ROW)
    await applied(on_apache, "t1", "t2")
    if when == "at the start":
        await on_apache.stop()
    with psycopg.connect(on_apache.conn.info.dsn, password=on_apache.conn.info.password) as conn:
        conn.execute("delete from els.pending_content where text_storage_id <> 't0'")
        conn.execute("update els.progress set next_offset = %s where next_offset > %s", [before, before])
    if when != "while nothing comes":
        await on_apache.publish(CONTENT_PROVISIONED, content("b", "t3"))
    if when == "at the start":
        running = on_apache.start_one()
    await on_apache.becomes("select state from els.recovery", "behind")
    await until(lambda: "behind" in str(running.health.parts["consumer"]), BOUND, lambda: str(running.health.parts))
    assert not running.health.ready
    assert on_apache.value(PENDING) == 1
    assert on_apache.value("select attention[1] from ops.health").startswith("the database is behind")
    await until_left(on_apache)
    there = 3 if when == "while nothing comes" else 4
    assert (await recovered(on_apache)).counts["inputs to read"] >= there - 1
    await on_apache.all_committed()
    assert on_apache.value(PENDING) == there
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
    assert on_apache.value("select action from els.operator_actions") == "recover"


@LEAVES
async def test_the_error_of_a_transaction_that_is_not_tried_any_more_does_not_stay(restarting: ConsumerFixture) -> None:
    """Without traffic there is no other transaction after the recovery that would clear it."""
    running = await restarting.start()
    await applied(restarting, "t0")
    restarting.conn.execute("revoke insert on els.pending_content from els_app")
    await restarting.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await until(lambda: bool(running.health.parts.get("transactions")), BOUND, lambda: str(running.health.parts))
    restarting.conn.execute("insert into els.recovery (state, why) values ('behind', 'a test')")
    await until_left(restarting)
    restarting.conn.execute("grant insert on els.pending_content to els_app")
    await recovered(restarting)
    assert restarting.value(PENDING) == 2
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


async def until_left(consumers: ConsumerFixture) -> None:
    """Waits until no consumer is in the group any more: only then can its offsets be set."""
    await until(lambda: all(each.partitions == 0 for each in consumers.running), BOUND, lambda: "it is in the group")


@pytest.mark.parametrize("is_promoted", [False, True], ids=["a restored copy", "a promoted standby"])
async def test_a_server_without_the_last_transactions_is_behind(
    durable_postgres: Postgres, apache: Broker, is_promoted: bool
) -> None:
    """The copy of the data was made before those transactions; a promotion also begins a new timeline."""
    server, copy = durable_postgres, durable_postgres.data.with_name("copy")
    migration.upgrade(server.url())
    async with consumer_fixture(server.url(), server.url(), apache) as consumers:
        consumers.restarts = True
        running = await consumers.start()
        await applied(consumers, "t0")
        copy_data(server, copy)
        consumers.conn = psycopg.connect(server.url(), autocommit=True)
        await applied(consumers, "t1", "t2")
        assert consumers.value(PENDING) == 3
        before = consumers.value("select identity from els.server_identity")
        replace(server, copy, is_promoted=is_promoted)
        consumers.conn = psycopg.connect(server.url(), autocommit=True)
        await consumers.publish(CONTENT_PROVISIONED, content("b", "t3"))
        await consumers.becomes("select state from els.recovery", "behind")
        await until(lambda: "behind" in str(running.health.parts["consumer"]), BOUND, lambda: str(running.health.parts))
        assert consumers.value(PENDING) == 1
        await until_left(consumers)
        await recovered(consumers)
        await consumers.all_committed()
        assert consumers.value(PENDING) == 4
        assert consumers.value("select count(*) = 1 and min(identity) = els.this_server() from els.server_identity")
        assert (consumers.value("select identity from els.server_identity") != before) is is_promoted
        assert violations(consumers.conn) == []


@LEAVES
async def test_what_a_previous_release_has_applied_is_not_behind(restarting: ConsumerFixture) -> None:
    """It writes no rows, and its offsets have no text. Its marks tell that it has owned the partition."""
    await restarting.start()
    await applied(restarting, "t0")
    await restarting.stop()
    await restarting.publish(CONTENT_PROVISIONED, content("b", "t1"), content("b", "t2"))
    await previous_release(restarting, marks=True)
    running = await restarting.start()
    await applied(restarting, "t3")
    assert restarting.value(PENDING) == 2
    assert restarting.value(ROW) == restarting.ends[TP]
    assert restarting.value("select count(*) from els.recovery") == 0
    assert restarting.value("select count(*) from ops.lost_inputs") == 0
    assert not restarting.value(ROW.replace("next_offset", "previous_release"))
    assert running.health.ready


@LEAVES
async def test_offsets_without_our_text_count_where_no_previous_release_was(restarting: ConsumerFixture) -> None:
    await restarting.start()
    await applied(restarting, "t0")
    await restarting.stop()
    await restarting.publish(CONTENT_PROVISIONED, content("b", "t1"), content("b", "t2"))
    await previous_release(restarting, marks=False)
    restarting.start_one()
    await restarting.becomes("select state from els.recovery", "behind")


async def previous_release(consumers: ConsumerFixture, *, marks: bool) -> None:
    """Does what a pod of the previous release leaves behind, once it has applied all records and stopped."""
    if marks:
        consumers.conn.execute(
            'insert into els.crash_marks (topic, partition, "offset", pod, marked_at)'
            " select topic, partition, 0, 'els-7f9c-1-ab', now() from els.progress"
        )
        consumers.conn.execute("delete from els.crash_marks")
    client = AIOKafkaConsumer(
        bootstrap_servers=consumers.broker.bootstrap_servers, group_id=consumers.group, enable_auto_commit=False
    )
    await client.start()
    client.assign(list(consumers.ends))
    await client.commit(dict(consumers.ends))
    await client.stop()


async def test_records_that_were_deleted_unread_are_counted_and_reading_continues(
    on_apache: ConsumerFixture,
) -> None:
    await on_apache.start()
    await applied(on_apache, "t0")
    await on_apache.stop()
    await on_apache.publish(CONTENT_PROVISIONED, *(content("b", f"t{number}") for number in range(1, 5)))
    await on_apache.delete_records(TP, on_apache.ends[TP] - 1)
    running = await on_apache.start()
    await on_apache.all_committed()
    assert on_apache.value("select string_agg(text_storage_id, ' ' order by arrival) from els.pending_content") == (
        "t0 t4"
    )
    assert on_apache.value("select records from ops.lost_inputs") == 3
    assert on_apache.value("select cause from ops.lost_inputs") == "deleted"
    assert running.health.ready


async def test_records_that_are_deleted_while_a_pod_is_frozen_are_counted(
    on_apache: ConsumerFixture, tmp_path: Path
) -> None:
    settings = {"ELS_DATABASE_URL": on_apache.app_url, "ELS_CONSUMER_GROUP": on_apache.group}
    with pods(tmp_path, settings, on_apache.broker.settings) as running:
        (pod,) = running.start(1)
        await running.ready()
        await applied(on_apache, "t0")
        os.kill(pod.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(ANSWERED_SECONDS)
            await on_apache.publish(CONTENT_PROVISIONED, *(content("b", f"t{number}") for number in range(1, 5)))
            await on_apache.delete_records(TP, on_apache.ends[TP] - 1)
        finally:
            os.kill(pod.pid, signal.SIGCONT)
        await on_apache.becomes("select sum(records) from ops.lost_inputs", 3)
        await on_apache.all_committed()
        assert on_apache.value("select string_agg(text_storage_id, ' ' order by arrival) from els.pending_content") == (
            "t0 t4"
        )
        await running.ready()


@pytest.mark.only_in_test_all("a topic that is created again")
async def test_a_topic_that_was_created_again_is_read_from_its_beginning(restarting: ConsumerFixture) -> None:
    running = await restarting.start()
    await applied(restarting, "t0", "t1", "t2")
    await restarting.stop()
    await restarting.create_again(CONTENT_PROVISIONED)
    for number in range(3, 8):
        await restarting.publish(CONTENT_PROVISIONED, content("b", f"t{number}"))
    running = await restarting.start()
    await restarting.becomes(PENDING, 8)
    assert restarting.value("select cause from ops.lost_inputs") == "replaced"
    assert restarting.value(f"select epoch from ops.progress where topic = '{TP.topic}' and \"partition\" = 0") == 1
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


@LEAVES
async def test_an_empty_database_under_topics_with_events_is_behind(
    restarting: ConsumerFixture,
) -> None:
    options = client_options(restarting.broker.bootstrap_servers)
    await create_topics(options, partitions=1, replication=1, topics={SLOT_ASSIGNED: {}})
    await restarting.producer.send_and_wait(SLOT_ASSIGNED, b"{}", b"b")
    await restarting.publish(CONTENT_PROVISIONED, content("b", "t0"))
    running = restarting.start_one()
    await restarting.becomes("select state from els.recovery", "behind")
    await until(lambda: "behind" in str(running.health.parts["consumer"]), BOUND, lambda: str(running.health.parts))
    await until_left(restarting)
    assert restarting.value(PENDING) == 0
    await recovered(restarting)
    assert restarting.value(PENDING) == 1
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


@pytest.mark.only_in_test_all("commits whose loss only the outputs show")
async def test_events_that_only_the_output_topics_have_show_that_commits_are_lost(
    restarting: ConsumerFixture,
) -> None:
    """The group's offsets are committed up to 0.2 s later than the transactions: they need not show the loss."""
    await restarting.start()
    await restarting.publish(BATCH_REGISTERED, registration("b", ["e1"]))
    await applied(restarting, "t0")
    await restarting.stop()
    options = client_options(restarting.broker.bootstrap_servers)
    await create_topics(options, partitions=1, replication=1, topics={SLOT_ASSIGNED: {}})
    for essay_id, text in (("e1", "t0"), ("e2", "t9")):
        value = orjson.dumps({"data": {"batch_id": "b", "essay_id": essay_id, "text_storage_id": text}})
        await restarting.producer.send_and_wait(SLOT_ASSIGNED, value, b"b", headers=[("seq", b"1")])
    restarting.start_one()
    await restarting.becomes("select state from els.recovery", "behind")
    assert restarting.value("select why from els.recovery").startswith("1 of the last 2 events")


async def test_a_recovery_ends_although_published_events_are_of_the_lost_time(on_apache: ConsumerFixture) -> None:
    """The inputs of those events are not applied again yet when the pods come back, and may be decided otherwise."""
    await on_apache.start()
    await on_apache.publish(BATCH_REGISTERED, registration("b", ["e1"]))
    await applied(on_apache, "t0")
    await on_apache.stop()
    options = client_options(on_apache.broker.bootstrap_servers)
    await create_topics(options, partitions=1, replication=1, topics={SLOT_ASSIGNED: {}})
    value = orjson.dumps({"data": {"batch_id": "b", "essay_id": "e1", "text_storage_id": "t9"}})
    seq = b"%d" % (10**6 * EVENTS_PER_ROW)
    await on_apache.producer.send_and_wait(SLOT_ASSIGNED, value, b"b", headers=[("seq", seq)])
    running = on_apache.start_one()
    await on_apache.becomes("select state from els.recovery", "behind")
    await until_left(on_apache)
    await recovered(on_apache)
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
    await applied(on_apache, "t1")
    assert on_apache.value("select count(*) from els.recovery") == 0
    await on_apache.stop()
    running = await on_apache.start()
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
    assert on_apache.value("select count(*) from els.recovery") == 0


async def test_a_log_that_ends_before_the_row_is_read_again_although_its_last_record_is_there(
    on_apache: ConsumerFixture,
) -> None:
    """Records behind the one that the row names, or markers of transactions, may have been truncated."""
    await on_apache.start()
    await applied(on_apache, "t0", "t1")
    await on_apache.stop()
    on_apache.conn.execute(f"update els.progress set next_offset = next_offset + 5 where {ROW.partition(' where ')[2]}")
    running = await on_apache.start()
    await on_apache.becomes("select cause from ops.lost_inputs", "truncated")
    await applied(on_apache, *(f"t{number}" for number in range(2, 9)))
    assert on_apache.value(PENDING) == 9
    assert on_apache.value("select count(*) from els.recovery") == 0
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


async def test_a_partition_with_a_record_that_waits_is_not_applied_up_to_now(restarting: ConsumerFixture) -> None:
    await restarting.start()
    await applied(restarting, "t0")
    with psycopg.connect(restarting.conn.info.dsn, password=restarting.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await restarting.publish(CONTENT_PROVISIONED, content("held", "t1"))
        published = restarting.value("select now()")
        newer = f"select count(*) filter (where applied_until > '{published}') from els.progress"
        total = restarting.value("select count(*) from els.progress")
        await restarting.becomes(newer, total - 1)
        assert restarting.value(f"{newer} where topic = '{TP.topic}' and \"partition\" = 0") == 0
    await restarting.becomes(newer, total)


async def test_a_partition_is_read_on_although_the_record_that_its_row_names_was_deleted(
    on_apache: ConsumerFixture,
) -> None:
    """That record may lie far below the row: while records are deferred, the row keeps it."""
    await on_apache.start()
    await applied(on_apache, "t0", "t1", "t2")
    await on_apache.stop()
    on_apache.conn.execute(f"update els.progress set record_offset = 0 where {ROW.partition(' where ')[2]}")
    await on_apache.delete_records(TP, on_apache.ends[TP] - 1)
    running = await on_apache.start()
    await applied(on_apache, "t3")
    assert on_apache.value(PENDING) == 4
    assert on_apache.value("select count(*) from ops.lost_inputs") == 0
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


async def test_a_partition_is_applied_up_to_a_time_also_behind_the_marker_of_a_transaction(
    on_apache: ConsumerFixture,
) -> None:
    running = await on_apache.start()
    await applied(on_apache, "t0")
    began = on_apache.value("select now()")
    await on_apache.send_in_a_transaction(CONTENT_PROVISIONED, content("b", "t1"))
    await on_apache.becomes(PENDING, 2)
    applied_until = ROW.replace("next_offset", f"applied_until > '{began}'")
    await on_apache.becomes(applied_until, True)
    assert on_apache.value(ROW) == on_apache.ends[TP] + 1  # the marker
    assert running.health.ready


async def test_a_replay_applies_what_is_missing_and_moves_no_row(restarting: ConsumerFixture) -> None:
    await restarting.start()
    await applied(restarting, "t0", "t1")
    restarting.conn.execute("delete from els.pending_content where text_storage_id = 't0'")
    rows = restarting.conn.execute("select topic, partition, epoch, next_offset from els.progress").fetchall()
    marks = restarting.conn.execute("select * from els.crash_marks order by topic, partition").fetchall()
    replay = await restarting.start(replay=True)
    await restarting.becomes(PENDING, 2)
    await until(lambda: replay.health.ready, BOUND, lambda: str(replay.health.parts))
    query = "select topic, partition, epoch, next_offset from els.progress"
    assert sorted(restarting.conn.execute(query).fetchall()) == sorted(rows)
    assert restarting.conn.execute("select * from els.crash_marks order by topic, partition").fetchall() == marks


async def test_a_replay_waits_while_the_database_is_behind(restarting: ConsumerFixture) -> None:
    await restarting.publish(CONTENT_PROVISIONED, content("b", "t0"))
    restarting.conn.execute("insert into els.recovery (state, why) values ('behind', 'a test')")
    replay = restarting.start_one(replay=True)
    await until(lambda: "behind" in str(replay.health.parts["consumer"]), BOUND, lambda: str(replay.health.parts))
    assert restarting.value(PENDING) == 0
    restarting.conn.execute("delete from els.recovery")
    await restarting.becomes(PENDING, 1)


async def test_a_log_that_was_truncated_and_has_grown_again_is_read_again(
    on_apache: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an unclean leader election: the topic has other records at the offsets that were read."""
    segment = on_apache.broker.segment(CONTENT_PROVISIONED, 0)
    assert segment is not None
    running = await on_apache.start()
    await applied(on_apache, "t0")
    await applied(on_apache, "t1")
    await applied(on_apache, "t2")
    fetching, fetch = asyncio.Event(), Membership.fetch

    async def fetch_later(self: Membership, *args: Any, **options: Any) -> Any:
        await fetching.wait()
        return await fetch(self, *args, **options)

    monkeypatch.setattr(Membership, "fetch", fetch_later)
    await asyncio.sleep(1)  # until no fetch is in progress
    on_apache.broker.kill()
    truncate(segment, batches=1)
    on_apache.broker.start()
    del on_apache.ends[TP]
    for text in ("t3", "t4", "t5"):
        # Not by the idempotent producer, whose sequence the broker has lost.
        await on_apache.publish_batch(CONTENT_PROVISIONED, record_batch([content("b", text)]), 1)
    fetching.set()
    await on_apache.becomes(PENDING, 6)
    assert on_apache.value("select cause from ops.lost_inputs") == "replaced"
    assert on_apache.value(ROW.replace("next_offset", "epoch")) == 1
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


def truncate(segment: Path, batches: int) -> None:
    """Keeps so many record batches of a segment."""
    data, end = segment.read_bytes(), 0
    for _ in range(batches):
        end += 12 + int.from_bytes(data[end + 8 : end + 12])
    segment.write_bytes(data[:end])
    for index in (".index", ".timeindex"):
        segment.with_suffix(index).unlink()


async def test_partitions_are_located_one_by_one_after_an_error(
    restarting: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one of them may be at fault: the others are read, and the error is reported as long as it lasts."""
    locate = Locator._locate

    async def fail_with_one(locator: Locator, partitions: Collection[Partition]) -> None:
        if any(each.tp == TP for each in partitions):
            raise KafkaTimeoutError("a test")
        await locate(locator, partitions)

    monkeypatch.setattr(Locator, "_locate", fail_with_one)
    await restarting.publish(CONTENT_PROVISIONED, content("b", "t0"))
    await restarting.publish(CONTENT_PROVISIONED, content("b", "t1"), partition=1)
    running = await restarting.start()
    await restarting.becomes(PENDING, 1)
    assert "the progress can not be compared" in (running.health.parts["consumer"] or "")
    monkeypatch.setattr(Locator, "_locate", locate)
    await restarting.becomes(PENDING, 2)
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
