"""Serves /healthz, /readyz and /metrics over HTTP, and other applications under their own paths."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.runtime.health import Health

STOP_SECONDS = 2.0
"""Time that a stop waits for running requests, in seconds."""


class Http:
    """Serves the HTTP endpoints of one process, from `start` to `close`."""

    def __init__(
        self,
        host: str,
        port: int,
        health: Health,
        refresh: Callable[[], Awaitable[None]],
        applications: Mapping[str, web.Application] | None = None,
    ) -> None:
        """`refresh` updates `health`; it is awaited at each /readyz and /metrics.

        `applications` are served too, each under its path.
        """
        self._host, self._port = host, port
        self._health = health
        self._refresh = refresh
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        for path, application in (applications or {}).items():
            app.add_subapp(path, application)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_SECONDS)

    async def start(self) -> None:
        """Start listening. Raises OSError if the address cannot be used."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def close(self) -> None:
        """Stop listening. Waits up to `STOP_SECONDS` for running requests."""
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """Returns the port that the server listens on."""
        return int(self._runner.addresses[0][1])

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        await self._refresh()
        parts = {part: error or "ok" for part, error in self._health.parts.items()}
        ready = self._health.ready
        return web.json_response(
            {"status": "ready" if ready else "not ready", "parts": parts}, status=200 if ready else 503
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        await self._refresh()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
