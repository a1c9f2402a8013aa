"""Measures what a cell costs that has nothing to do: its pod, and its share of a server that has all databases."""

import argparse
import asyncio
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg

from benchmarks import servers
from benchmarks.report import Report
from deploy.local.postgres import Postgres
from deploy.servers import databases
from deploy.servers.pods import Pods
from service.domain.cells import Slice

POOL: Final = 4
SETTLING: Final = 15.0
"""Seconds until a pod that has nothing to read fetches rarely, and has done what follows its start."""

FLUSHED: Final = 1.5
"""Seconds until an idle session has reported its transactions to the statistics."""

COUNTS: Final = """
    select
        sum(xact_commit + xact_rollback)::float, sum(sessions)::float,
        (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float / 1048576
    from pg_stat_database
"""
SESSIONS: Final = (
    "select count(*) from pg_stat_activity where application_name = 'essay-lifecycle-service' group by datname"
)


class RoomyPostgres(Postgres):
    """A server with sessions for many cells."""

    def options(self, programs: Path) -> list[str]:
        return [*super().options(programs), "-c", "max_connections=400"]


def measure(_: servers.Server, options: argparse.Namespace) -> Report:
    cells, seconds = options.cells, options.seconds
    report = Report("idle" + (f" {cells} cells" if cells != 16 else ""))
    slices = [Slice(cells, cell) for cell in range(cells)]
    with ExitStack() as stack:
        postgres = stack.enter_context(databases.embedded_server(durable=True, kind=RoomyPostgres))
        server = servers.Server(postgres.url(), stack.enter_context(databases.template(postgres.url())))
        urls = [stack.enter_context(server.database(of)) for of in slices]
        kafka = stack.enter_context(servers.broker())
        pods = stack.enter_context(servers.service(urls[0], kafka, ELS_DATABASE_POOL_SIZE=str(POOL)))
        with psycopg.connect(server.url, autocommit=True) as conn:
            servers.analyzed(conn)
            alone = _measured(conn, pods, seconds / 2)
            for url, of in zip(urls, slices, strict=True):
                pods.start(1, **servers.settings_of_cell(url, of))
            asyncio.run(pods.ready())
            time.sleep(SETTLING)
            conn.execute("checkpoint")
            found = _measured(conn, pods, seconds)
            sessions = [number for (number,) in conn.execute(SESSIONS)]
        memory = [servers.memory_mib(pod.pid)[0] for pod in pods.all]
        asyncio.run(pods.stop())
    for (name, unit), value in found.items():
        without = alone[name, unit] if "CPU" in name else 0.0
        report.add(name, unit, (value - without) / cells, better="less")
    report.add("sessions", "", sessions, better="less")
    report.add("pod: memory", "MiB RSS", memory, better="less")
    report.notes.append(
        f"each figure is of one cell of {cells}, on one server; {seconds:.0f} s; ELS_DATABASE_POOL_SIZE={POOL}"
    )
    return report


def _measured(conn: psycopg.Connection[Any], pods: Pods, seconds: float) -> dict[tuple[str, str], float]:
    """Waits for `seconds`. Returns what all pods, the database server and the broker have used, by name and unit."""
    before, wakeups, cpu = conn.execute(COUNTS).fetchone() or (), _wakeups(pods), servers.Cpu()
    begun = time.monotonic()
    time.sleep(seconds)
    cores, took, wakeups = cpu.cores(), time.monotonic() - begun, _wakeups(pods) - wakeups
    time.sleep(FLUSHED)
    after = conn.execute(COUNTS).fetchone() or ()
    transactions, logins, wal = [(last - first) / (took + FLUSHED) for first, last in zip(before, after, strict=True)]
    found = {
        (f"{program}: CPU", "1/1000 core"): cores.get(program, 0.0) * 1000 for program in ("pods", "postgres", "broker")
    }
    return found | {
        ("pod: wakeups", "1/s"): wakeups / took,
        ("transactions", "1/s"): transactions,
        ("new sessions", "1/s"): logins,
        ("WAL", "MiB/h"): wal * 3600,
    }


def _wakeups(pods: Pods) -> int:
    return sum(psutil.Process(pod.pid).num_ctx_switches().voluntary for pod in pods.all)
