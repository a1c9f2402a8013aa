"""Tests pods in the database environments that users have: poolers, standbys, locks of others."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.servers.brokers import Broker
from deploy.servers.pods import Pod, pods, until
from deploy.servers.standby import standby_of
from service.postgres import migration
from service.postgres.session import APPLICATION_NAME
from tests.support.builders import replay
from tests.support.builders.replay import Replay
from tests.support.checks.audited import check_audit
from tests.support.checks.expected import all_done, check_tables, check_topics
from tests.support.selection import partly_in_test_all
from tests.support.servers.proxy import Proxy

Pooling = Callable[..., AbstractContextManager[str]]

REPORTED_SECONDS = 15
"""SPEC, section 5: what keeps a pod from working is reported within so many seconds."""


async def reported(pod: Pod, *texts: str) -> None:
    """Waits until /readyz contains the texts."""
    last = ""

    async def is_reported() -> bool:
        nonlocal last
        _, last = await asyncio.to_thread(pod.readiness)
        return all(text in last for text in texts)

    await until(is_reported, REPORTED_SECONDS, lambda: f"{last}, and not {texts}")


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_the_morning_behind_a_pooler(
    tmp_path: Path, database_url: str, pgbouncer: Pooling, tansu: Broker, group: str, mode: str
) -> None:
    morning = Replay(tansu, replay.morning())
    with pgbouncer(database_url, mode) as url:
        settings = {"ELS_DATABASE_URL": url, "ELS_DATABASE_POOLER": mode, "ELS_CONSUMER_GROUP": group}
        with pods(tmp_path, settings, tansu.settings) as running:
            running.start(2)
            await running.ready()
            await morning.run()
            await all_done(database_url, tansu, group, morning.ends)
            assert await running.stop() == [0, 0]
            assert running.complaints() == []
    await check_tables(database_url)
    await check_topics(database_url, tansu, morning._records)
    await check_audit(database_url, tansu, group)


async def test_a_pod_warns_of_too_few_connections_when_it_starts(
    tmp_path: Path, app_url: str, tansu: Broker, group: str
) -> None:
    settings = {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": group, "ELS_MAX_PODS": "1000"}
    with pods(tmp_path, settings, tansu.settings) as running:
        (pod,) = running.start()
        await running.ready()
        (warning,) = [entry for entry in pod.logged() if entry["event"] == "connections_too_few"]
    assert "and should be 9010" in warning["error"]


async def test_a_table_that_somebody_locks_is_reported(
    tmp_path: Path, app_url: str, database_url: str, tansu: Broker, group: str
) -> None:
    morning = Replay(tansu, replay.morning(), speed=60)
    with pods(tmp_path, {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": group}, tansu.settings) as running:
        (pod,) = running.start()
        await running.ready()
        coming = asyncio.create_task(morning.run())
        await until(lambda: morning.published >= 600, 60, lambda: f"only {morning.published} are published")
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("lock table els.slots")
            await reported(pod, f"AccessExclusiveLock on els.slots by process {other.info.backend_pid} ")
            await other.rollback()
        await coming
        await all_done(database_url, tansu, group, morning.ends)
        await pod.ready(REPORTED_SECONDS)
    await check_tables(database_url)
    await check_topics(database_url, tansu, morning._records)


ANYONE = "?target_session_attrs=any"
SESSIONS = "select count(*) from pg_stat_activity where application_name = %s"


def sessions(server: Postgres) -> int:
    with psycopg.connect(server.url(), autocommit=True) as conn:
        (count,) = conn.execute(SESSIONS, [APPLICATION_NAME]).fetchone() or (0,)
        return int(count)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "attributes", partly_in_test_all(["", ANYONE], {ANYONE}, "a name that leads to a standby, which libpq uses")
)
async def test_a_name_that_leads_to_a_standby_for_a_while(
    tmp_path: Path, durable_postgres: Postgres, tansu: Broker, group: str, attributes: str
) -> None:
    """Without traffic. With the second URL, libpq opens sessions on a standby."""
    primary = durable_postgres
    migration.upgrade(primary.url())
    with standby_of(primary) as standby:
        proxy = await Proxy(primary.port).start()
        url = primary.url().replace(f":{primary.port}/", f":{proxy.port}/") + attributes
        try:
            with pods(tmp_path, {"ELS_DATABASE_URL": url, "ELS_CONSUMER_GROUP": group}, tansu.settings) as running:
                (pod,) = running.start()
                await running.ready()
                proxy.point_to(standby.port)
                proxy.cut()
                await reported(pod, "the server is a standby")
                proxy.point_to(primary.port)
                await pod.ready(REPORTED_SECONDS)
                await until(lambda: sessions(standby) == 0, REPORTED_SECONDS, lambda: "sessions stay on the standby")
                assert sessions(primary) > 0
        finally:
            await proxy.stop()
