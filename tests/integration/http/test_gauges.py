"""Gauges of the database: what ops.health says, told without asking, and not told when it can't be known."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from service import __version__
from service.http.gauges import HEALTH, VIOLATIONS, GaugeQuery, Gauges
from service.postgres.pool import Database
from service.postgres.schema import EXPECTED_REVISION
from service.runtime import metrics as telemetry
from service.runtime.health import Health
from tests.support.checks.metrics import Samples, parsed

NO_LABELS: frozenset[tuple[str, str]] = frozenset()

# Section 6 of the specification, and what is told besides; names and labels are what dashboards count on.
METRICS = {
    "els_pending_content_stored_total": (),
    "els_pending_content_reconciled_total": ("outcome",),
    "els_pending_content_age_seconds": (),
    "els_pending_content_expired_total": (),
    "els_excess_content_total": ("reason",),
    "els_slots_assigned_total": (),
    "els_batches_registered_total": (),
    "els_batches_ready_total": (),
    "els_quarantined_total": ("reason",),
    "els_duplicates_total": ("event",),
    "els_outbox_published_total": ("topic",),
    "els_event_to_publish_seconds": (),
    "els_batch_ready_seconds": (),
    "els_consumer_lag": ("topic", "partition"),
    "els_transaction_seconds": ("step",),
}
GAUGES = ("els_pending_content", "els_outbox_pending", "els_outbox_oldest_seconds")


@pytest.fixture
async def database(app_url: str) -> AsyncIterator[Database]:
    database = Database(app_url)
    yield database
    await database.close()


@pytest.fixture
def gauges(database: Database) -> Gauges:
    return Gauges(database, Health("database"))


def scraped(gauges: Gauges) -> Samples:
    registry = CollectorRegistry()
    registry.register(gauges)
    return parsed(generate_latest(registry).decode())


async def looked(gauges: Gauges) -> dict[str, float]:
    """What is told after one look of each kind."""
    for look in gauges.queries:
        await gauges.read(look)
    told = scraped(gauges)
    return {name: told[name][NO_LABELS] for name in [*HEALTH, *VIOLATIONS] if name in told}


@contextmanager
def away(url: str) -> Iterator[None]:
    """The database lets nobody in."""
    name = str(conninfo_to_dict(url)["dbname"])
    with psycopg.connect(url, dbname="postgres", autocommit=True) as server:
        server.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name)))
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        yield
        server.execute(sql.SQL("alter database {} allow_connections true").format(sql.Identifier(name)))


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_has_the_name_and_the_labels_that_the_outside_counts_on(name: str) -> None:
    assert vars(REGISTRY._names_to_collectors[name])["_labelnames"] == METRICS[name]


async def test_the_gauges_are_the_numbers_of_health(gauges: Gauges, database_url: str) -> None:
    assert set(GAUGES) <= set(HEALTH)
    assert await looked(gauges) == dict.fromkeys([*HEALTH, *VIOLATIONS], 0.0)
    with psycopg.connect(database_url) as conn:
        conn.execute(
            "insert into els.outbox (id, aggregateid, type, payload, correlation_id, created_at)"
            " select gen_random_uuid(), 'b', 'topic', '{}', gen_random_uuid(), now() - interval '1 minute'"
            " from generate_series(1, 3)"
        )
        conn.execute("insert into els.topic_refusals values ('topic', 1000, now())")
    told = await looked(gauges)
    assert (told["els_outbox_pending"], told["els_topics_paused"], told["els_pending_content"]) == (3, 1, 0)
    assert 60 <= told["els_outbox_oldest_seconds"] < 120


async def test_what_can_not_be_seen_again_is_not_told(gauges: Gauges, database_url: str) -> None:
    assert await looked(gauges)
    with away(database_url):
        assert await looked(gauges) == {}
        assert scraped(gauges)["els_build_info"]
    assert await looked(gauges)


async def test_what_was_seen_too_long_ago_is_not_told(gauges: Gauges) -> None:
    look, _ = gauges.queries
    await gauges.read(look)
    assert look.current()
    look.valid_until = 0
    assert "els_pending_content" not in scraped(gauges)


async def test_a_scrape_asks_the_database_nothing(gauges: Gauges, database_url: str) -> None:
    with away(database_url):
        assert set(scraped(gauges)) == {"els_build_info", "els_part_healthy"}


def test_slow_answers_are_asked_for_less_often() -> None:
    look = GaugeQuery("read_health", HEALTH, every=5, rest=20)
    assert look.pause(took=0.01) == 5
    assert look.pause(took=3) == 60


async def test_the_parts_and_the_build_are_told(gauges: Gauges) -> None:
    gauges._health.set_error("consumer", "no word from the broker")
    gauges._health.set_healthy("database")
    told = scraped(gauges)
    assert told["els_part_healthy"] == {frozenset({("part", "consumer")}): 0, frozenset({("part", "database")}): 1}
    (build,) = told["els_build_info"]
    assert (dict(build)["version"], dict(build)["schema"]) == (__version__, EXPECTED_REVISION)


async def test_gauges_are_in_the_registry_while_they_are_watched(gauges: Gauges) -> None:
    registry = CollectorRegistry()
    watching = asyncio.create_task(gauges.watch(registry))
    while b"els_pending_content " not in generate_latest(registry):
        await asyncio.sleep(0.01)
        assert not watching.done()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert generate_latest(registry) == b""


def test_every_metric_is_ours_and_has_no_label_for_a_batch() -> None:
    ours = {name: each for name, each in vars(telemetry).items() if hasattr(each, "_labelnames")}
    assert ours
    for each in ours.values():
        assert each._name.startswith("els_")
        assert not {"batch_id", "text_storage_id", "correlation_id"} & set(each._labelnames)
