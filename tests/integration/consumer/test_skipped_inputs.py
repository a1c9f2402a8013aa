"""Tests that pods skip a record that an operator has skipped, and that it is kept and reported."""

import asyncio
import os
from pathlib import Path

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from deploy.servers.brokers import Broker
from deploy.servers.pods import until
from service.domain.input_limits import InputLimits
from service.domain.topics import CONTENT_PROVISIONED
from service.kafka.connection import client_options
from service.operators.errors import Conflict, InvalidRequest, NotFound
from service.operators.inputs import InputActions
from service.postgres.pool import Database
from service.runtime import metrics
from service.store.operator_actions import Operator
from service.store.skipped_inputs import SkippedRange, read_skipped_inputs
from tests.integration.consumer.test_transactions import transactional
from tests.support.builders.batches import record_batch
from tests.support.builders.inputs import content
from tests.support.checks.audited import check_audit
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture

ROOT = Path(__file__).parents[3]
LOST = "select first_offset, next_offset, cause, acknowledged_at is not null from ops.lost_inputs"
KEPT = 'select "offset", value, reason, state from els.quarantine'
BREAKS = """
create function public.break() returns trigger language plpgsql as $$
begin
    if new.text_storage_id = 'poison' then
        raise exception 'a fault of the service' using errcode = 'XX000';
    end if;
    return new;
end $$;
create trigger breaking before insert on els.pending_content for each row execute function public.break();
"""


@pytest.fixture
async def inputs(request: pytest.FixtureRequest, app_url: str, monkeypatch: pytest.MonkeyPatch) -> InputActions:
    """The action, on the broker of the test. Its process of its own has the same settings."""
    name = "apache" if "on_apache" in request.fixturenames else "strict_broker"
    served: Broker = request.getfixturevalue(name)
    settings = {"ELS_DATABASE_URL": app_url, "PYTHONPATH": str(ROOT), **served.settings}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    broker = served.bootstrap_servers
    return InputActions(Database(app_url, pool_size=2), lambda: client_options(broker), InputLimits())


async def test_a_running_pod_skips_a_record_that_no_transaction_can_apply(
    strict_consumers: ConsumerFixture, inputs: InputActions
) -> None:
    """It is in the middle of a record batch, whose other records are applied."""
    consumers = strict_consumers
    consumers.restarts = True
    consumers.conn.execute(BREAKS)
    values = [content("b", text) for text in ("t1", "poison", "t2")]
    first = await consumers.publish_batch(CONTENT_PROVISIONED, record_batch(values, name=b"a-name"), 3)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t3"))
    running = await consumers.start()
    await consumers.becomes("select count(*) from els.progress", 12)
    lost = metrics.LOST_INPUTS.labels(CONTENT_PROVISIONED)._value.get()
    shown = await inputs.skip(Operator("me"), CONTENT_PROVISIONED, 0, first + 1, dry_run=True)
    assert (shown.first_offset, shown.next_offset, shown.why) == (first + 1, first + 2, "")
    assert consumers.conn.execute(KEPT).fetchall() == consumers.conn.execute(LOST).fetchall() == []
    assert await inputs.skip(Operator("me", "a bug"), CONTENT_PROVISIONED, 0, first + 1) == shown
    await consumers.all_committed()
    assert consumers.value(PENDING) == 3
    assert consumers.conn.execute(KEPT).fetchall() == [(first + 1, values[1], "skipped", "open")]
    assert consumers.conn.execute(LOST).fetchall() == [(first + 1, first + 2, "skipped", True)]
    assert metrics.LOST_INPUTS.labels(CONTENT_PROVISIONED)._value.get() > lost
    assert consumers.value("select attention from ops.health where attention::text like '%lost%'") is None
    action = "select action, topic, why, details ->> 'first_offset' from ops.operator_actions"
    assert consumers.conn.execute(action).fetchall() == [("inputs skip", CONTENT_PROVISIONED, "a bug", str(first + 1))]
    assert running.health.parts is not None
    await consumers.stop()
    await check_audit(consumers.app_url, consumers.broker, consumers.group)


async def test_a_record_batch_that_ends_the_process_that_unpacks_it_is_skipped_as_a_whole(
    strict_consumers: ConsumerFixture, inputs: InputActions, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumers = strict_consumers
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))
    built = record_batch([content("b", "t2"), content("b", "t3")], name=b"a-name")
    first = await consumers.publish_batch(CONTENT_PROVISIONED, built, 2)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t4"))
    with monkeypatch.context() as patched:
        patched.setattr("service.operators.apart.sys.executable", "/bin/false")
        skipped = await inputs.skip(Operator("me"), CONTENT_PROVISIONED, 0, first + 1)
    assert (skipped.first_offset, skipped.next_offset) == (first, first + 2)
    await consumers.start()
    await consumers.all_committed()
    assert consumers.value(PENDING) == 2
    ((offset, value, reason, state),) = consumers.conn.execute(KEPT).fetchall()
    assert (offset, value[61:], reason, state) == (first + 1, built[61:], "skipped", "open")
    assert consumers.conn.execute(LOST).fetchall() == [(first, first + 2, "skipped", True)]
    await consumers.stop()
    await check_audit(consumers.app_url, consumers.broker, consumers.group)


