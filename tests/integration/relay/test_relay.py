"""Tests that the relay keeps the order of each batch and loses nothing, whatever crashes or cannot be published."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from service.domain.enveloped import Origin
from service.domain.topics import LARGEST_COMPRESSED, LARGEST_RECORD
from service.postgres import arrays
from service.relay import watermark
from service.relay.relay import Relay
from service.store import outbox
from service.store import relays as relays_
from service.store.outbox import FetchLimits
from service.store.relays import SHARDS
from tests.support.builders.outbox import CORRELATION_ID, event
from tests.support.pods.relay_stage import BOUND, Recording, Stage, text_of, until


async def test_a_row_becomes_a_record_with_its_key_value_and_headers(stage: Stage) -> None:
    [topic] = await stage.create()
    written = event("batch-å", topic, "Åsa", Origin(CORRELATION_ID, "00-aa-bb-01", 'x="metadata":null'))
    async with stage.database.transaction() as conn:
        await stage.write(conn, written)
    async with stage.running(stage.relay()):
        await until(stage.is_empty)
    [record] = await stage.records(topic, 1)
    assert record.key == "batch-å".encode()
    assert record.value == written.payload
    headers = dict(record.headers)
    assert int(headers.pop("seq")) > 0
    assert headers == {
        "event_id": stage.written["batch-å"][0],
        "event_type": topic.encode(),
        "correlation_id": str(CORRELATION_ID).encode(),
        "source_service": b"essay-lifecycle-service",
        "traceparent": b"00-aa-bb-01",
        "tracestate": b'x="metadata":null',
        "trace_id": b"aa-bb-01",
    }


async def test_the_header_seq_orders_the_events_of_a_batch_across_topics(stage: Stage) -> None:
    topics = await stage.create(2)
    for _ in range(3):
        await stage.commit(*[("b", topics[number % 2], "x") for number in range(5)])
    async with stage.running(stage.relay()):
        await until(stage.is_empty)
    records = [record for topic in topics for record in await stage.records(topic, 6)]
    headers = [dict(record.headers) for record in records]
    in_order = sorted(headers, key=lambda each: int(each["seq"]))
    assert [each["event_id"] for each in in_order] == stage.written["b"]


async def test_headers_without_a_value_are_left_out(stage: Stage) -> None:
    [topic] = await stage.create()
    await stage.commit(("b", topic, "{}"))
    async with stage.running(stage.relay()):
        await until(stage.is_empty)
    [record] = await stage.records(topic, 1)
    assert [name for name, _ in record.headers] == ["event_id", "event_type", "correlation_id", "source_service", "seq"]


async def test_the_first_acknowledgements_of_a_batch_come_in_commit_order_after_crashes(
    stage: Stage,
) -> None:
    topics = await stage.create(3)
    chance = random.Random(20261122)
    for number in range(400):
        rows = [(f"batch-{number % 40}", chance.choice(topics), "x" * 50) for _ in range(3)]
        await stage.commit(*rows)
    small = FetchLimits(rows=20, size=100_000)
    for _ in range(8):
        relays = [stage.relay(lease_seconds=0.5, limits=small) for _ in range(2)]
        tasks = [asyncio.create_task(relay.run(asyncio.Event())) for relay in relays]
        enough = len(stage.acknowledged) + chance.randrange(1, 150)

        async def have_enough(enough: int = enough) -> bool:
            return len(stage.acknowledged) >= enough or await stage.is_empty()

        await until(have_enough)
        for task in chance.sample(tasks, 2):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    async with stage.running(stage.relay(lease_seconds=0.5), stage.relay(lease_seconds=0.5)):
        await until(stage.is_empty)
    stage.assert_in_order()


async def test_a_relay_that_crashes_between_publish_and_delete_causes_only_repeats_with_the_old_id(
    stage: Stage,
) -> None:
    [topic] = await stage.create(partitions=1)
    for n in range(5):
        await stage.commit(("b", topic, f"{n}"))
    dead = stage.relay(lease_seconds=3600)
    assert await dead.publish_once()
    await dead._worker.abandon()
    assert (len(stage.acknowledged), await stage.left()) == (5, 5)
    await stage.expire_leases()
    async with stage.running(stage.relay(lease_seconds=2)):
        await until(stage.is_empty)
    records = await stage.records(topic, 10)
    assert [text_of(record) for record in records] == ["0", "1", "2", "3", "4"] * 2
    assert [dict(record.headers)["event_id"] for record in records] == stage.written["b"] * 2


async def test_a_paused_relay_that_continues_after_its_successor_only_repeats(stage: Stage) -> None:
    first, second = await stage.create(2)
    await stage.commit(*[("b", topic, "x") for topic in (first, second, first, second)])
    gate = asyncio.Event()
    zombie = stage.relay(gate, lease_seconds=3600)
    holding = asyncio.create_task(zombie.publish_once())

    async def has_read() -> bool:
        producer = zombie._worker._line._producer
        return isinstance(producer, Recording) and producer.reached.is_set()

    await until(has_read)
    await stage.expire_leases()
    await stage.commit(("b", first, "later"))
    async with stage.running(stage.relay()):
        await until(stage.is_empty)
        gate.set()
        await asyncio.wait_for(holding, BOUND)
    await zombie.close()
    assert len(stage.acknowledged) > len(stage.written["b"])
    stage.assert_in_order()


async def test_a_row_of_a_transaction_that_commits_late_is_not_skipped(stage: Stage) -> None:
    [topic] = await stage.create()
    relay = stage.relay()
    async with await psycopg.AsyncConnection.connect(stage.url) as late:
        arrays.register(late)
        await stage.write(late, event("late", topic, "1"))  # draws the lowest seq, and commits last
        for _ in range(10):
            await stage.commit(*[(f"batch-{n}", topic, "x") for n in range(100)])
            await relay.publish_once()
        await late.commit()
        await stage.commit(("late", topic, "2"))
        while await relay.publish_once():
            pass
    await relay.close()
    assert await stage.is_empty()
    stage.assert_in_order()


async def test_deleted_rows_that_vacuum_cannot_remove_yet_are_not_read_again(stage: Stage) -> None:
    [topic] = await stage.create()
    relay = stage.relay()
    async with await psycopg.AsyncConnection.connect(stage.url) as reader:
        await reader.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await reader.execute("select count(*) from els.outbox_pages")  # pins the horizon until it ends
        for _ in range(6):
            await stage.commit(*[(f"batch-{n}", topic, "x") for n in range(300)])
            while await relay.publish_once():
                pass
        await stage.commit(*[(f"batch-{n}", topic, "x") for n in range(10)])
        watermark = relay._worker._watermark.seq
        with_it, without = [await buffers_of_a_fetch(stage, relay, seq) for seq in (watermark, 0)]
        assert with_it * 3 < without
    await relay.close()


async def buffers_of_a_fetch(stage: Stage, relay: Relay, watermark: int) -> int:
    """Returns how many buffers one fetch touches."""
    touched = (
        "select coalesce(sum(heap_blks_hit + heap_blks_read + idx_blks_hit + idx_blks_read), 0)"
        " from pg_statio_user_tables where relname = 'outbox_pages'"
    )
    async with stage.database.transaction() as conn:
        await conn.execute("select pg_stat_force_next_flush()")
    before = int((await stage.all(touched))[0][0])
    async with stage.database.transaction() as conn:
        await relays_.prepare_relay(conn)
        assert await (await outbox.fetch_outbox(conn, relay._lease.relay, range(SHARDS), watermark, FetchLimits()))
        await conn.execute("select pg_stat_force_next_flush()")
    return int((await stage.all(touched))[0][0]) - before


async def test_a_fetch_is_limited_in_bytes_and_returns_at_least_one_row(stage: Stage) -> None:
    [topic] = await stage.create()
    for _ in range(6):
        await stage.commit(("b", topic, "x" * 40_000))
    relay = stage.relay(limits=FetchLimits(rows=100, size=100_000))
    acknowledged = []
    while not await stage.is_empty():
        await relay.publish_once()
        acknowledged.append(len(stage.acknowledged))
    assert acknowledged[:2] == [3, 6]
    small = stage.relay(limits=FetchLimits(rows=100, size=1))
    for _ in range(2):
        await stage.commit(("b", topic, "x"))
    while not await stage.is_empty():
        await small.publish_once()
    stage.assert_in_order()
    await relay.close()
    await small.close()


async def test_a_batch_with_many_megabytes_does_not_delay_the_others(stage: Stage) -> None:
    [topic] = await stage.create()
    await stage.commit(*[("large", topic, "x" * 100_000) for _ in range(60)])
    await stage.commit(*[(f"batch-{n}", topic, "x") for n in range(20)])
    relay = stage.relay(limits=FetchLimits(rows=40, size=1_500_000))
    await relay.publish_once()
    published = set(stage.acknowledged)
    assert len(published & set(stage.written["large"])) < 60
    assert all(stage.written[batch][0] in published for batch in stage.written if batch != "large")
    while not await stage.is_empty():
        await relay.publish_once()
    stage.assert_in_order()
    await relay.close()


async def test_small_rows_are_published_in_the_order_of_their_age(stage: Stage) -> None:
    [topic] = await stage.create()
    for _ in range(4):
        await stage.commit(("old", topic, "x"))
    await stage.commit(*[(f"new-{number}", topic, "x") for number in range(20)])
    size = len(event("old", topic, "x").payload)
    relay = stage.relay(limits=FetchLimits(rows=100, size=4 * size))
    await relay.publish_once()
    assert stage.acknowledged[:4] == stage.written["old"]
    await relay.close()


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_value_that_its_topic_takes_only_compressed_is_published(
    stage: Stage, kafka: Any, idempotent: bool
) -> None:
    if idempotent and kafka.name == "tansu":
        pytest.skip("the embedded broker has no idempotent producers")
    [topic] = await stage.create(partitions=1)
    random_text = random.Random(1).randbytes(LARGEST_COMPRESSED // 2 - 1_000).hex()
    await stage.commit(("b", topic, "1"), ("b", topic, random_text), ("b", topic, "3"))
    async with stage.running(stage.relay(idempotent=idempotent)):
        await until(stage.is_empty)
    stage.assert_in_order()
    records = await stage.records(topic, 3)
    assert [text_of(record) for record in records] == ["1", random_text, "3"]
    assert len(records[1].value) > LARGEST_RECORD


async def test_a_row_larger_than_the_limit_of_a_fetch_is_published(stage: Stage) -> None:
    [topic] = await stage.create(partitions=1)
    await stage.commit(("b", topic, "1"), ("b", topic, "x" * 12_000_000), ("b", topic, "3"))
    async with stage.running(stage.relay()):
        await until(stage.is_empty)
    stage.assert_in_order()


# -- the watermark


@pytest.fixture
def lasting_watermark(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not dropped by time, which would hide that it is wrong."""
    monkeypatch.setattr(watermark, "WATERMARK_SECONDS", float("inf"))


