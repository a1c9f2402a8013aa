"""Measures minutes at a steady rate while the purge deletes: sizes must level off, lag and memory must not grow."""

import argparse
import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks import load, servers
from benchmarks.report import Report, percentile
from deploy.servers.brokers import Broker, committed_offsets
from deploy.servers.pods import Pod
from service.domain.topics import CONTENT_PROVISIONED

SLOTS = 30
AHEAD = 10_000
"""The number of batches that are registered before their uploads are sent."""
RETAINED = 20_000
"""The number of ended batches that are kept; earlier ones are made old, so that the purge deletes them."""
WARM_UP = 10.0
EVERY = 5.0
"""Seconds between two samples."""
READ_MS = 20
"""Milliseconds between two fetches of the load's reader: shorter would take CPU from the service."""
LINGER_MS = 10
"""Milliseconds between two requests of the load's producer; producers with an outbox send in batches, too."""
PAUSE = 0.5
"""Seconds between two rounds that register batches and make others old, in small pieces as in production."""
GROUP = "essay-lifecycle-service"

# The shortest retention is a day, so what the purge should delete is made a week older; nothing else changes.
AGE = """
    update els.batches
    set registered_at = registered_at - interval '7 days', completed_at = completed_at - interval '7 days',
        changed_at = changed_at - interval '7 days'
    where batch_id in (select md5('batch ' || n)::uuid::text from generate_series(%s::int, %s::int) as n)
        and completed_at is not null
"""
SIZES = """
    select relname, pg_total_relation_size(oid) / 1048576.0, pg_indexes_size(oid) / 1048576.0
    from pg_class
    where relnamespace = 'els'::regnamespace and relkind = 'r' and relname in ('slots', 'batches', 'outbox_pages')
"""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    """Batches are registered shortly before their uploads are due, and deleted some time after they end."""
    report = Report("flat")
    batches = int(options.rate * options.seconds) // SLOTS
    load_options = {"batches": batches, "each": SLOTS, "rate": options.rate, "warm_up": WARM_UP}
    load_options |= {"read_ms": READ_MS, "linger_ms": LINGER_MS}
    settings = {"ELS_BATCH_RETENTION_SECONDS": str(24 * 3600), "ELS_PURGE_INTERVAL_SECONDS": "1"}
    with server.database() as url, servers.broker() as kafka, servers.service(url, kafka, **settings) as pods:
        (pod,) = pods.start(1)
        asyncio.run(pods.ready())
        with psycopg.connect(url, autocommit=True) as conn:
            send = partial(load.send, "paced", kafka.bootstrap_servers, first=0, **load_options)
            sent = asyncio.run(_kept_up(conn, kafka, pod, batches, options.rate, send, report))
        if sent["received"] < sent["sent"]:
            lag = report.series["lag, records over seconds"]
            raise RuntimeError(f"{sent['received']} of {sent['sent']} arrived; lag {lag[-5:]}: {pod.last_lines()}")
        asyncio.run(pods.stop())
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)):
        report.add(f"{options.rate}/s: {name} of an event", "ms", [percentile(sent["seconds"], share) * 1000])
    for name, points in report.series.items():
        half = [value for _, value in points[len(points) // 2 :]]
        report.add(name.replace(" over seconds", ", second half"), "MiB" if "MiB" in name else "", half, better="less")
    report.notes.append(f"{sent['sent']} contents in {options.seconds:.0f} s, {servers.PARTITIONS} partitions a topic")
    return report


async def _kept_up(
    conn: psycopg.Connection[Any],
    kafka: Broker,
    pod: Pod,
    batches: int,
    rate: int,
    send: Callable[[], dict[str, Any]],
    report: Report,
) -> dict[str, Any]:
    """Registers batches ahead of the load, makes ended ones old, and samples what must not grow, until the end."""
    sending = asyncio.create_task(asyncio.to_thread(send))
    client = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    await client.start()
    tps = [TopicPartition(CONTENT_PROVISIONED, each) for each in range(servers.PARTITIONS)]
    registered = aged = 0
    begun, cpu, sampled = None, None, 0.0
    cores: dict[str, float] = {}
    while not sending.done():
        sent = sum((await client.end_offsets(tps)).values())
        if (due := min(batches, sent // SLOTS + AHEAD)) > registered:
            load.register(conn, due - registered, SLOTS, registered)
            registered = due
        if (old := sent // SLOTS - RETAINED) > aged:
            conn.execute(AGE, [aged, old - 1])
            aged = old
        if batches * SLOTS > sent > 0 and time.monotonic() > sampled + EVERY:
            sampled = time.monotonic()
            begun, cpu = begun or sampled, cpu or servers.Cpu()
            done = sum((await committed_offsets(kafka, GROUP, tps)).values())
            ended = sum((await client.end_offsets(tps)).values())
            _sample(conn, pod, ended - done, sampled - begun, report)
            cores = cpu.cores()
        await asyncio.sleep(PAUSE)
    await client.stop()
    for program, used in cores.items():
        report.add(f"{program}: CPU of an event", "µs", used / rate * 1e6, better="less")
    return sending.result()


def _sample(conn: psycopg.Connection[Any], pod: Pod, lag: int, seconds: float, report: Report) -> None:
    ((kept,),) = conn.execute("select count(*) from els.batches where state <> 'registered'").fetchall()
    ((waiting,),) = conn.execute("select count(*) from els.outbox_pages").fetchall()
    found = {"lag, records": lag, "outbox, rows": waiting, "batches that have ended, kept": kept}
    found["pod MiB"] = servers.memory_mib(pod.pid)[0]
    for table, total, indexes in conn.execute(SIZES):
        found |= {f"{table} MiB": float(total), f"{table} indexes MiB": float(indexes)}
    for name, value in found.items():
        report.series.setdefault(f"{name} over seconds", []).append((seconds, value))