async def test_an_offset_that_is_dealt_with_or_not_there_is_refused(
    strict_consumers: ConsumerFixture, inputs: InputActions
) -> None:
    consumers, me = strict_consumers, Operator("me")
    await consumers.start()
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await consumers.all_committed()
    await consumers.becomes(
        f"select next_offset from els.progress where topic = '{CONTENT_PROVISIONED}' and partition = 0", 1
    )
    with pytest.raises(Conflict, match="before offset 1 of this partition is dealt with"):
        await inputs.skip(me, CONTENT_PROVISIONED, 0, 0)
    with pytest.raises(NotFound, match="and not 1"):
        await inputs.skip(me, CONTENT_PROVISIONED, 0, 1)
    with pytest.raises(NotFound, match="has no partition 77"):
        await inputs.skip(me, CONTENT_PROVISIONED, 77, 0)
    with pytest.raises(InvalidRequest, match="no input topic"):
        await inputs.skip(me, "another", 0, 0)
    assert consumers.value("select count(*) from ops.operator_actions") == 0


async def test_the_whole_batch_is_skipped_where_its_first_record_was_not_enough(
    strict_consumers: ConsumerFixture, inputs: InputActions
) -> None:
    """Progress names the first offset of the batch, so that is what is skipped first."""
    me, consumers = Operator("me"), strict_consumers
    built = record_batch([content("b", text) for text in ("t1", "t2", "t3")], name=b"a-name")
    first = await consumers.publish_batch(CONTENT_PROVISIONED, built, 3)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t4"))
    await inputs.skip(me, CONTENT_PROVISIONED, 0, first)
    await inputs.skip(me, CONTENT_PROVISIONED, 0, first, whole_batch=True)
    assert [row[:2] for row in consumers.conn.execute(LOST)] == [(first, first + 3)]
    for whole_batch in (False, True):
        with pytest.raises(Conflict, match="skipped already"):
            await inputs.skip(me, CONTENT_PROVISIONED, 0, first, whole_batch=whole_batch)
    await consumers.start()
    await consumers.all_committed()
    assert consumers.conn.execute("select text_storage_id from els.pending_content").fetchall() == [("t4",)]


async def test_what_was_skipped_of_a_topic_says_nothing_of_one_that_was_created_again(
    strict_consumers: ConsumerFixture, inputs: InputActions
) -> None:
    me, consumers, tp = Operator("me"), strict_consumers, TopicPartition(CONTENT_PROVISIONED, 0)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await inputs.skip(me, tp.topic, 0, 0)
    again = "insert into els.progress (topic, partition, epoch, next_offset) values (%s, %s, 1, 0)"
    consumers.conn.execute(again, tp)
    async with inputs._database.transaction() as conn:
        assert await read_skipped_inputs(conn) == {}
    await inputs.skip(me, tp.topic, 0, 0)
    async with inputs._database.transaction() as conn:
        assert await read_skipped_inputs(conn) == {tp: [SkippedRange(1, 0, 1)]}
    assert [row[:2] for row in consumers.conn.execute(LOST)] == [(0, 1)] * 2


async def test_what_a_pod_has_read_meanwhile_is_not_skipped(
    strict_consumers: ConsumerFixture, inputs: InputActions, database_url: str
) -> None:
    consumers, tp = strict_consumers, TopicPartition(CONTENT_PROVISIONED, 0)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))
    with psycopg.connect(database_url) as other:
        other.execute("lock table els.lost_inputs in exclusive mode")
        skipping = asyncio.create_task(inputs.skip(Operator("me"), tp.topic, 0, 0, whole_batch=True))
        await consumers.becomes("select count(*) from pg_locks where not granted", 1)
        other.execute("insert into els.progress (topic, partition, epoch, next_offset) values (%s, %s, 0, 1)", tp)
    with pytest.raises(Conflict, match="before offset 1 of this partition is dealt with"):
        await skipping
    assert consumers.conn.execute(LOST).fetchall() == consumers.conn.execute(KEPT).fetchall() == []


