"""Tests the gauges of the database: they match ops.health, a scrape reads nothing, and unknown values are left out."""

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

# Section 6 of the specification and more. Dashboards depend on these names and labels.
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


async def read_once(gauges: Gauges) -> dict[str, float]:
    """Run each query once. Returns the exported gauges."""
    for query in gauges.queries:
        await gauges.read(query)
    samples = scraped(gauges)
    return {name: samples[name][NO_LABELS] for name in [*HEALTH, *VIOLATIONS] if name in samples}


@contextmanager
def unavailable(url: str) -> Iterator[None]:
    """Make the database refuse all connections."""
    name = str(conninfo_to_dict(url)["dbname"])
    with psycopg.connect(url, dbname="postgres", autocommit=True) as server:
        server.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name)))
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        yield
        server.execute(sql.SQL("alter database {} allow_connections true").format(sql.Identifier(name)))


@pytest.mark.parametrize("name", METRICS)
def test_names_and_labels_of_metrics_do_not_change(name: str) -> None:
    assert vars(REGISTRY._names_to_collectors[name])["_labelnames"] == METRICS[name]


async def test_the_gauges_are_the_numbers_of_health(gauges: Gauges, database_url: str) -> None:
    assert set(GAUGES) <= set(HEALTH)
    # No pod consumes, and none publishes.
    assert await read_once(gauges) == dict.fromkeys([*HEALTH, *VIOLATIONS], 0.0) | {"els_health_actions": 2.0}
    with psycopg.connect(database_url) as conn:
        conn.execute("insert into els.notices (kind, detail) values ('servers', 'the database moved')")
        conn.execute(
            "insert into els.outbox_pages (batch_id, topics, events, created_at)"
            """ values ('b', '{"topic": 2, "other": 1}', '', now() - interval '1 minute')"""
        )
        conn.execute("insert into els.topic_refusals values ('topic', 1000, now())")
    values = await read_once(gauges)
    assert (values["els_outbox_pending"], values["els_topics_paused"], values["els_pending_content"]) == (3, 1, 0)
    assert 60 <= values["els_outbox_oldest_seconds"] < 120
    assert (values["els_health_actions"], values["els_health_notices"]) == (4, 1)
    assert scraped(gauges)["els_topics_stopped"][NO_LABELS] == 1, "the former name"


async def test_what_operators_ended_in_a_day_is_counted(gauges: Gauges, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        for action, hours in (("close", 1), ("close", 23), ("close", 25), ("cancel", 2), ("cancel", 48)):
            conn.execute(
                "insert into els.operator_actions (at, who, action, batch_id, why)"
                " values (now() - make_interval(hours => %s), 'me', 'batches ' || %s::text, 'b', '')",
                [hours, action],
            )
    values = await read_once(gauges)
    assert (values["els_batches_closed_last_day"], values["els_batches_cancelled_last_day"]) == (2, 1)


async def test_gauges_are_left_out_while_the_database_is_unavailable(gauges: Gauges, database_url: str) -> None:
    assert await read_once(gauges)
    with unavailable(database_url):
        assert await read_once(gauges) == {}
        assert scraped(gauges)["els_build_info"]
    assert await read_once(gauges)


async def test_old_values_are_left_out(gauges: Gauges) -> None:
    query, _ = gauges.queries
    await gauges.read(query)
    assert query.current()
    query.valid_until = 0
    assert "els_pending_content" not in scraped(gauges)


async def test_a_scrape_reads_nothing_from_the_database(gauges: Gauges, database_url: str) -> None:
    with unavailable(database_url):
        assert set(scraped(gauges)) == {"els_build_info", "els_part_healthy", "els_part_well"}


def test_slow_queries_run_less_often() -> None:
    query = GaugeQuery("read_health", HEALTH, every=5, rest=20)
    assert query.pause(took=0.01) == 5
    assert query.pause(took=3) == 60


async def test_parts_and_build_are_exported(gauges: Gauges) -> None:
    gauges._health.set_error("consumer", "no word from the broker")
    gauges._health.set_healthy("database")
    samples = scraped(gauges)
    parts = {frozenset({("part", "consumer")}): 0, frozenset({("part", "database")}): 1}
    assert samples["els_part_healthy"] == samples["els_part_well"] == parts
    (build,) = samples["els_build_info"]
    assert (dict(build)["version"], dict(build)["schema"]) == (__version__, EXPECTED_REVISION)


async def test_gauges_are_in_the_registry_while_they_are_read(gauges: Gauges) -> None:
    registry = CollectorRegistry()
    watching = asyncio.create_task(gauges.watch(registry))
    while b"els_pending_content " not in generate_latest(registry):
        await asyncio.sleep(0.01)
        assert not watching.done()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert generate_latest(registry) == b""


def test_every_metric_has_our_prefix_and_no_label_for_a_batch() -> None:
    ours = {name: each for name, each in vars(telemetry).items() if hasattr(each, "_labelnames")}
    assert ours
    for each in ours.values():
        assert each._name.startswith("els_")
        assert not {"batch_id", "text_storage_id", "correlation_id"} & set(each._labelnames)
