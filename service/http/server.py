"""/healthz, /readyz and /metrics, and what else is served beside them."""

from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.runtime.health import Health

STOP_SECONDS = 2.0
"""How long a stop waits for requests that are under way."""


class Http:
    """The endpoints of one process, for as long as it is started."""

    def __init__(
        self,
        host: str,
        port: int,
        health: Health,
        look: Callable[[], Awaitable[None]],
        beside: Mapping[str, web.Application] | None = None,
    ) -> None:
        """`look` refreshes what `health` can't know without asking; it is awaited at each /readyz and /metrics.

        `beside` answers below other paths.
        """
        self._host, self._port = host, port
        self._health = health
        self._look = look
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        for path, application in (beside or {}).items():
            app.add_subapp(path, application)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_SECONDS)

    async def start(self) -> None:
        """Listen. Raises OSError where the address is taken."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def close(self) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._runner.addresses[0][1])

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _: web.Request) -> web.Response:
        await self._look()
        parts = {part: trouble or "ok" for part, trouble in self._health.parts.items()}
        ready = self._health.ready
        return web.json_response(
            {"status": "ready" if ready else "not ready", "parts": parts}, status=200 if ready else 503
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        await self._look()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
