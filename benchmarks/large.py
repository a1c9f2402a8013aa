"""Measures the largest batch: 100,000 contents are pending when its registration arrives; other batches continue."""

import argparse
import asyncio
import time

import psycopg
from aiokafka import AIOKafkaProducer

from benchmarks import load, servers
from benchmarks.report import Report, percentile
from deploy.servers.brokers import Broker
from deploy.servers.pods import Pod
from service.domain.topics import BATCH_REGISTERED, LARGEST_RECORD

LARGE = 1_000_000
"""The number of the large batch; the other batches are numbered from 0."""

RATE = 50

WAIT = """
    insert into els.pending_content (
        batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, traceparent, stored_at, waiting_since
    )
    select md5('batch ' || %(large)s::int)::uuid::text, 'text-' || gen_random_uuid(), nextval('els.arrivals'),
        gen_random_uuid()::text, 'An essay.docx', 'raw-' || gen_random_uuid(), 18244,
        '9e107d9d372bb6826bd81d3542a419d6', gen_random_uuid(),
        '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', now(), now()
    from generate_series(1, %(slots)s)
"""

# The same rows without logic: slots from the pending content, which is deleted, and an event for each slot.
BULK = """
    with gone as (
        delete from els.pending_content where batch_id = %(batch)s
        returning *
    ), filled as (
        insert into els.slots (
            batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name,
            raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent, taken_at
        )
        select batch_id, gen_random_uuid()::text, row_number() over (), 'assigned', text_storage_id, file_upload_id,
            original_file_name, raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent,
            now()
        from gone
    )
    insert into els.outbox_pages (batch_id, topics, events)
    select batch_id, '{"huleedu.els.essay.slot.assigned.v1": 1000}', string_agg(repeat('x', 760), E'\n')
    from (select batch_id, row_number() over () / 1000 as page from gone) as events
    group by batch_id, page
"""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("large")
    reference, seconds, memory, others = [], [], [], []
    for _ in range(options.repeat):
        reference.append(_bulk(server, options.slots))
        took, peak, meanwhile = _reconciled(server, options.slots)
        seconds.append(took)
        memory.append(peak)
        others.append(percentile(meanwhile, 0.99) * 1000)
    report.add(f"{options.slots} pending, from the registration sent to ready", "s", seconds, better="less",
               watermark=6, goal=3)  # fmt: skip
    report.add("reference: the same rows by bulk statements, commit included", "s", reference, better="less")
    report.add("pod memory, peak (its registration is 4 MB)", "MiB RSS", memory, better="less", watermark=150, goal=110)
    report.add(f"others at {RATE}/s meanwhile: p99 of an event", "ms", others, better="less")
    return report


def _bulk(server: servers.Server, slots: int) -> float:
    with server.database() as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute(WAIT, {"large": LARGE, "slots": slots})
        load.register(conn, 1, 1, LARGE)
        servers.analyzed(conn)
        begun = time.perf_counter()
        conn.execute(BULK, {"batch": load.batch_id(LARGE)})
        return time.perf_counter() - begun


def _reconciled(server: servers.Server, slots: int) -> tuple[float, float, list[float]]:
    batches = 20
    with server.database() as url, servers.broker() as kafka, servers.service(url, kafka) as pods:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(WAIT, {"large": LARGE, "slots": slots})
            load.register(conn, batches, 30)
            servers.analyzed(conn)
        (pod,) = pods.start(1)
        asyncio.run(pods.ready())
        load_options = {"first": 0, "batches": batches, "each": 30, "rate": RATE, "warm_up": 0.0}
        with load.begin("paced", kafka.bootstrap_servers, **load_options) as others:
            took = asyncio.run(_announced(url, kafka, slots, pod))
            peak = servers.memory_mib(pod.pid)[1]
            meanwhile: list[float] = load.ended(others)["seconds"]
        asyncio.run(pods.stop())
    return took, peak, meanwhile


async def _announced(url: str, kafka: Broker, slots: int, pod: Pod) -> float:
    await asyncio.sleep(3)  # until the load of the other batches runs
    batch = load.batch_id(LARGE)
    value = load.registration(batch, slots)
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, max_request_size=LARGEST_RECORD, enable_idempotence=False
    )
    await producer.start()
    await producer.send_and_wait(BATCH_REGISTERED, value, key=batch.encode())
    begun = time.perf_counter()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while time.perf_counter() - begun < 120:
            cursor = await conn.execute("select from els.batches where batch_id = %s and state = 'ready'", [batch])
            if await cursor.fetchone() is not None:
                await producer.stop()
                return time.perf_counter() - begun
            await asyncio.sleep(0.02)
    raise RuntimeError(f"the large batch is not ready:\n{pod.last_lines()}")
