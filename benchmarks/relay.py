"""Measures the relay alone: a full outbox and one pod with the role relay. Reference: a producer with equal bytes."""

import argparse
import asyncio
import time

import psycopg
from aiokafka import AIOKafkaProducer

from benchmarks import servers
from benchmarks.report import Report
from benchmarks.whole import watched
from deploy.servers.brokers import Broker
from service.domain.topics import SLOT_ASSIGNED

FILL = """
    insert into els.outbox_pages (batch_id, topics, events)
    select
        md5('batch ' || n)::uuid::text,
        jsonb_build_object(%(topic)s::text, 30),
        (
            select string_agg(
                format(
                    '{"event_id":"%%s","event_type":"%%s","event_timestamp":"2026-11-29T00:00:00Z",'
                    '"source_service":"essay-lifecycle-service","schema_version":1,"correlation_id":"%%s",'
                    '"data_schema_uri":null,"data":"%%s","metadata":{"traceparent":'
                    '"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}',
                    gen_random_uuid(), %(topic)s::text, gen_random_uuid(), repeat('x', 370)
                ),
                E'\n'
            )
            from generate_series(n, n + 29)
        )
    from generate_series(1, %(rows)s / 30) as n
"""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("relay")
    rates, alone, cores = [], [], []
    for _ in range(options.repeat):
        with server.database() as url, servers.broker() as kafka, servers.service(url, kafka) as pods:
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(FILL, {"topic": SLOT_ASSIGNED, "rows": options.events})
                servers.analyzed(conn)
            run = asyncio.run(watched(url, kafka, pods, 1, options.events, "--roles", "relay"))
            rates.append(run.rate())
            cores.append(run.cores.get("pods", 0.0))
            alone.append(asyncio.run(_produced(kafka, options.events)))
    report.add("rows published", "1/s", rates)
    report.add("reference: the producer alone, full record batches", "1/s", alone)
    report.add("pod: CPU", "cores", cores, better="less")
    return report


async def _produced(kafka: Broker, events: int) -> float:
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers, max_batch_size=900_000, enable_idempotence=False
    )
    await producer.start()
    begun = time.perf_counter()
    waiting = []
    for number in range(events // 500):
        batch = producer.create_batch()
        for _ in range(500):
            batch.append(key=b"a key", value=b"x" * 760, timestamp=None, headers=[("event_id", b"x" * 36)] * 4)
        waiting.append(await producer.send_batch(batch, SLOT_ASSIGNED, partition=number % servers.PARTITIONS))
    await asyncio.gather(*waiting)
    rate = events / (time.perf_counter() - begun)
    await producer.stop()
    return rate
