"""The whole consumer on a real broker: what comes in is dealt with in the database before its offset says so."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import TopicPartition

from deploy.local.postgres import Postgres
from deploy.servers.brokers import Broker, delete_topics
from deploy.servers.pods import pods, until
from service.consumer import reader
from service.domain.topics import CONTENT_PROVISIONED
from service.postgres import migration
from tests.support.builders.batches import record_batch
from tests.support.builders.inputs import MEBIBYTE, content
from tests.support.checks.invariants import violations
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture, consumer_fixture, moves


async def test_offsets_are_committed_after_the_database_has_the_records(consumers: ConsumerFixture) -> None:
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    await consumers.publish(CONTENT_PROVISIONED, content("free", "t0"))
    with psycopg.connect(consumers.conn.info.dsn, password=consumers.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await consumers.publish(CONTENT_PROVISIONED, content("held", "t1"))
        await consumers.publish(CONTENT_PROVISIONED, content("free", "t2"))
        await consumers.publish(CONTENT_PROVISIONED, content("free", "t3"), partition=1)
        running = await consumers.start()
        await consumers.becomes("select count(*) from els.pending_content where text_storage_id in ('t0', 't3')", 2)

        async def committed_to_the_held_one() -> bool:
            return await consumers.committed(tp, TopicPartition(CONTENT_PROVISIONED, 1)) == {
                tp: 1,
                TopicPartition(CONTENT_PROVISIONED, 1): 1,
            }

        await until(committed_to_the_held_one, BOUND, lambda: "the offsets are elsewhere", every=0.1)
        # Its partition is read on; what comes for the same batch waits behind it.
        behind = await consumers.publish(CONTENT_PROVISIONED, content("held", "t4"), content("free", "t5"))
        await consumers.becomes("select count(*) from els.pending_content where text_storage_id in ('t2', 't5')", 2)
        assert (await consumers.committed(tp))[tp] == 1
        assert running.health.ready
        assert consumers.value("select count(*) from els.pending_content where batch_id = 'held'") == 0
    await consumers.all_committed()
    assert (await consumers.committed(tp))[tp] == behind + 1
    in_order = (
        "select string_agg(text_storage_id, ' ' order by arrival) from els.pending_content where batch_id = 'held'"
    )
    assert consumers.value(in_order) == "t1 t4"
    assert consumers.value(PENDING) == 6


async def test_a_record_that_is_held_when_the_consumer_stops_is_taken_by_the_next(judge: ConsumerFixture) -> None:
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.publish(CONTENT_PROVISIONED, content("free", "t0"), content("held", "t1"), content("free", "t2"))
        await judge.start()
        await judge.becomes("select count(*) from els.pending_content where text_storage_id = 't0'", 1)
        await judge.stop()
        tp = TopicPartition(CONTENT_PROVISIONED, 0)
        assert (await judge.committed(tp)).get(tp, 0) <= 1
    await judge.start()
    await judge.all_committed()
    assert judge.value(PENDING) == 3


async def test_a_consumer_that_fails_and_is_run_again_takes_what_was_held_when_it_ended(judge: ConsumerFixture) -> None:
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.publish(CONTENT_PROVISIONED, content("held", "t0"), content("free", "t1"))
        running = await judge.start()
        await judge.becomes("select count(*) from els.pending_content where text_storage_id = 't1'", 1)
        await running.fail_and_run_again()
    await judge.publish(CONTENT_PROVISIONED, content("held", "t2"))
    await judge.all_committed()
    assert judge.value(PENDING) == 3


async def test_consumers_that_come_and_go_while_records_flow_lose_none(
    judge: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fetches are under way at every rebalance.
    monkeypatch.setattr(reader, "POLL_MS", 3_000)
    numbers = iter(range(1_000_000))
    flowing = True

    async def flow() -> None:
        while flowing:
            for partition in range(3):
                texts = [content("b", f"t{next(numbers)}") for _ in range(5)]
                await judge.publish(CONTENT_PROVISIONED, *texts, partition=partition)

    await judge.start()
    task = asyncio.create_task(flow())
    for _ in range(3):
        joined = await judge.start()
        await moves(joined)
        leaving = judge.running.pop(0)
        await leaving.stop()
        await moves(joined)
    flowing = False
    await task
    await judge.all_committed()
    assert judge.value(PENDING) == next(numbers)
    assert judge.rejected() == []
    await judge.stop()
    assert judge.value("select count(*) from els.crash_marks") == 0


async def test_while_a_poll_is_in_the_database_the_next_one_takes_all_that_comes(consumers: ConsumerFixture) -> None:
    """Many small transactions would cost more than one, and keep what comes waiting for longer."""
    running = await consumers.start()
    intake, sizes, gate = running.consumer._intake, list[int](), asyncio.Event()
    take = intake.take

    async def held_at_first(deliveries: Sequence[Any], **how: Any) -> Any:
        sizes.append(len(deliveries))
        if len(sizes) == 1:
            await gate.wait()
        return await take(deliveries, **how)

    intake.take = held_at_first  # type: ignore[method-assign]
    await consumers.publish(CONTENT_PROVISIONED, content("a", "text-0"))
    await until(lambda: sizes == [1], BOUND, lambda: "the first did not come")
    for number in range(1, 4):
        last = await consumers.publish(CONTENT_PROVISIONED, content("a", f"text-{number}"))

        async def is_read(last: int = last) -> bool:
            position: int = await running.consumer._assignment.membership._client.position(
                TopicPartition(CONTENT_PROVISIONED, 0)
            )
            return position == last + 1

        await until(is_read, BOUND, lambda: "what came meanwhile was not read")
    gate.set()
    await consumers.all_committed()
    assert sizes == [1, 3]


async def test_a_poll_ends_when_it_weighs_enough(judge: ConsumerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "SLICE", 1)
    monkeypatch.setattr(reader, "POLL_BYTES", MEBIBYTE)
    # All are there at once: compressed, they are one small record batch.
    values = [content("b", f"t{number}", original_file_name="x" * 300_000) for number in range(12)]
    await judge.publish_batch(CONTENT_PROVISIONED, record_batch(values, compression="gzip"), len(values))
    running = await judge.start()
    await judge.all_committed()
    assert judge.value(PENDING) == 12
    assert max(len(effects.records) for effects in running.effects) <= 4


# -- servers that go away


async def test_while_the_database_is_away_the_consumer_is_not_ready_and_then_goes_on(
    durable_postgres: Postgres, kafka: Broker
) -> None:
    url = durable_postgres.url()
    migration.upgrade(url)
    async with consumer_fixture(url, url, kafka) as consumers:
        running = await consumers.start()
        await consumers.publish(CONTENT_PROVISIONED, content("b", "t0"))
        await consumers.becomes(PENDING, 1)
        durable_postgres.kill()
        await consumers.publish(CONTENT_PROVISIONED, *(content("b", f"t{number}") for number in range(1, 9)))
        await until(lambda: not running.health.ready, BOUND, lambda: "it believes that all is well")
        durable_postgres.start()
        consumers.conn = psycopg.connect(url, autocommit=True)
        await consumers.all_committed()
        assert consumers.value(PENDING) == 9
        await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
        assert violations(consumers.conn) == []


async def test_while_the_broker_is_away_the_consumer_is_not_ready_and_then_goes_on(consumers: ConsumerFixture) -> None:
    if not consumers.broker.keeps_records:
        pytest.skip("this broker forgets its topics when it dies")
    running = await consumers.start()
    await running.fail_and_run_again()  # it will, if the broker is away for long
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t0"))
    await consumers.becomes(PENDING, 1)
    consumers.broker.kill()
    await until(lambda: not running.health.ready, BOUND, lambda: "it believes that all is well")
    await asyncio.to_thread(consumers.broker.start)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await consumers.becomes(PENDING, 2)
    await consumers.all_committed()
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


# -- the process


async def test_a_pod_that_is_told_to_stop_while_it_is_connecting_ends_in_time(
    tmp_path: Path, judge: ConsumerFixture
) -> None:
    # A client that starts waits long for topics that are missing.
    await delete_topics(judge.broker.bootstrap_servers)
    settings = {"ELS_DATABASE_URL": judge.app_url, **judge.broker.settings, "ELS_CONSUMER_GROUP": judge.group}
    with pods(tmp_path, settings) as started:
        (pod,) = started.start()
        await until(lambda: any(line.get("event") == "started" for line in pod.logged()), BOUND, pod.last_lines)
        pod.terminate()
        assert await pod.ended(20) == 0


async def test_a_pod_that_is_told_to_stop_finishes_what_it_has_in_hand_and_leaves_the_group(
    tmp_path: Path, judge: ConsumerFixture
) -> None:
    settings = {
        "ELS_DATABASE_URL": judge.app_url,
        **judge.broker.settings,
        "ELS_CONSUMER_GROUP": judge.group,
        "ELS_SESSION_TIMEOUT_SECONDS": "30",  # who does not leave is waited for so long
    }
    with pods(tmp_path, settings) as started:
        (pod,) = started.start()
        await pod.ready()
        with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
            other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
            await judge.publish(CONTENT_PROVISIONED, content("free", "t0"), content("held", "t1"))
            await judge.becomes(PENDING, 1)
            pod.terminate()
            assert await pod.ended() == 0
        assert judge.value("select count(*) from els.crash_marks") == 0
        (successor,) = started.start()
        await asyncio.wait_for(judge.all_committed(), 20)
        assert judge.value(PENDING) == 2
        successor.terminate()
        assert await successor.ended() == 0
        assert started.complaints() == []
