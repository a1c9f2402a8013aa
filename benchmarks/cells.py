"""Measures what cells cost: the CPU of an event with several cells, compared with one, and of a record that is skipped.

Runs with one cell and with several alternate. All databases are on one server, and all pods share the machine. One cell
is measured with one pod, which takes the least CPU, and with as many pods as there are cells. The pods are ready before
the first event is sent, and all that they and PostgreSQL use until the last one is published counts.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Final

import psycopg
from aiokafka import TopicPartition
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from benchmarks import load, servers
from benchmarks.report import Report
from benchmarks.whole import nothing_left
from deploy.servers.pods import until
from service.domain.cells import ALL_BATCHES, Slice, cell_of
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import CONTENT_PROVISIONED
from service.kafka.deliveries import decode_all, open_batch
from service.kafka.record_batches import RecordBatch

SLOTS: Final = 30
PROGRAMS: Final = ("pods", "postgres")
BOUNDS: Final = {"watermark": 1.2, "goal": 1.1}
RECORDS: Final = 1_000
"""Records in a batch whose reading is timed. It is not inflated, and small enough to be read on the event loop."""
ROUNDS: Final = 9
PATIENCE: Final = 60.0
"""Seconds beyond a thousand events per second after which a run fails."""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("cells" + (f" {options.cells}" if options.cells != 2 else ""))
    arrangements = {
        "one cell, one pod": (1, 1),
        f"one cell, {options.cells} pods": (1, options.cells),
        f"{options.cells} cells, a pod each": (options.cells, 1),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in arrangements}
    for number in range(options.repeat):
        for name in list(arrangements)[:: -1 if number % 2 else 1]:
            runs[name].append(_run(server, *arrangements[name], options.events))
    for name, its_runs in runs.items():
        for program in (*PROGRAMS, "broker"):
            report.add(f"{name}: {program}, CPU of an event", "µs", [run[program] for run in its_runs], better="less")
        report.add(f"{name}: content events", "1/s", [run["rate"] for run in its_runs])
    *references, divided = runs
    for reference in references:
        for programs in (PROGRAMS[:1], PROGRAMS[1:], PROGRAMS):
            ratios = [
                sum(run[each] for each in programs) / sum(alone[each] for each in programs)
                for alone, run in zip(runs[reference], runs[divided], strict=True)
            ]
            name = f"{' and '.join(programs)}: CPU of an event, {divided} / {reference}"
            report.add(name, "×", ratios, better="less", **BOUNDS if len(programs) > 1 else {})
    for name, values in asyncio.run(_reading(options.cells)).items():
        report.add(name, "µs", values, better="less")
    notes = f"{options.events} contents, {servers.PARTITIONS} partitions a topic, all databases on one server"
    report.notes.append(notes)
    return report


def _run(server: servers.Server, cells: int, pods_each: int, events: int) -> dict[str, float]:
    """Returns the CPU of an event in µs, by program, and the events per second as `rate`."""
    batches = events // SLOTS
    slices = [Slice(cells, cell) for cell in range(cells)]
    with ExitStack() as stack:
        urls = [stack.enter_context(server.database(of)) for of in slices]
        kafka = stack.enter_context(servers.broker())
        pods = stack.enter_context(servers.service(urls[0], kafka))
        for url, of in zip(urls, slices, strict=True):
            with psycopg.connect(url, autocommit=True) as conn:
                load.register(conn, batches, SLOTS)
                servers.analyzed(conn)
            pods.start(pods_each, **servers.settings_of_cell(url, of))
        asyncio.run(pods.ready())
        begun, cpu = time.monotonic(), servers.Cpu()
        load.send("contents", kafka.bootstrap_servers, first=0, batches=batches, each=SLOTS)
        asyncio.run(_all_done(urls, PATIENCE + events / 1_000))
        seconds, cores = time.monotonic() - begun, cpu.cores()
        if any(statuses := asyncio.run(pods.stop())):
            raise RuntimeError(f"the pods exited with status {statuses}:\n{pods.all[0].last_lines()}")
    found = {program: cores[program] * seconds / events * 1e6 for program in (*PROGRAMS, "broker")}
    return found | {"rate": events / seconds}


async def _all_done(urls: Sequence[str], seconds: float) -> None:
    for url in urls:
        await until(partial(nothing_left, url), seconds, lambda: "events are missing", every=0.25)


async def _reading(cells: int) -> dict[str, list[float]]:
    """Returns the CPU, in µs, of reading a record out of a record batch, as a pod does, without the client's fetch."""
    own = [batch_id for batch_id in load.mixed(0, load.AT_A_TIME, SLOTS) if cell_of(batch_id, cells) == 0][:RECORDS]
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1 << 30)
    for offset, batch_id in enumerate(own):
        builder.append(offset, offset, batch_id.encode(), load.content(batch_id), [])
    raw = bytes(builder.build())
    wanted = {
        "a record of one cell: read and decode": ALL_BATCHES,
        f"a record of its own cell of {cells}: read, scan and decode": Slice(cells, 0),
        f"a record of another cell of {cells}: read and skip": Slice(cells, 1),
    }
    found: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(ROUNDS):
        for name, of in wanted.items():
            begun = time.process_time()
            await _read(raw, of)
            found[name].append((time.process_time() - begun) / len(own) * 1e6)
    return found


async def _read(raw: bytes, of: Slice) -> None:
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    opened = await open_batch(tp, RecordBatch(raw), DEFAULT_LIMITS)
    while not opened.is_done:
        records, _ = await opened.take(250, DEFAULT_LIMITS.poll_bytes)
        await decode_all(tp, records, DEFAULT_LIMITS, of)
