"""Measures the latency from an upload's due time to its EssaySlotAssigned at a consumer, at fixed rates, on one pod."""

import argparse
import asyncio
import time

import psycopg
from aiokafka import AIOKafkaProducer

from benchmarks import load, servers
from benchmarks.report import Report, percentile
from deploy.servers.brokers import Broker
from service.domain.topics import EXCESS_CONTENT

WARM_UP = 3.0
SLOTS = 30
BOUNDED = 500
"""The rate whose latency has a required minimum and a goal."""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    """Measures each rate on new servers; the reference is one durable commit and one produce."""
    report = Report("latency")
    curve: dict[str, list[tuple[float, float]]] = {"p50 ms over rate": [], "p99 ms over rate": []}
    alone: list[float] = []
    for rate in options.rates:
        runs = [_measured(server, rate, options.seconds, alone) for _ in range(options.repeat)]
        for name, share, watermark, goal in (
            ("p50", 0.5, 15.0, 8.0),
            ("p99", 0.99, 50.0, 25.0),
            ("p99.9", 0.999, 0, 0),
        ):
            bounds = {"watermark": watermark, "goal": goal} if rate == BOUNDED and watermark else {}
            values = [percentile(run, share) * 1000 for run in runs]
            report.add(f"{rate}/s: {name}", "ms", values, better="less", **bounds)
            if f"{name} ms over rate" in curve:
                curve[f"{name} ms over rate"].append((rate, report.figures[-1].median))
    alone.sort()
    report.add("reference: a durable commit, then a produce", "ms p50", percentile(alone, 0.5) * 1000, better="less")
    report.add("reference: a durable commit, then a produce", "ms p99", percentile(alone, 0.99) * 1000, better="less")
    report.series = curve
    return report


def _measured(server: servers.Server, rate: int, seconds: float, alone: list[float]) -> list[float]:
    batches = int(rate * seconds) // SLOTS + 1
    with server.database() as url, servers.broker() as kafka, servers.service(url, kafka) as pods:
        with psycopg.connect(url, autocommit=True) as conn:
            load.register(conn, batches, SLOTS)
            servers.analyzed(conn)
        alone += asyncio.run(_one_by_one(url, kafka))
        pods.start(1)
        asyncio.run(pods.ready())
        load_options = {"first": 0, "batches": batches, "each": SLOTS, "rate": rate, "warm_up": WARM_UP}
        found = load.send("paced", kafka.bootstrap_servers, **load_options)
        if found["received"] < found["sent"]:
            raise RuntimeError(f"{found['received']} of {found['sent']} arrived: {pods.all[0].last_lines()}")
        asyncio.run(pods.stop())
    ordered: list[float] = found["seconds"]
    return ordered


async def _one_by_one(url: str, kafka: Broker, number: int = 200) -> list[float]:
    """Returns the seconds of a durable commit followed by an acknowledged record, without other load."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, enable_idempotence=False, acks="all")
    await producer.start()
    taken = []
    async with await psycopg.AsyncConnection.connect(url) as conn:
        await conn.execute("create table public.alone (payload text)")
        for _ in range(number):
            begun = time.perf_counter()
            await conn.execute("insert into public.alone values (%s)", ["x" * 760])
            await conn.commit()
            # To another topic than the one that is counted.
            await producer.send_and_wait(EXCESS_CONTENT, b"x" * 760, partition=0)
            taken.append(time.perf_counter() - begun)
    await producer.stop()
    return taken