@pytest.mark.only_in_test_all("a skip at the end of a partition, over a rebalance")
async def test_what_is_skipped_at_the_end_of_a_partition_is_counted_once(
    strict_consumers: ConsumerFixture,
) -> None:
    """A pod begins behind the last record, so the next one comes to what is skipped again."""
    consumers, next_offset = strict_consumers, "select max(next_offset) from els.progress"
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"), content("b", "t2"))
    consumers.conn.execute("insert into els.skipped_inputs values (%s, 0, 0, 1, 2)", [CONTENT_PROVISIONED])
    before = metrics.LOST_INPUTS.labels(CONTENT_PROVISIONED)._value.get()
    await consumers.start()
    await consumers.becomes(next_offset, 2)
    await consumers.stop()
    await consumers.start()
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t3"))
    await consumers.becomes(next_offset, 3)
    assert metrics.LOST_INPUTS.labels(CONTENT_PROVISIONED)._value.get() == before + 1
    assert consumers.value(PENDING) == 2


async def test_an_offset_that_no_pod_is_ever_given_is_no_input_to_skip(
    on_apache: ConsumerFixture, inputs: InputActions
) -> None:
    """Of transactions: what is aborted, their markers, and what is not decided yet. Skipping the others still works."""
    me, tp = Operator("me"), TopicPartition(CONTENT_PROVISIONED, 0)
    async with transactional(on_apache) as producer:
        for commits in (False, True):  # offsets 0 and 1 with the marker 2, offsets 3 and 4 with the marker 5
            await producer.begin_transaction()
            for part in range(2):
                await producer.send_and_wait(tp.topic, content("b", f"{commits} {part}"), b"b", partition=0)
            await (producer.commit_transaction() if commits else producer.abort_transaction())
        await producer.begin_transaction()
        await producer.send_and_wait(tp.topic, content("b", "open"), b"b", partition=0)
        for whole_batch in (False, True):
            for offset in (0, 1, 2, 5):
                with pytest.raises(NotFound, match=f"there is no record at offset {offset}"):
                    await inputs.skip(me, tp.topic, 0, offset, whole_batch=whole_batch)
            with pytest.raises(Conflict, match="offset 6 is in or behind a transaction that has not ended"):
                await inputs.skip(me, tp.topic, 0, 6, whole_batch=whole_batch)
        await producer.abort_transaction()
    with pytest.raises(NotFound, match="there is no record at offset 6"):
        await inputs.skip(me, tp.topic, 0, 6)
    assert on_apache.conn.execute(KEPT).fetchall() == on_apache.conn.execute(LOST).fetchall() == []
    await inputs.skip(me, tp.topic, 0, 3)
    assert on_apache.conn.execute(LOST).fetchall() == [(3, 4, "skipped", True)]
    await on_apache.start()
    await on_apache.publish(tp.topic, content("b", "behind"))
    await on_apache.all_committed()
    texts = on_apache.conn.execute("select text_storage_id from els.pending_content order by 1").fetchall()
    assert texts == [("True 1",), ("behind",)]
    await on_apache.stop()
    await check_audit(on_apache.app_url, on_apache.broker, on_apache.group)


async def test_offsets_that_are_deleted_or_compacted_are_no_input_to_skip(
    on_apache: ConsumerFixture, inputs: InputActions
) -> None:
    me, tp = Operator("me"), TopicPartition(CONTENT_PROVISIONED, 0)
    for text in ("t1", "t2"):
        await on_apache.publish(tp.topic, content("b", text), key=b"a")
    await on_apache.delete_records(tp, 1)
    with pytest.raises(NotFound, match="the log has the offsets 1 to 1, and not 0"):
        await inputs.skip(me, tp.topic, 0, 0)
    await compact(on_apache, tp)
    (first, *_), end = await offsets_of(on_apache, tp), on_apache.ends[tp]
    assert first > 1
    with pytest.raises(NotFound, match="there is no record at offset 1"):
        await inputs.skip(me, tp.topic, 0, 1)
    assert on_apache.conn.execute(LOST).fetchall() == []
    assert (await inputs.skip(me, tp.topic, 0, end - 1)).next_offset == end


async def compact(consumers: ConsumerFixture, tp: TopicPartition) -> None:
    """Publishes records of one key, until the broker has removed the first of them."""
    async with consumers.admin() as admin:
        eager = {
            "cleanup.policy": "compact", "segment.bytes": str(1024 * 1024), "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "1", "file.delete.delay.ms": "0",
        }  # fmt: skip
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, tp.topic, eager)])
    number = 0

    async def is_compacted() -> bool:
        nonlocal number
        number += 1
        large = content("b", f"n{number}", original_file_name=os.urandom(300_000).hex())
        await consumers.publish(tp.topic, large, key=b"a")
        return (await offsets_of(consumers, tp))[0] > 1

    await until(is_compacted, BOUND, lambda: f"nothing is removed after {number} records", every=0.5)


async def offsets_of(consumers: ConsumerFixture, tp: TopicPartition) -> list[int]:
    """Returns the offsets of the first records that the broker returns."""
    async with AIOKafkaConsumer(bootstrap_servers=consumers.broker.bootstrap_servers) as reader:
        reader.assign([tp])
        await reader.seek_to_beginning(tp)
        return [record.offset for record in (await reader.getmany(tp, timeout_ms=10_000)).get(tp, ())]
