"""Serves /healthz, /readyz and /metrics over HTTP, and other applications under their own paths.

Whoever reaches the port may send anything. The number of connections is bounded, and one that has asked for nothing
gives way to others, so that the probes are answered. Bad requests are counted, and logged without their content.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog
from aiohttp import web, web_response
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler
from prometheus_client import CONTENT_TYPE_LATEST

from service.domain.cells import ALL_BATCHES, Slice
from service.runtime import metrics
from service.runtime.health import Health
from service.runtime.loop import Throttle

STOP_SECONDS = 2.0
"""Time that a stop waits for running requests, in seconds."""
MOST_CONNECTIONS: Final = 100
FIRST_REQUEST_SECONDS: Final = 10.0
"""A connection is closed that has sent no whole request after so many seconds."""
KEEPALIVE_SECONDS: Final = 15.0
"""A connection is closed that sends no further request for so many seconds."""

_HEADERS: Final = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}

_log = structlog.get_logger(__name__)

web_response.__dict__["SERVER_SOFTWARE"] = (
    "els"  # what aiohttp puts into the header Server: strangers learn no versions
)


class Http:
    """Serves the HTTP endpoints of one process, from `start` to `close`."""

    def __init__(
        self,
        host: str,
        port: int,
        health: Health,
        refresh: Callable[[], Awaitable[None]],
        applications: Mapping[str, web.Application] | None = None,
        of: Slice = ALL_BATCHES,
    ) -> None:
        """`refresh` updates `health`; it is awaited at each /readyz and /metrics.

        `applications` are served too, each under its path.
        """
        self._host, self._port = host, port
        self._health = health
        self._refresh = refresh
        self._slice = of
        self._silent: deque[web.RequestHandler] = deque()
        """The connections without a request yet, the oldest first."""
        self._listening: asyncio.Server | None = None
        app = web.Application(middlewares=[self._note_request])
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        for path, application in (applications or {}).items():
            app.add_subapp(path, application)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=STOP_SECONDS,
            keepalive_timeout=KEEPALIVE_SECONDS,
            logger=_errors_of_requests(),
        )

    async def start(self) -> None:
        """Start listening. Raises OSError if the address cannot be used."""
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._connected, self._host, self._port)

    async def close(self) -> None:
        """Stop listening. Waits up to `STOP_SECONDS` for running requests."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """Returns the port that the server listens on; 0 before `start`."""
        return int(self._listening.sockets[0].getsockname()[1]) if self._listening else 0

    # -- connections

    def _connected(self) -> asyncio.BaseProtocol:
        """Make the protocol of a new connection."""
        server = self._runner.server
        assert server is not None  # noqa: S101  `start` has set it up
        if len(server.connections) >= MOST_CONNECTIONS:
            if not self._silent:
                return _Refused()
            self._close(self._silent[0])
        connection = server()
        self._silent.append(connection)
        asyncio.get_running_loop().call_later(FIRST_REQUEST_SECONDS, self._close, connection)
        return connection

    def _close(self, connection: "web.RequestHandler") -> None:
        """Close a connection that has sent no whole request."""
        if connection in self._silent:
            self._silent.remove(connection)
            if connection.transport is not None:
                connection.transport.abort()

    @web.middleware
    async def _note_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.protocol in self._silent:
            self._silent.remove(request.protocol)
        return await handler(request)

    # -- endpoints

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        await self._refresh()
        parts = {part: error or "ok" for part, error in self._health.parts.items()}
        ready = self._health.ready
        cell = {} if self._slice.is_all else self._slice._asdict()
        return web.json_response(
            {"status": "ready" if ready else "not ready", **cell, "parts": parts}, status=200 if ready else 503
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        await self._refresh()
        return web.Response(
            body=metrics.exposition(None if self._slice.is_all else self._slice.cell),
            headers={"Content-Type": CONTENT_TYPE_LATEST},
        )


class _Refused(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        metrics.HTTP_REJECTED.labels("connections").inc()
        transport.close()


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


class _BadRequests(logging.Filter):
    """Counts the requests that are no HTTP, and logs one of them now and then instead of a traceback for each."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        metrics.HTTP_REJECTED.labels("malformed").inc()
        if self._throttle.due():
            _log.warning("http_requests_malformed", error=type(error).__name__)
        return False


def _errors_of_requests() -> logging.Logger:
    logger = logging.getLogger("service.http.requests")
    if not logger.filters:
        logger.addFilter(_BadRequests())
    return logger
