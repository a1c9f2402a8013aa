"""Measures the start of a pod until it is healthy, and from the assignment of partitions to the first commit."""

import argparse
import asyncio
import json
import time
import urllib.error
import urllib.request
from datetime import datetime

import psycopg

from benchmarks import load, servers
from benchmarks.report import Report
from deploy.local.processes import LOOPBACK, free_port
from deploy.servers.pods import Pod

BATCHES = 20


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("start")
    starts, commits, memory = [], [], []
    with server.database() as url:
        for number in range(options.repeat):
            with servers.broker() as kafka:
                with psycopg.connect(url, autocommit=True) as conn:
                    load.register(conn, BATCHES, 30, number * BATCHES)
                load_options = {"first": number * BATCHES, "batches": BATCHES, "each": 30}
                load.send("contents", kafka.bootstrap_servers, **load_options)
                port = free_port()
                with servers.service(url, kafka, ELS_HTTP_PORT=str(port)) as pods:
                    begun = time.time()
                    (pod,) = pods.start(1)
                    starts.append(_healthy_at(port, pod) - begun)
                    commits.append(asyncio.run(_first_commit(url, pod, number * BATCHES)))
                    memory.append(servers.memory_mib(pod.pid)[0])
                    asyncio.run(pods.stop())
    report.add("start to all but the assignment", "s", starts, better="less", watermark=1.5, goal=0.8)
    report.add("assignment to the first commit", "s", commits, better="less", watermark=0.5, goal=0.2)
    report.add("memory after the first poll", "MiB RSS", memory, better="less")
    return report


def _healthy_at(port: int, pod: Pod) -> float:
    """Returns when /readyz first reported all parts as healthy, except the consumer, which waits for partitions."""
    end = time.time() + 60
    while time.time() < end:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=5) as response:
                parts = json.load(response)["parts"]
        except urllib.error.HTTPError as error:
            parts = json.load(error)["parts"]
        except OSError:
            time.sleep(0.005)
            continue
        if all(state == "ok" for part, state in parts.items() if part != "consumer"):
            return time.time()
        time.sleep(0.005)
    raise RuntimeError(f"the pod does not become healthy:\n{pod.last_lines()}")


async def _first_commit(url: str, pod: Pod, first: int) -> float:
    """Returns the seconds from the log event `partitions_assigned` to the first slot that is seen committed."""
    ids = [load.batch_id(number) for number in range(first, first + BATCHES)]
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        while True:
            cursor = await conn.execute(
                "select extract(epoch from clock_timestamp())::float8 where exists"
                " (select from els.batches where batch_id = any(%s) and assigned > 0)",
                [ids],
            )
            if row := await cursor.fetchone():
                break
            await asyncio.sleep(0.002)
    assigned = next(entry for entry in pod.logged() if entry.get("event") == "partitions_assigned")
    return float(row[0]) - datetime.fromisoformat(str(assigned["timestamp"])).timestamp()
