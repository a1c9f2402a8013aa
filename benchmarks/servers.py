"""Starts the servers of a measurement (durable PostgreSQL, a broker, pods) and measures their CPU and memory."""

import asyncio
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from deploy.servers import brokers, databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import Pods, pods
from service.domain.cells import ALL_BATCHES, Slice

PARTITIONS = 12
"""Partitions per topic: a single pod has 36 of the input topics."""


@dataclass(frozen=True, slots=True)
class Server:
    """PostgreSQL, and the migrated database that is copied for each measurement."""

    url: str
    template: str

    @contextmanager
    def database(self, of: Slice = ALL_BATCHES) -> Iterator[str]:
        """Gives the URL of a new database that holds these batches."""
        with databases.cloned(self.url, self.template) as url:
            with psycopg.connect(url) as conn:
                conn.execute("update els.slice set cells = %s, cell = %s", of)
            yield url


@contextmanager
def postgres() -> Iterator[Server]:
    """Starts PostgreSQL with fsync and synchronous_commit on; deploy/local/postgres.py has all settings."""
    with databases.embedded_server(durable=True) as server, databases.template(server.url()) as template:
        with psycopg.connect(server.url(), autocommit=True) as conn:
            settings = conn.execute("select current_setting('fsync'), current_setting('synchronous_commit')")
            assert settings.fetchone() == ("on", "on")
        yield Server(server.url(), template)


@contextmanager
def broker(partitions: int = PARTITIONS) -> Iterator[Broker]:
    """Starts the embedded broker, or Apache Kafka if BENCH_KAFKA=apache."""
    make = brokers.apache if os.environ.get("BENCH_KAFKA") == "apache" else brokers.tansu
    with make() as started:
        asyncio.run(started.create_topics(partitions))
        yield started


@contextmanager
def service(url: str, kafka: Broker, **settings: str) -> Iterator[Pods]:
    """Gives pods that use these servers, in the role els_app; none is started yet."""
    with tempfile.TemporaryDirectory(prefix="els-bench-") as folder:
        mine = {"ELS_DATABASE_URL": databases.url_as(url, "els_app"), **settings}
        with pods(Path(folder), kafka.settings, mine) as started:
            yield started


def settings_of_cell(url: str, of: Slice) -> dict[str, str]:
    """Returns the settings of the pods of one cell, in the role els_app."""
    return {
        "ELS_DATABASE_URL": databases.url_as(url, "els_app"),
        "ELS_CELLS": str(of.cells),
        "ELS_CELL": str(of.cell),
    }


class Cpu:
    """Measures the CPU of the child processes, by program, and of everything else on the machine."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._before = _cpu_seconds()

    def cores(self) -> dict[str, float]:
        """Returns the average number of cores that each has used since this object was created."""
        seconds, now = time.monotonic() - self._begun, _cpu_seconds()
        return {name: (now[name] - self._before[name]) / seconds for name in now}


def _cpu_seconds() -> dict[str, float]:
    used: dict[str, float] = defaultdict(float)
    for each in psutil.Process().children(recursive=True):
        try:
            times, name = each.cpu_times(), _program(each)
        except psutil.Error:
            continue
        used[name] += times.user + times.system
        if name == "postgres" and each.ppid() == os.getpid():  # sessions that have ended
            used[name] += times.children_user + times.children_system
    machine = psutil.cpu_times()
    busy = sum(machine) - machine.idle - machine.iowait - machine.guest - machine.guest_nice
    used["everything else on the machine"] = busy - sum(used.values())
    return used


def _program(process: psutil.Process) -> str:
    name = process.name()
    if name in ("tansu", "java"):
        return "broker"
    if name.startswith("python"):
        return "load" if "benchmarks.load" in process.cmdline() else "pods"
    return name


def memory_mib(pid: int) -> tuple[float, float]:
    """Returns the resident memory of a process in MiB, now and at its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    return int(values["VmRSS"].split()[0]) / 1024, int(values["VmHWM"].split()[0]) / 1024


def analyzed(conn: psycopg.Connection[Any]) -> None:
    """Vacuums, analyzes and checkpoints, so that none of this happens during the measurement."""
    conn.execute("vacuum (analyze, freeze)")
    conn.execute("checkpoint")
