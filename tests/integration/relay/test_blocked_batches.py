"""Tests that what can not be published blocks only its batch, and that a retry sends only the rest."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from structlog.testing import capture_logs

from service.kafka.producer import Producer
from service.relay.publication import Results
from service.relay.relay import Relay
from service.store.outbox import FetchLimits
from tests.support.pods.relay_stage import LARGE, Rejecting, Stage, text_of, until


async def test_a_missing_topic_blocks_only_its_batches_until_it_exists(stage: Stage) -> None:
    [topic] = await stage.create()
    missing = f"relay.{uuid4().hex}"
    if await creates_topics(stage):
        pytest.skip("this broker creates every topic that a client names")
    await stage.commit(("held", topic, "1"), ("held", missing, "2"), ("held", topic, "3"))
    await stage.commit(*[(f"free-{n}", topic, "x") for n in range(50)])

    async def only_the_held_is_left() -> bool:
        return [rows for (rows,) in await stage.all("select rows from ops.outbox_blocked")] == [2]

    async with stage.running(stage.relay()):
        await until(only_the_held_is_left)
        [(batch_id, blocked_topic, error)] = await stage.all("select batch_id, topic, error from els.outbox_blocked")
        assert (batch_id, blocked_topic) == ("held", missing)
        assert "UnknownTopicOrPartitionError" in error
        await stage.create_named([missing], 3, LARGE)
        await until(stage.is_empty)

        async def nothing_is_blocked() -> bool:
            return not await stage.all("select from els.outbox_blocked")

        await until(nothing_is_blocked)
    stage.assert_in_order()


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_row_that_its_topic_rejects_blocks_only_its_batch(stage: Stage, kafka: Any, idempotent: bool) -> None:
    [topic] = await stage.create(partitions=1, configs={"max.message.bytes": "20000"})
    if not await enforces_limits(stage, topic):
        pytest.skip("this broker accepts records of any size")
    await stage.commit(*[(f"free-{n}", topic, "x" * 100) for n in range(20)])
    await stage.commit(("held", topic, "1"), ("held", topic, "x" * 30_000), ("held", topic, "3"))
    await stage.commit(("held", topic, "4"))
    await stage.commit(*[(f"free-{n}", topic, "x" * 100) for n in range(20)])
    relay = Relay(stage.database, lambda: Producer(stage.options, idempotent=idempotent))

    async def only_the_held_is_left() -> bool:
        return [rows for (rows,) in await stage.all("select rows from ops.outbox_blocked")] == [3]

    async with stage.running(relay):
        await until(only_the_held_is_left)
        [(batch_id, error)] = await stage.all("select batch_id, error from els.outbox_blocked")
        assert batch_id == "held"
        assert "MessageSizeTooLargeError" in error
        assert relay.error is None
        await allow(stage, topic, 100_000)
        await until(stage.is_empty)
    records = await stage.records(topic, 44)
    held = [text_of(record) for record in records if record.key == b"held"]
    assert [text[:1] for text in held] == ["1", "x", "3", "4"], "what was acknowledged before is not sent again"


async def test_after_a_rejection_within_a_row_only_the_rest_of_it_is_sent(stage: Stage) -> None:
    first, second = await stage.create(2)
    await stage.commit(*[("held", topic, "x") for topic in (first, first, second, first)], ("free", first, "x"))
    await stage.commit(("held", first, "later"))
    rejected = {stage.written["held"][1]}
    relay = Relay(stage.database, lambda: Rejecting(stage.options, stage.acknowledged, rejected))
    with capture_logs() as logged:
        await relay.publish_once()
        await relay.publish_once()
    assert sorted(stage.acknowledged) == sorted([stage.written["held"][0], *stage.written["free"]])
    (line,) = [each for each in logged if each["event"] == "outbox_blocked"]
    assert (line["log_level"], line["batch_id"], line["batches"]) == ("warning", "held", 1)
    assert str(UUID(line["correlation_id"])) == line["correlation_id"]
    assert await stage.all("select batch_id, acknowledged from els.outbox_blocked") == [("held", 1)]
    rejected.clear()
    await stage.all("update els.outbox_blocked set retry_at = now() returning batch_id")
    with capture_logs() as logged:
        async with stage.running(relay):
            await until(stage.is_empty)
    assert [each for each in stage.acknowledged if each in stage.written["held"]] == stage.written["held"]
    assert {"event": "outbox_unblocked", "log_level": "info", "batch_id": "held"} in logged


async def creates_topics(stage: Stage) -> bool:
    name = f"relay.{uuid4().hex}"
    producer = Producer(stage.options, idempotent=False)
    await producer.start()
    try:
        await producer.find([name])
        return producer.partitions(name) > 0
    finally:
        await producer.abandon()


async def enforces_limits(stage: Stage, topic: str) -> bool:
    producer = Producer(stage.options, idempotent=False)
    await producer.start()
    try:
        await producer.send_and_wait(topic, b"x" * 30_000, partition=0)
    except RuntimeError:
        return True
    finally:
        await producer.abandon()
    return False


async def allow(stage: Stage, topic: str, size: int) -> None:
    admin = AIOKafkaAdminClient(**stage.options)
    await admin.start()
    resource = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(size)})
    await admin.alter_configs([resource])
    await admin.close()


async def test_what_is_acknowledged_of_a_blocked_row_is_not_sent_again(stage: Stage) -> None:
    [topic] = await stage.create()
    await stage.commit(*[("held", topic, f"{number}") for number in range(4)])
    await stage.commit(("held", topic, "4"))
    await stage.all(
        "insert into els.outbox_blocked (batch_id, seq, acknowledged, topic, error, since, retry_at)"
        " select batch_id, min(seq), 2, 'topic', 'once', now(), now() from els.outbox_pages group by batch_id"
        " returning batch_id"
    )
    async with stage.running(stage.relay()):
        await until(stage.is_empty)
    assert stage.acknowledged == stage.written["held"][2:]
    assert await stage.all("select from els.outbox_blocked") == []


async def test_of_a_row_that_was_not_the_blocked_one_everything_is_sent(stage: Stage) -> None:
    """Another relay has published the blocked row since."""
    [topic] = await stage.create()
    await stage.commit(*[("held", topic, f"{number}") for number in range(4)])
    await stage.all(
        "insert into els.outbox_blocked (batch_id, seq, acknowledged, topic, error, since, retry_at)"
        " values ('held', 0, 2, 'topic', 'once', now(), now()) returning batch_id"
    )
    async with stage.running(stage.relay()):
        await until(stage.is_empty)
    assert stage.acknowledged == stage.written["held"]


async def test_a_row_that_can_not_be_read_blocks_only_its_batch(stage: Stage) -> None:
    [topic] = await stage.create()
    await stage.all("insert into els.outbox_pages (batch_id, topics, events) values ('bad', '{}', 'x') returning seq")
    await stage.commit(("bad", topic, "1"))
    await stage.commit(("good", topic, "2"))

    async def only_the_bad_is_left() -> bool:
        return await stage.all("select batch_id from els.outbox_pages") == [("bad",)] * 2

    relay = stage.relay()
    async with stage.running(relay):
        await until(only_the_bad_is_left)
        [(batch_id, error)] = await stage.all("select batch_id, error from ops.outbox_blocked")
        assert (batch_id, relay.error) == ("bad", None)
        assert "not an event of this service" in error


async def test_the_rows_before_one_that_can_not_be_read_are_published(stage: Stage) -> None:
    [topic] = await stage.create()
    await stage.commit(("bad", topic, "1"))
    await stage.all("insert into els.outbox_pages (batch_id, topics, events) values ('bad', '{}', 'x') returning seq")
    await stage.commit(("bad", topic, "2"))
    relay = stage.relay()
    for _ in range(3):
        await relay.publish_once()
    assert stage.acknowledged == stage.written["bad"][:1]
    assert await stage.all("select batch_id from els.outbox_blocked") == [("bad",)]
    assert len(await stage.all("select from els.outbox_pages")) == 2
    await relay.close()


async def test_thousands_of_blocked_batches_leave_room_for_the_others(stage: Stage) -> None:
    [topic] = await stage.create()
    await stage.commit(*[(f"held-{number}", "not.there", "x") for number in range(300)])
    await stage.all(
        "insert into els.outbox_blocked (batch_id, seq, topic, error, since, retry_at)"
        " select batch_id, seq, 'not.there', 'once', now(), now() from els.outbox_pages returning seq"
    )
    await stage.commit(("free", topic, "x"))
    relay = stage.relay(limits=FetchLimits(rows=10))
    await relay._lease.renew()
    rows = await relay._worker._transaction()
    assert rows[0].batch_id == b"free"
    assert len(rows) == 11
    await relay.close()


async def test_a_relay_that_lost_a_shard_does_not_unblock_its_batches(stage: Stage) -> None:
    """The watermark of the relay that serves it may have passed their rows."""
    relay = stage.relay()
    await relay._lease.renew()
    await stage.all(
        "insert into els.outbox_blocked (batch_id, seq, topic, error, since, retry_at)"
        " values ('lost', 1, 'topic', 'once', now(), now()) returning seq"
    )
    await stage.all("update els.relay_shards set relay = gen_random_uuid() returning shard")
    relay._worker._results = Results(unblocked=[b"lost"])
    await relay._worker.finish()
    assert await stage.all("select batch_id from els.outbox_blocked") == [("lost",)]
