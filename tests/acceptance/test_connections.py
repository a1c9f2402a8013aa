"""Tests that connections that are cut, stalled or lost do no harm to the recorded morning; `make prove` does more."""

import asyncio
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.servers.brokers import Broker
from deploy.servers.pods import pods, until
from tests.support.builders import replay
from tests.support.builders.replay import Replay
from tests.support.checks.audited import check_audit
from tests.support.checks.expected import all_done, check_tables, check_topics
from tests.support.servers.proxy import Proxy, may_forget


async def cut(proxy: Proxy) -> None:
    for _ in range(5):
        proxy.cut()
        await asyncio.sleep(0.2)


async def stall(proxy: Proxy) -> None:
    proxy.stall()
    await asyncio.sleep(1)
    proxy.flow()


async def forget(proxy: Proxy) -> None:
    proxy.forget()


NOT_ALLOWED = pytest.mark.skipif(
    not may_forget(), reason="closing a connection without a packet needs the right to administer the network"
)


OTHERS = pytest.mark.only_in_test_all("connections that stand still or are forgotten")


@pytest.mark.parametrize(
    "fail", [cut, pytest.param(stall, marks=OTHERS), pytest.param(forget, marks=[OTHERS, NOT_ALLOWED])]
)
async def test_failing_connections_lose_and_add_nothing(
    tmp_path: Path, app_url: str, database_url: str, tansu: Broker, group: str, fail: object
) -> None:
    server = conninfo_to_dict(app_url)
    if str(server.get("host", "")).startswith("/"):
        pytest.skip("the database is not reached by TCP")
    proxy = await Proxy(int(str(server["port"]))).start()
    proxied = f"{app_url}&port={proxy.port}"
    morning = Replay(tansu, replay.morning(), speed=60)
    try:
        with pods(tmp_path, {"ELS_DATABASE_URL": proxied, "ELS_CONSUMER_GROUP": group}, tansu.settings) as running:
            running.start(2)
            await running.ready()
            coming = asyncio.create_task(morning.run())
            await until(lambda: morning.published >= 600, 60, lambda: f"only {morning.published} are published")
            await fail(proxy)  # type: ignore[operator]
            await coming
            await all_done(database_url, tansu, group, morning.ends)
            await check_tables(database_url)
            await check_topics(database_url, tansu, morning._records)
            await check_audit(database_url, tansu, group)
    finally:
        await proxy.stop()