async def raise_watermark(stage: Stage, relay: Relay, above: int, topic: str) -> None:
    """Publish events of batches that the relay serves until its watermark has passed a seq."""
    async with asyncio.timeout(BOUND):
        while relay._worker._watermark.seq <= above:
            await stage.commit(*[(f"other-{number}", topic, "x") for number in range(200)])
            await relay.publish_once()


async def last_seq(stage: Stage) -> int:
    return int((await stage.all("select max(seq) from els.outbox_pages"))[0][0])


@pytest.mark.usefixtures("lasting_watermark")
async def test_a_batch_that_was_blocked_is_read_from_its_first_row(stage: Stage) -> None:
    [topic] = await stage.create()
    for number in range(5):
        await stage.commit(("held", topic, f"{number}"))
    relay = stage.relay(limits=FetchLimits(rows=10))  # of a blocked batch, one row at a time
    await stage.all(
        "insert into els.outbox_blocked (batch_id, seq, topic, error, since, retry_at)"
        " values ('held', 0, 'topic', 'once', now(), 'infinity') returning batch_id"
    )
    await raise_watermark(stage, relay, await last_seq(stage), topic)
    await stage.all("update els.outbox_blocked set retry_at = now() returning batch_id")
    async with asyncio.timeout(BOUND):
        while not await stage.is_empty():
            await relay.publish_once()
    stage.assert_in_order()
    await relay.close()


@pytest.mark.usefixtures("lasting_watermark")
async def test_shards_of_another_relay_are_read_from_their_first_row(stage: Stage) -> None:
    [topic] = await stage.create()
    leaving, staying = stage.relay(lease_seconds=3600), stage.relay(lease_seconds=3600)
    await leaving._lease.renew()
    await staying._lease.renew()
    await leaving.publish_once()  # gives half of its shards back
    await staying._lease.renew()
    assert len(staying.shards) == SHARDS // 2
    await stage.commit(*[(f"early-{number}", topic, "x") for number in range(50)])
    await raise_watermark(stage, staying, await last_seq(stage), topic)
    await leaving.close()
    async with asyncio.timeout(BOUND):
        while not await stage.is_empty():
            await staying.publish_once()
    stage.assert_in_order()
    await staying.close()
