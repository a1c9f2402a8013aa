"""Tests the consumer on a real broker: offsets are committed after the database has the records."""

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
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import CONTENT_PROVISIONED
from service.postgres import migration
from tests.support.builders.batches import record_batch
from tests.support.builders.inputs import content
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

        async def committed_up_to_the_deferred_record() -> bool:
            return await consumers.committed(tp, TopicPartition(CONTENT_PROVISIONED, 1)) == {
                tp: 1,
                TopicPartition(CONTENT_PROVISIONED, 1): 1,
            }

        await until(committed_up_to_the_deferred_record, BOUND, lambda: "other offsets are committed", every=0.1)
        # Its partition is read on, and later records of the same batch wait behind it.
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


@pytest.mark.only_in_test_all("deferred records and a second consumer")
async def test_a_record_that_is_deferred_when_the_consumer_stops_is_applied_by_the_next(
    strict_consumers: ConsumerFixture,
) -> None:
    with psycopg.connect(strict_consumers.conn.info.dsn, password=strict_consumers.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await strict_consumers.publish(
            CONTENT_PROVISIONED, content("free", "t0"), content("held", "t1"), content("free", "t2")
        )
        await strict_consumers.start()
        await strict_consumers.becomes("select count(*) from els.pending_content where text_storage_id = 't0'", 1)
        await strict_consumers.stop()
        tp = TopicPartition(CONTENT_PROVISIONED, 0)
        assert (await strict_consumers.committed(tp)).get(tp, 0) <= 1
    await strict_consumers.start()
    await strict_consumers.all_committed()
    assert strict_consumers.value(PENDING) == 3


async def test_a_consumer_that_fails_and_runs_again_applies_its_deferred_records(
    strict_consumers: ConsumerFixture,
) -> None:
    with psycopg.connect(strict_consumers.conn.info.dsn, password=strict_consumers.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await strict_consumers.publish(CONTENT_PROVISIONED, content("held", "t0"), content("free", "t1"))
        running = await strict_consumers.start()
        await strict_consumers.becomes("select count(*) from els.pending_content where text_storage_id = 't1'", 1)
        await running.fail_and_run_again()
    await strict_consumers.publish(CONTENT_PROVISIONED, content("held", "t2"))
    await strict_consumers.all_committed()
    assert strict_consumers.value(PENDING) == 3


@pytest.mark.only_in_test_all("consumers that join and leave")
async def test_no_record_is_lost_while_consumers_join_and_leave(
    strict_consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that fetches are in progress at every rebalance.
    monkeypatch.setattr(reader, "POLL_MS", 3_000)
    numbers = iter(range(1_000_000))
    flowing = True

    async def flow() -> None:
        while flowing:
            for partition in range(3):
                texts = [content("b", f"t{next(numbers)}") for _ in range(5)]
                await strict_consumers.publish(CONTENT_PROVISIONED, *texts, partition=partition)

    await strict_consumers.start()
    task = asyncio.create_task(flow())
    for _ in range(3):
        joined = await strict_consumers.start()
        await moves(joined)
        leaving = strict_consumers.running.pop(0)
        await leaving.stop()
        await moves(joined)
    flowing = False
    await task
    await strict_consumers.all_committed()
    assert strict_consumers.value(PENDING) == next(numbers)
    assert strict_consumers.rejected() == []
    await strict_consumers.stop()
    assert strict_consumers.value("select count(*) from els.crash_marks") == 0


async def test_while_a_poll_is_in_the_database_the_next_one_reads_all_that_arrives(consumers: ConsumerFixture) -> None:
    """Many small transactions would cost more than one, and delay later records."""
    running = await consumers.start()
    intake, sizes, gate = running.consumer._intake, list[int](), asyncio.Event()
    take = intake.take

    async def wait_at_first(deliveries: Sequence[Any], *rows: Any, **how: Any) -> Any:
        sizes.append(len(deliveries))
        if len(sizes) == 1:
            await gate.wait()
        return await take(deliveries, *rows, **how)

    intake.take = wait_at_first  # type: ignore[method-assign]
    await consumers.publish(CONTENT_PROVISIONED, content("a", "text-0"))
    await until(lambda: sizes == [1], BOUND, lambda: "the first record did not arrive")
    for number in range(1, 4):
        last = await consumers.publish(CONTENT_PROVISIONED, content("a", f"text-{number}"))

        async def is_read(last: int = last) -> bool:
            position: int = await running.consumer._assignment.membership._client.position(
                TopicPartition(CONTENT_PROVISIONED, 0)
            )
            return position == last + 1

        await until(is_read, BOUND, lambda: "the next records were not read")
    gate.set()
    await consumers.all_committed()
    assert sizes == [1, 3]


async def test_a_poll_ends_at_its_limit_of_bytes(
    strict_consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SLICE", 1)
    # All arrive at once: compressed, they are one small record batch.
    values = [content("b", f"t{number}", unknown_field="x" * 900_000) for number in range(40)]
    await strict_consumers.publish_batch(CONTENT_PROVISIONED, record_batch(values, compression="gzip"), len(values))
    running = await strict_consumers.start()
    await strict_consumers.all_committed()
    assert strict_consumers.value(PENDING) == 40
    assert max(len(effects.records) for effects in running.effects) <= DEFAULT_LIMITS.poll_bytes // 900_000 + 1


# -- unavailable servers


async def test_while_the_database_is_unavailable_the_consumer_is_not_ready_and_then_continues(
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
        await until(lambda: not running.health.ready, BOUND, lambda: "it is still ready")
        durable_postgres.start()
        consumers.conn = psycopg.connect(url, autocommit=True)
        await consumers.all_committed()
        assert consumers.value(PENDING) == 9
        await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
        assert violations(consumers.conn) == []


async def test_while_the_broker_is_unavailable_the_consumer_is_not_ready_and_then_continues(
    consumers: ConsumerFixture,
) -> None:
    if not consumers.broker.keeps_records:
        pytest.skip("this broker loses its topics when it is killed")
    running = await consumers.start()
    await running.fail_and_run_again()  # as it does if the broker is unavailable for long
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t0"))
    await consumers.becomes(PENDING, 1)
    consumers.broker.kill()
    await until(lambda: not running.health.ready, BOUND, lambda: "it is still ready")
    await asyncio.to_thread(consumers.broker.start)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await consumers.becomes(PENDING, 2)
    await consumers.all_committed()
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


# -- the process


async def test_a_pod_that_is_stopped_while_it_connects_ends_in_time(
    tmp_path: Path, strict_consumers: ConsumerFixture
) -> None:
    # A client that starts waits long for topics that are missing.
    await delete_topics(strict_consumers.broker.bootstrap_servers)
    settings = {
        "ELS_DATABASE_URL": strict_consumers.app_url,
        **strict_consumers.broker.settings,
        "ELS_CONSUMER_GROUP": strict_consumers.group,
    }
    with pods(tmp_path, settings) as started:
        (pod,) = started.start()
        await until(lambda: any(line.get("event") == "started" for line in pod.logged()), BOUND, pod.last_lines)
        pod.terminate()
        assert await pod.ended(20) == 0


@pytest.mark.only_in_test_all("leaving a group, which the embedded broker is slow to see")
async def test_a_pod_that_is_stopped_finishes_its_poll_and_leaves_the_group(
    tmp_path: Path, strict_consumers: ConsumerFixture
) -> None:
    if not strict_consumers.broker.keeps_records:
        pytest.skip("this broker delays a new member by half of a session, whether others have left or not")
    settings = {
        "ELS_DATABASE_URL": strict_consumers.app_url,
        **strict_consumers.broker.settings,
        "ELS_CONSUMER_GROUP": strict_consumers.group,
        "ELS_SESSION_TIMEOUT_SECONDS": "300",  # a consumer that does not leave delays the next one by this
        "ELS_REBALANCE_TIMEOUT_SECONDS": "300",
    }
    with pods(tmp_path, settings) as started:
        (pod,) = started.start()
        await pod.ready()
        with psycopg.connect(strict_consumers.conn.info.dsn, password=strict_consumers.conn.info.password) as other:
            other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
            await strict_consumers.publish(CONTENT_PROVISIONED, content("free", "t0"), content("held", "t1"))
            await strict_consumers.becomes(PENDING, 1)
            pod.terminate()
            assert await pod.ended() == 0
        assert strict_consumers.value("select count(*) from els.crash_marks") == 0
        (successor,) = started.start()
        await strict_consumers.all_committed()
        assert strict_consumers.value(PENDING) == 2
        successor.terminate()
        assert await successor.ended() == 0
        assert started.complaints() == []
