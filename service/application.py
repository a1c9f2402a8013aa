"""Runs one process of the service: starts its parts, watches them, and stops them in order."""

import asyncio
import ctypes
import errno
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import psycopg
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError

from service import wiring
from service.environment import check_environment
from service.http.gauges import Gauges
from service.http.pod_reports import PodReports
from service.http.server import Http
from service.intake import reporting as intake_reporting
from service.intake.outcome import Effects
from service.kafka import topics
from service.kafka.errors import describe
from service.postgres.fence import slice_error
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION, schema_error
from service.postgres.server import connections_error, planner_error, pooler_error, server_error, timeouts_error
from service.postgres.watch import DatabaseWatch
from service.purge import reporting as purge_reporting
from service.purge.clocks import Clocks
from service.purge.policy import Chunk
from service.purge.purge import purge_once
from service.runtime import metrics
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.runtime.loop import Backoff, Loop, cancelled, watch_blocking
from service.runtime.tokens import Denials
from service.settings import Settings
from service.store.pods import Backlog

if TYPE_CHECKING:
    from service.wiring import ConsoleParts

ROLES: Final = ("consumer", "relay", "purge", "console")
"""The roles of a process; by default it has all of them."""

HANGING_THREAD_SECONDS: Final = 5.0
"""How long the end of the process waits for threads that still unpack or decode a record, which may never end."""

BROKER_ANSWER_SECONDS: Final = 3.0
"""A pod that is not ready reports a broker that takes longer to answer as one that cannot be reached."""

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
"""Parameters of glibc's mallopt(3)."""
_LARGE_BLOCK: Final = 4 * 1024 * 1024

_log = structlog.get_logger(__name__)


class NotReady(Exception):
    """A dependency does not meet the needs of the service at the start. The message is one line."""


async def run(settings: Settings, roles: Sequence[str], *, replay: bool = False) -> None:
    """Run the parts of the given roles until SIGTERM or SIGINT, then drain. A replay reads all inputs once more.

    Raises NotReady if, at the start, the database or the broker is unavailable, the server is of no use (its version,
    the encoding of the database, a standby, read-only, another pooler than the setting says), the schema has another
    revision than the code needs, the database holds another slice of the batches, or the HTTP address cannot be used.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    collect_rarely()
    return_memory()
    executor = ThreadPoolExecutor(thread_name_prefix="records")
    asyncio.get_running_loop().set_default_executor(executor)
    database = wiring.open_database(settings)
    try:
        await _check_server(settings)
        await _check_schema(database)
        await _check_sessions(settings, database)
        if error := await _broker_error(settings):
            raise NotReady(error)
        await _Process(settings, database, roles, stop, replay=replay).run()
    finally:
        await database.close()
        _end_threads(executor)


def _end_threads(executor: ThreadPoolExecutor) -> None:
    """Wait for the threads, or end the process here: Python would wait for a thread that hangs without a limit."""
    ending = threading.Thread(target=executor.shutdown, daemon=True)
    ending.start()
    ending.join(HANGING_THREAD_SECONDS)
    if ending.is_alive():
        _log.error("thread_hangs", seconds=HANGING_THREAD_SECONDS)
        sys.stdout.flush()
        os._exit(1)


def return_memory() -> None:
    """Let the C library give large blocks back to the system, and keep few pools, where it is glibc.

    By default it keeps each block that was freed once, in each thread: after a few large records, a process would hold
    several times what it needs.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BLOCK)
        mallopt(_M_ARENA_MAX, 2)


