"""Topics that are paused by consecutive rejections (an open circuit breaker), and probes that end the pause."""

import time
from collections.abc import Collection
from contextlib import suppress

import psycopg
import structlog

from service.postgres.pool import Database
from service.runtime.health import Health
from service.store import quarantine

PROBE_SECONDS = 60.0
"""Pause between two attempts with the next record of a paused topic."""

_log = structlog.get_logger(__name__)


class PausedTopics:
    """Which topics are paused, as far as this pod knows."""

    def __init__(self, database: Database, health: Health) -> None:
        self.names: frozenset[str] = frozenset()
        self._database = database
        self._health = health
        self._probed = time.monotonic()

    def update(self, paused: Collection[str]) -> None:
        """Take over what a transaction found. Logs and reports what has changed."""
        if self.names == set(paused):
            return
        if not self.names:
            self._probed = time.monotonic()
        for topic in set(paused) - self.names:
            _log.error("topic_paused", topic=topic, reason="consecutive rejections; see `quarantine resume`")
        for topic in self.names - set(paused):
            _log.warning("topic_resumed", topic=topic)
        self.names = frozenset(paused)
        if paused:
            self._health.set_error("topics", f"paused, consecutive rejections: {', '.join(sorted(paused))}")
        else:
            self._health.set_healthy("topics")

    async def refresh(self) -> None:
        """Ask the database, while a topic is paused, whether an operator or another pod has ended the pause."""
        if not self.names:
            return
        with suppress(psycopg.Error):  # the intake reports a database that is unavailable
            async with self._database.transaction() as conn:
                known = await quarantine.read_topic_rejections(conn)
            self.update({topic for topic, counter in known.items() if counter.paused})

    def is_probe_due(self) -> bool:
        """Whether the next record of the paused topics should be tried."""
        return bool(self.names) and time.monotonic() - self._probed >= PROBE_SECONDS

    def probed(self) -> None:
        """The next records were tried."""
        self._probed = time.monotonic()
