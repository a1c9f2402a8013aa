"""Tracks the topics that are paused by consecutive rejections (an open circuit breaker), and when to probe them."""

import time
from collections.abc import Collection
from contextlib import suppress

import psycopg
import structlog

from service.postgres.pool import Database
from service.runtime.health import Health
from service.store import quarantine

PROBE_SECONDS = 60.0
"""Pause between two probes of the paused topics."""

_log = structlog.get_logger(__name__)


class PausedTopics:
    """The topics that are paused, as far as this pod knows."""

    def __init__(self, database: Database, health: Health) -> None:
        self.names: frozenset[str] = frozenset()
        self._database = database
        self._health = health
        self._probed = time.monotonic()

    def update(self, paused: Collection[str]) -> None:
        """Set the paused topics. Logs the changes, and reports them to the health endpoints."""
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
        """While a topic is paused, read from the database whether an operator or another pod has ended the pause."""
        if not self.names:
            return
        with suppress(psycopg.Error):  # the intake reports a database that is unavailable
            async with self._database.transaction() as conn:
                known = await quarantine.read_topic_rejections(conn)
            self.update({topic for topic, counter in known.items() if counter.paused})

    def is_probe_due(self) -> bool:
        """Return whether to probe the paused topics now."""
        return bool(self.names) and time.monotonic() - self._probed >= PROBE_SECONDS

    def probed(self) -> None:
        """Remember the time of a probe."""
        self._probed = time.monotonic()
