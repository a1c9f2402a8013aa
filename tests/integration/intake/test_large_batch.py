"""Tests the largest batch with as much pending content: one transaction, one announcement, bounded memory."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from deploy.servers.brokers import Broker
from deploy.servers.pods import Pod, pods, until
from service.domain.incoming import MOST_ESSAYS
from service.domain.topics import BATCH_READY, BATCH_REGISTERED, CONTENT_PROVISIONED
from tests.support.builders.inputs import MEBIBYTE, content, registration

BOUND = 150
"""Seconds after which a wait has failed."""

MOST_MEMORY = 300 * MEBIBYTE

WAITING = """
    insert into els.pending_content (
        batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, correlation_id, stored_at, waiting_since
    )
    select
        'large', 'text-' || number, nextval('els.arrivals'), 'upload-' || number, 'essay ' || number || '.docx',
        'raw-' || number, number, gen_random_uuid(), now(), now()
    from generate_series(1, %s) as number
"""

# The transaction of the large batch stops at its very end, with all its locks, while the test holds this lock.
WAIT_FOR_THE_TEST = f"""
    create function public.wait_for_the_test() returns trigger language plpgsql as $$
    begin
        perform set_config('lock_timeout', '0', true);
        perform pg_advisory_xact_lock(42);
        return new;
    end $$;
    create trigger wait_for_the_test after insert on els.outbox_pages
        for each row when (new.topics ? '{BATCH_READY}' and new.batch_id = 'large')
        execute function public.wait_for_the_test();
"""


async def test_the_largest_batch_is_announced_once_and_does_not_block_others(
    tmp_path: Path, app_url: str, database_url: str, kafka: Broker, record_property: Any
) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn, psycopg.connect(database_url) as other:
        conn.execute(WAITING, [MOST_ESSAYS])
        conn.execute("analyze els.pending_content")
        conn.execute(WAIT_FOR_THE_TEST)
        other.execute("select pg_advisory_xact_lock(42)")
        with pods(tmp_path, {"ELS_DATABASE_URL": app_url}, kafka.settings) as running:
            (pod,) = running.start()
            await pod.ready()
            essay_ids = [f"essay-{number}" for number in range(1, MOST_ESSAYS + 1)]
            await publish(kafka, (BATCH_REGISTERED, registration("large", essay_ids), 0))
            await until(lambda: waits(conn), BOUND, pod.last_lines)

            small = [
                (BATCH_REGISTERED, registration("small", ["e1"]), 1),
                (CONTENT_PROVISIONED, content("small", "t"), 0),
            ]
            await publish(kafka, *small)
            await until(lambda: ready(conn, "small"), BOUND, pod.last_lines)
            assert waits(conn)
            assert not ready(conn, "large")

            other.rollback()
            await until(lambda: ready(conn, "large"), BOUND, pod.last_lines)
            announcements = [each for each in await announced(kafka, 2) if each["batch_id"] == "large"]
            memory = most_memory(pod)
            assert running.complaints() == []
        assert [each["ready_essays"] for each in announcements] == [
            [
                {"essay_id": f"essay-{number}", "text_storage_id": f"text-{number}"}
                for number in range(1, MOST_ESSAYS + 1)
            ]
        ]
        # One transaction: all of it has one time, the batch's own.
        assert conn.execute(
            "select count(*), count(distinct taken_at), min(taken_at) = (select registered_at from els.batches"
            " where batch_id = 'large') from els.slots where batch_id = 'large' and state = 'assigned'"
        ).fetchone() == (MOST_ESSAYS, 1, True)
        assert conn.execute("select count(*) from els.pending_content").fetchone() == (0,)
    record_property("most_memory_mebibytes", memory // MEBIBYTE)
    print(f"the pod took {memory // MEBIBYTE} MiB at most")
    assert memory < MOST_MEMORY


def waits(conn: psycopg.Connection[Any]) -> bool:
    """Whether a transaction waits for the lock of the test."""
    query = "select from pg_locks where locktype = 'advisory' and objid = 42 and not granted"
    return conn.execute(query).fetchone() is not None


def ready(conn: psycopg.Connection[Any], batch_id: str) -> bool:
    query = "select from els.batches where batch_id = %s and state = 'ready'"
    return conn.execute(query, [batch_id]).fetchone() is not None


async def publish(broker: Broker, *records: tuple[str, bytes, int]) -> None:
    """Records of (topic, value, partition), one after the other."""
    producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers,
        enable_idempotence=broker.idempotence,
        max_request_size=32 * MEBIBYTE,
    )
    await producer.start()
    try:
        for topic, value, partition in records:
            await producer.send_and_wait(topic, value, b"key", partition)
    finally:
        await producer.stop()


async def announced(broker: Broker, count: int) -> list[dict[str, Any]]:
    """Read this many batches that are announced as ready from their topic."""
    consumer = AIOKafkaConsumer(
        BATCH_READY, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest", fetch_max_bytes=MEBIBYTE
    )
    await consumer.start()
    found: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(BOUND):
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found += [json.loads(record.value)["data"] for record in records]
    finally:
        await consumer.stop()
    return found


def most_memory(pod: Pod) -> int:
    """The peak memory of a running process, in bytes."""
    assert pod._process is not None
    status = Path(f"/proc/{pod.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
