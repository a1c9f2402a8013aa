"""Tables and indexes under steady load with the purge on: their sizes must level off."""

import argparse
import asyncio
import time
from typing import Any

import psycopg

from benchmarks import load, servers
from benchmarks.report import Report

SLOTS = 30
RETAINED = 20_000
"""Batches that are kept: what ended before them is made old, for the purge to delete."""

# A retention is a day at least: what is to go is made a week older. Its age is its only difference.
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
    where relnamespace = 'els'::regnamespace and relkind = 'r' and relname in ('slots', 'batches', 'outbox')
"""


def ask(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("flat")
    settings = {"ELS_BATCH_RETENTION_SECONDS": str(24 * 3600), "ELS_PURGE_INTERVAL_SECONDS": "1"}
    with server.database() as url, servers.broker() as kafka, servers.service(url, kafka, **settings) as pods:
        pods.start(1)
        asyncio.run(pods.ready())
        with psycopg.connect(url, autocommit=True) as conn:
            batches = options.round // SLOTS
            for number in range(options.events // options.round):
                first = number * batches
                load.register(conn, batches, SLOTS, first)
                load.send("contents", kafka.bootstrap_servers, first=first, batches=batches, each=SLOTS)
                _until_ready(conn, first, batches)
                if (old := first - RETAINED) >= 0:
                    conn.execute(AGE, [old, old + batches - 1])
                for table, total, indexes in conn.execute(SIZES):
                    report.series.setdefault(f"{table} MiB over events", []).append(
                        ((number + 1) * options.round, float(total))
                    )
                    report.series.setdefault(f"{table} indexes MiB over events", []).append(
                        ((number + 1) * options.round, float(indexes))
                    )
                ((kept,),) = conn.execute("select count(*) from els.batches").fetchall()
                report.series.setdefault("batches kept over events", []).append(((number + 1) * options.round, kept))
        asyncio.run(pods.stop())
    for name, points in report.series.items():
        half = [size for _, size in points[len(points) // 2 :]]
        unit = "MiB" if "MiB" in name else ""
        report.add(name.replace(" over events", ", second half"), unit, half, better="less")
    return report


def _until_ready(conn: psycopg.Connection[Any], first: int, batches: int) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        row = conn.execute(
            "select count(*) from els.batches where state = 'registered' and batch_id in"
            " (select md5('batch ' || n)::uuid::text from generate_series(%s::int, %s::int) as n)",
            [first, first + batches - 1],
        ).fetchone()
        if row == (0,):
            return
        time.sleep(1)
    raise RuntimeError("a round did not end")
