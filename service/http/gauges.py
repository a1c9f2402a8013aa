"""What the database says of the whole, as gauges: each pod asks for itself, and tells the same as the others.

Nothing is asked while Prometheus scrapes: a scrape gets what was last seen. What could not be seen again, since the
database is away, is not told at all, so that nobody takes an old number for a new one. And no pod spends more than a
small share of its time on asking, however slow the answers come.
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
from service.postgres.statements import STATEMENTS
from service.runtime.errors import one_line
from service.runtime.health import Health

HEALTH: Final[Mapping[str, str]] = {
    "els_pending_content": "Contents that wait for a registration.",
    "els_pending_oldest_seconds": "How long the first of them has waited.",
    "els_pending_batches": "Batches that contents or validation failures wait for.",
    "els_expired_content_last_day": "Contents that expired in the last 24 hours and were not restored or reconciled.",
    "els_outbox_pending": "Events that are not published yet.",
    "els_outbox_oldest_seconds": "How long the first of them has waited.",
    "els_outbox_blocked_batches": "Batches whose next event could not be published.",
    "els_relays": "Pods that publish events.",
    "els_quarantine_open": "QuarantineFilter inputs that nobody has looked after.",
    "els_topics_stopped": "Input topics that are paused since they brought nothing but rejections.",
    "els_oldest_transaction_seconds": "Age of the oldest transaction in the database.",
}
"""In the order of the columns of read_health."""

VIOLATIONS: Final[Mapping[str, str]] = {
    "els_invariant_violations": "Rows of ops.invariant_violations; anything but 0 is a bug of ours.",
}


@dataclass(slots=True)
class GaugeQuery:
    """One statement that is asked again and again, at the given pace, in seconds."""

    statement: str
    gauges: Mapping[str, str]
    every: float
    rest: float
    """Times what the last one took: a share of the time that is bounded, however long one takes."""
    seen: dict[str, float] = field(default_factory=dict)
    until: float = 0.0
    """When what was seen is too old to be told, by the monotonic clock."""
    failing: bool = False

    def pause(self, took: float) -> float:
        """How long to rest after a look that took so long."""
        return max(self.every, self.rest * took)

    def current(self) -> Mapping[str, float]:
        """What was seen, as long as it is not too old."""
        return self.seen if time.monotonic() < self.until else {}


_log = structlog.get_logger(__name__)


class Gauges(Collector):
    """The numbers of the database, the parts of this process, and which build it is."""

    def __init__(self, database: Database, health: Health) -> None:
        self._database = database
        self._health = health
        self.queries = (
            GaugeQuery("read_health", HEALTH, every=5, rest=20),
            GaugeQuery("count_violations", VIOLATIONS, every=60, rest=100),
        )

    def collect(self) -> Iterable[Metric]:
        """What is known now; asks nobody."""
        yield _build_info()
        yield self._parts()
        for look in self.queries:
            for name, value in look.current().items():
                yield GaugeMetricFamily(name, look.gauges[name], value)

    async def watch(self, registry: CollectorRegistry = REGISTRY) -> None:
        """GaugeQuery until cancelled, and be in the registry meanwhile."""
        registry.register(self)
        try:
            await asyncio.gather(*(self._again_and_again(look) for look in self.queries))
        finally:
            registry.unregister(self)

    async def look(self, look: GaugeQuery) -> float:
        """Ask once. Returns for how many seconds to rest."""
        began = time.monotonic()
        try:
            async with self._database.transaction() as conn:
                await conn.execute(STATEMENTS["prepare_monitoring"])
                cursor = await conn.execute(STATEMENTS[look.statement])
                row = await cursor.fetchone()
        except psycopg.Error as error:
            self._failed(look, error)
            row = None
        ended = time.monotonic()
        pause = look.pause(ended - began)
        if row is not None:
            look.failing = False
            look.seen = dict(zip(look.gauges, map(float, row), strict=True))
            look.until = ended + 3 * pause
        return pause

    async def _again_and_again(self, look: GaugeQuery) -> None:
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            pause = await self.look(look)

    def _failed(self, look: GaugeQuery, error: psycopg.Error) -> None:
        """What was seen is forgotten; told once, however long it lasts."""
        look.until = 0.0
        if not look.failing:
            look.failing = True
            _log.warning("gauges_unknown", statement=look.statement, error=one_line(error))

    def _parts(self) -> Metric:
        family = GaugeMetricFamily("els_part_well", "Whether a part of this process is well, 1 or 0.", labels=["part"])
        for part, trouble in self._health.parts.items():
            family.add_metric([part], 0.0 if trouble else 1.0)
        return family


def _build_info() -> Metric:
    family = GaugeMetricFamily(
        "els_build_info", "Which build this is; always 1.", labels=["version", "schema", "python"]
    )
    family.add_metric([__version__, EXPECTED_REVISION, platform.python_version()], 1.0)
    return family
