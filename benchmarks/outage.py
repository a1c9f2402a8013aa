"""Measures the latency of one cell while the database of the other is stopped, in runs with and without that.

Each cell has a PostgreSQL server, and a pod. Events are sent at a steady rate, half of them for each cell. A run fails
where one is missing at its end, those of the cell that was stopped included.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

import psutil
import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks import load, servers
from benchmarks.report import Report, percentile
from deploy.local.postgres import Postgres
from deploy.servers import databases
from deploy.servers.brokers import Broker, committed_offsets
from deploy.servers.pods import Pod, until
from service.domain.cells import Slice
from service.domain.topics import CONTENT_PROVISIONED
from service.settings import Settings

SLOTS: Final = 30
WARM_UP: Final = 10.0
TAIL: Final = 10.0
"""Seconds of load after the last phase, so that none is cut off."""
SLICES: Final = (Slice(2, 0), Slice(2, 1))
"""The cell that goes on, and the one whose database is stopped."""
PHASES: Final = ("before", "meanwhile", "after")
LEFT_SECONDS: Final = 2.0
"""Offsets are committed every second."""


@dataclass(slots=True)
class Outage:
    """One run: the latencies of the cell that goes on, in each phase, ascending, in seconds."""

    phases: dict[str, list[float]]
    behind: tuple[int, int]
    """Records behind the ends that the groups of the two cells were, when the database was to be started again."""
    cores: float
    """What the pod of the other cell used meanwhile."""
    caught_up: float
    """Seconds from then on until everything is published that the stopped cell had to do."""

    def p99(self, phase: str) -> float:
        return percentile(self.phases[phase], 0.99)


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("outage")
    runs: dict[bool, list[Outage]] = {False: [], True: []}
    with databases.embedded_server(durable=True) as other, databases.template(other.url()) as template:
        pair = (server, servers.Server(other.url(), template))
        for number in range(options.repeat):
            for stops in (False, True) if number % 2 == 0 else (True, False):
                runs[stops].append(_run(pair, other if stops else None, options.rate, options.seconds))
    alone, stopped = runs[False], runs[True]
    for phase in PHASES:
        for what, its_runs in (("none stopped", alone), ("the other stopped", stopped)):
            report.add(f"{phase}, {what}: p99", "ms", [run.p99(phase) * 1000 for run in its_runs], better="less")
    for phase in PHASES[1:]:
        ratios = [run.p99(phase) / reference.p99(phase) for reference, run in zip(alone, stopped, strict=True)]
        report.add(f"{phase}: p99, the other stopped / none stopped", "×", ratios, better="less", watermark=1.3)
        ratios = [run.p99(phase) / run.p99("before") for run in stopped]
        report.add(f"{phase} / before: p99, the other stopped", "×", ratios, better="less", watermark=1.3)
    most = LEFT_SECONDS * options.rate
    behind = [run.behind[0] for run in stopped]
    report.add("end of the stop: records the group is behind", "", behind, better="less", watermark=most)
    report.add("end of the stop: records the other group is behind", "", [run.behind[1] for run in stopped])
    for what, its_runs in (("none stopped", alone), ("the other stopped", stopped)):
        report.add(
            f"meanwhile, {what}: CPU of the other's pod", "cores", [run.cores for run in its_runs], better="less"
        )
    report.add("until the other has done all it had to", "s", [run.caught_up for run in stopped], better="less")
    report.notes.append(f"{options.rate}/s for both cells, a server each; one is stopped for {options.seconds:.0f} s")
    return report


def _run(pair: Sequence[servers.Server], stopped: Postgres | None, rate: int, seconds: float) -> Outage:
    batches = int(rate * (WARM_UP + 2 * seconds + TAIL)) // SLOTS
    load_options = {"first": 0, "batches": batches, "each": SLOTS, "rate": rate, "warm_up": WARM_UP, "cells": 2}
    with ExitStack() as stack:
        urls = [stack.enter_context(each.database(of)) for each, of in zip(pair, SLICES, strict=True)]
        kafka = stack.enter_context(servers.broker())
        pods = stack.enter_context(servers.service(urls[0], kafka))
        for url, of in zip(urls, SLICES, strict=True):
            with psycopg.connect(url, autocommit=True) as conn:
                load.register(conn, batches, SLOTS)
                servers.analyzed(conn)
            pods.start(1, **servers.settings_of_cell(url, of))
        asyncio.run(pods.ready())
        with load.begin("paced", kafka.bootstrap_servers, **load_options) as sending:
            begin, end, behind, cores = asyncio.run(_stopped(urls[0], kafka, stopped, seconds, pods.all[1]))
            sent = load.ended(sending)
        if sent["received"] < sent["sent"]:
            raise RuntimeError(f"{sent['received']} of {sent['sent']} arrived: {pods.all[1].last_lines()}")
        if any(statuses := asyncio.run(pods.stop())):
            raise RuntimeError(f"the pods exited with status {statuses}: {pods.all[1].last_lines()}")
    going_on, other = sent["by_cell"]
    phases = {
        phase: sorted(taken for due, taken in going_on if first <= due < last)
        for phase, first, last in zip(PHASES, (0, begin, end), (begin, end, end + (end - begin) / 2), strict=True)
    }
    return Outage(phases, behind, cores, max(due + taken for due, taken in other if due < end) - end)


async def _stopped(
    url: str, kafka: Broker, stopped: Postgres | None, seconds: float, pod: Pod
) -> tuple[float, float, tuple[int, int], float]:
    """Stops a server for `seconds`, after half as many of a steady load. Without a server only waits as long.

    Returns the begin and the end, on the clock of `time.perf_counter`, how many records each group is behind then, and
    how many cores `pod` has used.
    """
    with psycopg.connect(url, autocommit=True) as conn:
        query = "select coalesce(sum(next_offset), 0) > 0 from els.progress"
        await until(lambda: conn.execute(query).fetchone() == (True,), 60, lambda: "nothing is applied")
    await asyncio.sleep(WARM_UP + seconds / 2)
    begin, used = time.perf_counter(), _cpu_seconds(pod)
    if stopped:
        await asyncio.to_thread(stopped.stop)
    await asyncio.sleep(begin + seconds - time.perf_counter())
    behind = await _behind(kafka)
    end, used = time.perf_counter(), _cpu_seconds(pod) - used
    if stopped:
        await asyncio.to_thread(stopped.start)
    return begin, end, behind, used / (end - begin)


def _cpu_seconds(pod: Pod) -> float:
    times = psutil.Process(pod.pid).cpu_times()
    return float(times.user + times.system)


async def _behind(kafka: Broker) -> tuple[int, int]:
    """Returns how many records the group of each cell is behind the ends."""
    tps = [TopicPartition(CONTENT_PROVISIONED, each) for each in range(servers.PARTITIONS)]
    client = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    await client.start()
    ends = await client.end_offsets(tps)
    await client.stop()
    group = Settings.model_fields["consumer_group"].default
    mine, other = [await committed_offsets(kafka, group + of.suffix, tps) for of in SLICES]
    return sum(ends[tp] - mine.get(tp, 0) for tp in tps), sum(ends[tp] - other.get(tp, 0) for tp in tps)
