"""Measures the recovery of an empty database, compared with the first application of the same inputs."""

import argparse
import asyncio
import os
import subprocess
import sys
import time

import psycopg

from benchmarks import load, servers
from benchmarks.report import Report
from benchmarks.whole import watched
from deploy.local.processes import plain_environment
from deploy.servers.brokers import Broker
from deploy.servers.databases import url_as
from deploy.servers.pods import ROOT

SLOTS = 30
"""Slots of a batch."""

LOST = "truncate els.batches, els.slots, els.pending_content, els.excess_content, els.progress, els.server_identity"

HOUR = 1_800_000
"""Content events of an hour at 500/s, to which the specification's floor and goal apply."""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    """Measures one recovery. All registrations and contents come from the topics."""
    report = Report("recovery")
    batches = options.events // SLOTS
    events = batches * SLOTS
    with server.database() as url, servers.broker() as kafka, servers.service(url, kafka) as pods:
        load_options = {"first": 0, "batches": batches, "each": SLOTS}
        load.send("registrations", kafka.bootstrap_servers, **load_options)
        load.send("contents", kafka.bootstrap_servers, **load_options)
        begun = time.monotonic()
        asyncio.run(watched(url, kafka, pods, 1, events))
        applied = time.monotonic() - begun
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(LOST)
        seconds, memory, points = _recovered(url, kafka)
        with psycopg.connect(url, autocommit=True) as conn:
            found = conn.execute("select count(*) from els.slots where state = 'assigned'").fetchone()
            assert found == (events,), found
            assert conn.execute("select count(*) from els.outbox_pages").fetchone() == (0,)
    share = events / HOUR
    report.add("recovery", "s", seconds, better="less", watermark=600 * share, goal=240 * share)
    report.add("reference: first application by one pod", "s", applied, better="less")
    report.add("ratio to the reference", "×", seconds / applied, better="less")
    report.add("memory of the recovery, peak", "MiB RSS", memory, better="less")
    half = [mib for second, mib in points if second < seconds / 2]
    report.add("… in the first half of its time", "MiB RSS", max(half), better="less")
    report.series["recovery MiB over seconds"] = points
    report.notes.append(f"{events} contents in {batches} batches, {servers.PARTITIONS} partitions a topic")
    report.notes.append("without the 21 s in which it waits until nothing arrives on the output topics")
    return report


def _recovered(url: str, kafka: Broker) -> tuple[float, float, list[tuple[float, float]]]:
    """Runs `recover`. Returns its seconds, its peak memory in MiB, and its memory over the seconds."""
    time.sleep(22)  # so that the recovery need not wait for silence on the output topics
    environment = {
        **plain_environment(),
        **kafka.settings,
        "ELS_DATABASE_URL": url_as(url, "els_app"),
        "PYTHONPATH": str(ROOT),
    }
    begun, memory, points = time.monotonic(), 0.0, list[tuple[float, float]]()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "recover", "--acts", os.devnull], env=environment, stdout=subprocess.DEVNULL
    )
    while process.poll() is None:
        try:
            now, memory = servers.memory_mib(process.pid)
            points.append((time.monotonic() - begun, now))
        except (OSError, KeyError):
            break  # it is ending
        time.sleep(0.5)
    if process.wait():
        raise RuntimeError(f"the recovery has ended with status {process.returncode}")
    return time.monotonic() - begun, memory, points
