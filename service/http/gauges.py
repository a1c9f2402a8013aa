"""Exports gauges that describe the database as a whole. Each pod reads them itself, and all pods report the same.

A scrape by Prometheus reads nothing: it gets the values of the last read. While the database is unavailable, the gauges
are not exported, so that old values are not taken for new ones. Each pod spends only a small share of its time on
reading, even if the database is slow.
"""

import asyncio
import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import psycopg
import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from service import __version__
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION
from service.runtime.errors import one_line
from service.runtime.health import Health
from service.store import monitoring
from service.store.monitoring import GaugeStatement

HEALTH: Final[Mapping[str, str]] = {
    "els_pending_content": "Contents that wait for a registration.",
    "els_pending_oldest_seconds": "How long the oldest pending content has waited.",
    "els_pending_batches": "Batches that contents or validation failures wait for.",
    "els_expired_content_last_day": "Contents that expired in the last 24 hours and were not restored or reconciled.",
    "els_outbox_pending": "Events that are not published yet.",
    "els_outbox_oldest_seconds": "How long the oldest unpublished event has waited.",
    "els_outbox_blocked_batches": "Batches whose next event could not be published.",
    "els_relays": "Pods that publish events.",
    "els_quarantine_open": "Rejected inputs (dead letters) that are still open.",
    "els_topics_paused": "Input topics that are paused by consecutive rejections.",
    "els_oldest_transaction_seconds": "Age of the oldest transaction in the database.",
    "els_database_behind_records": "Records that the database is behind its topics; at least 1 while it is behind.",
    "els_inputs_applied_age_seconds": "Age of the time up to which all input partitions are known to be applied.",
    "els_lost_inputs_open": "Losses of inputs that no operator has acknowledged.",
    "els_quarantine_bytes": "Bytes of the rejected inputs that were new within a day.",
    "els_held_back_transactions": "Transactions whose dead rows are kept for a standby or a replication slot.",
    "els_inactive_replication_slots": "Replication slots that nobody has used for 5 minutes.",
    "els_batches_unconfirmed": "Complete batches whose class was not confirmed in time; at most 1,000 are counted.",
    "els_health_actions": "Lines of ops.health that need an action.",
    "els_health_notices": "Notices of ops.health that no operator has acknowledged.",
    "els_batches_closed_last_day": "Batches closed in the last 24 hours, among the last 10,000 operator actions.",
    "els_batches_cancelled_last_day": "Batches cancelled in the last 24 hours, among the last 10,000 operator actions.",
}
"""Help texts of the gauges, in the order of the columns of read_health."""

VIOLATIONS: Final[Mapping[str, str]] = {
    "els_invariant_violations": "Rows of ops.invariant_violations; anything but 0 is a bug of the service.",
}

FORMER_NAMES: Final[Mapping[str, str]] = {
    "els_topics_paused": "els_topics_stopped",
    "els_part_healthy": "els_part_well",
}
"""Gauges that were renamed in 0.2.0. They are also exported under their old names until 0.3.0."""


@dataclass(slots=True)
class GaugeQuery:
    """Holds a statement that is run periodically, and its last values. Times are in seconds."""

    statement: GaugeStatement
    gauges: Mapping[str, str]
    every: float
    """Minimum pause between two reads."""
    rest: float
    """Minimum pause as a multiple of the duration of the last read: limits the share of time spent on reading."""
    values: dict[str, float] = field(default_factory=dict)
    valid_until: float = 0.0
    """Time of the monotonic clock after which the values are too old to be exported."""
    failing: bool = False

    def pause(self, took: float) -> float:
        """Returns the pause after a read that took `took` seconds."""
        return max(self.every, self.rest * took)

    def current(self) -> Mapping[str, float]:
        """Returns the values; nothing if they are too old."""
        return self.values if time.monotonic() < self.valid_until else {}


_log = structlog.get_logger(__name__)


class Gauges(Collector):
    """Collects the gauges of the database, the health of this process's parts, and the build information."""

    def __init__(self, database: Database, health: Health) -> None:
        self._database = database
        self._health = health
        self._reading = asyncio.Lock()
        self.queries = (
            GaugeQuery("read_health", HEALTH, every=5, rest=20),
            GaugeQuery("count_violations", VIOLATIONS, every=60, rest=100),
        )

    def collect(self) -> Iterable[Metric]:
        """Returns the gauges as they were read last. Runs no statement."""
        yield _build_info()
        for name in ("els_part_healthy", FORMER_NAMES["els_part_healthy"]):
            yield self._parts(name)
        for query in self.queries:
            for name, value in query.current().items():
                yield GaugeMetricFamily(name, query.gauges[name], value)
                if former := FORMER_NAMES.get(name):
                    yield GaugeMetricFamily(former, f"The former name of {name}.", value)

    def health(self) -> Mapping[str, float]:
        """Returns the numbers of ops.health as they were read last, by the name of the gauge; nothing if too old."""
        return self.queries[0].current()

    async def watch(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Read periodically until cancelled. The collector is in the registry for that time."""
        registry.register(self)
        try:
            await asyncio.gather(*(self._read_periodically(query) for query in self.queries))
        finally:
            registry.unregister(self)

    async def read(self, query: GaugeQuery) -> float:
        """Read the gauges of a statement once. Returns the pause before the next read, in seconds."""
        began = time.monotonic()
        values = None
        try:
            async with self._database.transaction() as conn:
                await monitoring.prepare_monitoring(conn)
                values = await monitoring.read_gauges(conn, query.statement)
        except psycopg.Error as error:
            self._failed(query, error)
        ended = time.monotonic()
        pause = query.pause(ended - began)
        if values is not None:
            query.failing = False
            query.values = dict(zip(query.gauges, values, strict=True))
            query.valid_until = ended + 3 * pause
        return pause

    async def _read_periodically(self, query: GaugeQuery) -> None:
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            async with self._reading:  # one session of the pool for both
                pause = await self.read(query)

    def _failed(self, query: GaugeQuery, error: psycopg.Error) -> None:
        """Drop the values. Logs the error once, however long it lasts."""
        query.valid_until = 0.0
        if not query.failing:
            query.failing = True
            _log.warning("gauges_unavailable", statement=query.statement, error=one_line(error))

    def _parts(self, name: str) -> Metric:
        family = GaugeMetricFamily(name, "Whether a part of this process is healthy, 1 or 0.", labels=["part"])
        for part, error in self._health.parts.items():
            family.add_metric([part], 0.0 if error else 1.0)
        return family


def _build_info() -> Metric:
    family = GaugeMetricFamily(
        "els_build_info", "Version of this build, in the labels; always 1.", labels=["version", "schema", "python"]
    )
    family.add_metric([__version__, EXPECTED_REVISION, platform.python_version()], 1.0)
    return family