def collect_rarely() -> None:
    """Exempt imported objects from garbage collection, and run the collector rarely.

    Reference counts free the many small objects of a poll; with Python's defaults, each poll would run the collector
    15 times.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _check_server(settings: Settings) -> None:
    url = settings.database_url.get_secret_value()
    try:
        error = await server_error(url) or await pooler_error(url, settings.database_pooler)
    except psycopg.Error as unavailable:
        error = one_line(unavailable)
    if error:
        raise NotReady(f"ELS_DATABASE_URL: {error}")


async def _check_schema(database: Database) -> None:
    try:
        error = await schema_error(database) or await slice_error(database)
    except psycopg.Error as unavailable:
        raise NotReady(f"ELS_DATABASE_URL: {one_line(unavailable)}") from None
    if error:
        raise NotReady(error)


async def _check_sessions(settings: Settings, database: Database) -> None:
    """Only warn: the pods may work for long with fewer sessions, and without the settings that a pooler has dropped."""
    with suppress(psycopg.Error):
        pods, cells = wiring.sessions_of_pods(settings), wiring.cells_on_server(settings)
        if error := await connections_error(database, pods, wiring.SPARE_SESSIONS, cells):
            _log.warning("connections_too_few", error=error)
        if error := await timeouts_error(database) or await planner_error(database):
            _log.warning("session_settings_missing", error=error)


async def _broker_error(settings: Settings, seconds: float | None = None) -> str | None:
    """Try to reach a broker, for some seconds at most. Returns why none can be reached."""
    try:
        async with asyncio.timeout(seconds):
            await topics.reach(wiring.kafka_options(settings))
    except (KafkaError, OSError) as error:  # a timeout is an OSError
        late = seconds is not None and isinstance(error, TimeoutError)
        return f"no broker answers within {seconds:.0f} s" if late else wiring.broker_error(error)
    return None


class _Process:
    """Owns the parts of one process."""

    def __init__(
        self, settings: Settings, database: Database, roles: Sequence[str], stop: asyncio.Event, *, replay: bool
    ) -> None:
        self._settings = settings
        self._database = database
        self._stop = stop
        # A failing purge is retried and does not make the process unready, nor does what only people look at.
        self._health = Health("database", *(role for role in roles if role not in ("purge", "console")))
        self._purging = self._purge_loop() if "purge" in roles else None
        self._database_watch = DatabaseWatch(database, settings.database_url.get_secret_value(), self._health)
        self._gauges = Gauges(database, self._health)
        self._admin_database = wiring.open_database(settings, sessions=wiring.ADMIN_SESSIONS)
        self._console: ConsoleParts | None = None
        self._reports = PodReports(
            database,
            ["replay"] if replay else roles,
            self._errors,
            partial(_broker_error, settings, BROKER_ANSWER_SECONDS),
            self._backlog,
        )
        parts = self._health, self._check_relay, self._applications(roles)
        self._http = Http(settings.http_host, settings.http_port, *parts, settings.slice)
        self._relay = wiring.relay_of(settings, database) if "relay" in roles else None
        consume = partial(wiring.consumer_of, settings, database, self._health, self._intake_committed, replay=replay)
        self._consumer = consume() if "consumer" in roles else None

    def _applications(self, roles: Sequence[str]) -> Mapping[str, web.Application]:
        """Build the applications under /admin/ and /console/. Returns nothing if no token is set.

        Their modules are imported here, which saves their memory in pods without a token.
        """
        tokens = wiring.tokens_of(self._settings)
        if tokens is None:
            return {}
        from service.http import admin  # noqa: PLC0415

        operations, denials = wiring.operations_of(self._settings, self._admin_database), Denials()
        applications = {"/admin/": admin.application(operations, tokens, denials)}
        if "console" in roles:
            check = partial(check_environment, self._settings)
            parts = wiring.console_parts(self._settings, operations, self._admin_database, self._gauges.health, check)
            applications["/console/"] = wiring.console_of(self._settings, parts, tokens, denials)
            self._console = parts
        return applications

    # -- reports after a commit

    async def _intake_committed(self, effects: Effects) -> None:
        if effects.published and self._relay:
            self._relay.wake()
        await intake_reporting.report(effects)

    def _purge_committed(self, chunk: Chunk) -> None:
        if chunk.published and self._relay:
            self._relay.wake()
        purge_reporting.report(chunk)

    # -- start and stop

    async def run(self) -> None:
        """Run all parts until the stop. The relay stops last, to publish what the others commit while they drain."""
        await self._listen()
        _log.info("started", port=self._http.port, schema=EXPECTED_REVISION)
        stop, consumed = self._stop, asyncio.Event()
        watching = asyncio.gather(
            self._database_watch.run(),
            self._gauges.watch(),
            self._reports.run(),
            watch_blocking(metrics.LOOP_BLOCKED.set),
            *([self._console.samples.watch()] if self._console else []),
        )
        relaying = asyncio.create_task(self._relay_until(consumed))
        purging = asyncio.create_task(self._purge_until(stop))
        try:
            if self._consumer:
                await run_until_stopped("consumer", self._consumer.run, stop, self._health)
            await stop.wait()
        finally:
            stop.set()
            await asyncio.gather(purging, return_exceptions=True)
            consumed.set()
            await asyncio.gather(relaying, return_exceptions=True)
            await cancelled([watching])
            await self._reports.leave()
            await self._http.close()
            await asyncio.gather(self._admin_database.close(), *([self._console.close()] if self._console else []))
            _log.info("stopped")

    async def _listen(self) -> None:
        try:
            await self._http.start()
        except OSError as error:
            setting = "HOST" if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL else "PORT"
            raise NotReady(f"ELS_HTTP_{setting}: {one_line(error)}") from None

    async def _relay_until(self, stop: asyncio.Event) -> None:
        if self._relay:
            await run_until_stopped("relay", self._relay.run, stop, self._health)

    async def _purge_until(self, stop: asyncio.Event) -> None:
        if self._purging:
            await self._purging.run(stop)

    def _purge_loop(self) -> Loop:
        """Make the loop that runs a purge round every interval. All pods do; a lock lets one pod at a time work."""
        policy, clocks = wiring.retention_policy(self._settings), Clocks()

        async def step() -> bool:
            if not await clocks.may_purge(self._database):
                return False
            await purge_once(self._database, policy, committed=self._purge_committed, stopped=self._stop.is_set)
            return False

        return Loop("purge", step, every=self._settings.purge_interval_seconds)

    # -- health

    async def _check_relay(self) -> None:
        if self._relay:
            self._health.report("relay", self._relay.error)

    async def _errors(self) -> Mapping[str, str | None]:
        """Return the error of each part, the purge included."""
        await self._check_relay()
        return dict(self._health.parts) | ({"purge": self._purging.error} if self._purging else {})

    def _backlog(self) -> Backlog | None:
        return self._consumer.watchdog.backlog if self._consumer else None


async def run_until_stopped(
    name: str, part: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event, health: Health
) -> None:
    """Run a part until `stop`. If it fails, report the error and run it again, with backoff."""
    backoff = Backoff(first=0.5, longest=5)
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        try:
            await part(stop)
        except Exception as error:  # noqa: BLE001  a part is run again after any error
            health.set_error(name, describe(error))
            _log.error("part_failed", part=name, error=describe(error), exc_info=not _is_of_a_dependency(error))
            if asyncio.get_running_loop().time() - started > 60:
                backoff.failures = 0
            await asyncio.wait([stopping], timeout=backoff.pause())
    stopping.cancel()


def _is_of_a_dependency(error: Exception) -> bool:
    """Returns whether a dependency failed. Any other error is a bug, and is logged with its traceback."""
    return isinstance(error, psycopg.Error | OSError) or type(error).__module__.startswith("aiokafka")
