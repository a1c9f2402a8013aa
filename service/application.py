"""One process of the service: its parts, started together, watched, and stopped in order."""

import asyncio
import errno
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence

import psycopg
import structlog
from aiohttp import web
from aiokafka.errors import KafkaError

from service.consumer.consumer import Consumer
from service.http.gauges import Gauges
from service.http.server import Http
from service.intake import reporting as reporting_
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.kafka import topics as kafka
from service.kafka.group import ConsumerOptions
from service.operators.operations import Operations
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION
from service.purge import reporting
from service.purge.purge import Chunk, purge_once
from service.runtime import metrics as telemetry
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.runtime.loop import Backoff, Loop, cancelled
from service.settings import Settings
from service.wiring import (
    ADMIN_SESSIONS,
    broker_error,
    kafka_options,
    limits,
    max_bytes,
    open_database,
    relay_of,
    retention_policy,
)

ROLES = ("consumer", "relay", "purge")
"""What a process can be; by default it is all."""

CHECK_SECONDS = 1.0


_log = structlog.get_logger(__name__)


class NotReady(Exception):
    """The world is not as the service needs it; the message is one line."""


async def run(settings: Settings, roles: Sequence[str]) -> None:
    """Run the parts until SIGTERM or SIGINT, then drain.

    Raises NotReady where the database or the broker is away, the schema is not the expected one, or the address of
    the HTTP endpoints can't be had, at the start.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    collect_seldom()
    database = open_database(settings)
    try:
        await _check_schema(database)
        await _check_broker(settings)
        await _Process(settings, database, roles).run(stop)
    finally:
        await database.close()


def collect_seldom() -> None:
    """Have the garbage collector pass over what is imported, and come seldom: a poll's many small objects go by their
    reference counts, and started it 15 times.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _check_schema(database: Database) -> None:
    try:
        problem = await database.schema_error()
    except psycopg.Error as error:
        raise NotReady(f"ELS_DATABASE_URL: {one_line(error)}") from None
    if problem:
        raise NotReady(problem)


async def _check_broker(settings: Settings) -> None:
    try:
        await kafka.check_topics(kafka_options(settings), {})
    except (KafkaError, OSError) as error:
        raise NotReady(broker_error(error)) from None


class _Process:
    def __init__(self, settings: Settings, database: Database, roles: Sequence[str]) -> None:
        self._settings = settings
        self._database = database
        # A purge that fails is tried again, and keeps nobody from being served.
        self._health = Health("database", *(role for role in roles if role != "purge"))
        self._purges = "purge" in roles
        self._gauges = Gauges(database, self._health)
        self._admin = open_database(settings, sessions=ADMIN_SESSIONS)
        self._http = Http(settings.http_host, settings.http_port, self._health, self._check_relay, self._beside())
        self._relay = relay_of(settings, database) if "relay" in roles else None
        self._consumer = self._make_consumer() if "consumer" in roles else None

    def _beside(self) -> dict[str, web.Application]:
        """/admin/, where there is a token for it; else it is not there."""
        token = self._settings.admin_token
        if token is None or not token.get_secret_value().strip():
            return {}
        from service.http import admin  # noqa: PLC0415  a pod that nobody administers need not know how

        operations = Operations(self._admin, limits(self._settings), max_bytes(self._settings))
        return {"/admin/": admin.application(operations, token.get_secret_value())}

    def _make_consumer(self) -> Consumer:
        settings = self._settings
        return Consumer(
            kafka_options(settings),
            self._database,
            Intake(self._database, limits(settings), self._health, self._committed),
            self._health,
            ConsumerOptions(
                group=settings.consumer_group,
                max_poll_records=settings.max_poll_records,
                session_timeout=settings.session_timeout_seconds,
                rebalance_timeout=settings.rebalance_timeout_seconds,
                fetch_wait=settings.kafka_fetch_wait_ms / 1000,
                drain=settings.drain_seconds,
                watchdog=settings.watchdog_seconds,
                max_bytes=max_bytes(settings),
            ),
            lag=lambda tp, lag: telemetry.tell_lag(tp.topic, tp.partition, lag),
        )

    async def _committed(self, effects: Effects) -> None:
        if effects.published and self._relay:
            self._relay.wake()
        await reporting_.report(effects)

    async def _purge(self, stop: asyncio.Event) -> None:
        """A round every interval, in each pod; one pod at a time does the work."""
        if not self._purges:
            return

        async def step() -> bool:
            await purge_once(
                self._database, retention_policy(self._settings), committed=self._committed_purge, stopped=stop.is_set
            )
            return False

        await Loop("purge", step, every=self._settings.purge_interval_seconds).run(stop)

    def _committed_purge(self, chunk: Chunk) -> None:
        if chunk.published and self._relay:
            self._relay.wake()
        reporting.record_purge(chunk)

    async def run(self, stop: asyncio.Event) -> None:
        """All parts until `stop`: the relay ends last, so that it publishes what the others still commit."""
        await self._listen()
        _log.info("started", port=self._http.port, schema=EXPECTED_REVISION)
        consumed = asyncio.Event()
        watching = asyncio.gather(self._watch_database(), self._gauges.watch())
        relaying = asyncio.create_task(self._relay_until(consumed))
        purging = asyncio.create_task(self._purge(stop))
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
            await self._http.close()
            await self._admin.close()
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

    async def _watch_database(self) -> None:
        """Is the database there, at the revision that we need? The consumer and the relay find out by using it."""
        while True:
            try:
                problem = await self._database.schema_error()
            except Exception as error:  # noqa: BLE001  whatever it is, the next look may go well
                problem = one_line(error)
            if problem:
                self._health.set_error("database", problem)
            else:
                self._health.set_healthy("database")
            await asyncio.sleep(CHECK_SECONDS)

    async def _check_relay(self) -> None:
        if self._relay is None:
            return
        if problem := self._relay.error:
            self._health.set_error("relay", problem)
        else:
            self._health.set_healthy("relay")


async def run_until_stopped(
    name: str, part: Callable[[asyncio.Event], Awaitable[None]], stop: asyncio.Event, health: Health
) -> None:
    """Run a part; where it fails, say so and run it again, later each time."""
    backoff = Backoff(first=0.5, longest=5)
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        started = asyncio.get_running_loop().time()
        try:
            await part(stop)
        except Exception as error:  # noqa: BLE001  a part that fails is run again, whatever it was
            health.set_error(name, one_line(error))
            _log.error("part_failed", part=name, error=one_line(error), exc_info=not _is_of_the_environment(error))
            if asyncio.get_running_loop().time() - started > 60:
                backoff.failures = 0
            await asyncio.wait([stopping], timeout=backoff.pause())
    stopping.cancel()


def _is_of_the_environment(error: Exception) -> bool:
    """Trouble whose line says it all; anything else is ours, and is logged with its traceback."""
    return isinstance(error, psycopg.Error | OSError) or type(error).__module__.startswith("aiokafka")
