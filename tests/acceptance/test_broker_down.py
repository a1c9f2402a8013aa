"""Tests that ops.health names a broker that is down: pods report it into the database."""

from pathlib import Path

import psycopg
import pytest

from deploy.servers.brokers import PARTITIONS, Broker
from deploy.servers.pods import pods, until
from service.domain.topics import INCOMING_TOPICS


@pytest.mark.timeout(180)
async def test_ops_health_says_which_pods_cannot_reach_the_broker_and_since_when(
    tmp_path: Path, app_url: str, database_url: str, kafka: Broker
) -> None:
    settings = {"ELS_DATABASE_URL": app_url, **kafka.settings}
    with (
        pods(tmp_path, settings) as started,
        psycopg.connect(database_url, autocommit=True) as conn,
    ):

        async def health() -> tuple[list[str], list[str]]:
            (found,) = conn.execute("select action_kinds, actions from ops.health").fetchall()
            return found

        async def are_alive() -> bool:
            (found,) = conn.execute(
                "select sum(partitions), count(*), bool_and(errors = '{}') from ops.pods"
            ).fetchall()
            return found == (PARTITIONS * len(INCOMING_TOPICS), 2, True)

        started.start(2)
        await started.ready()
        assert (await health())[0] == []
        await until(are_alive, 30, lambda: str(conn.execute("table ops.pods").fetchall()))

        kafka.kill()

        async def is_named() -> bool:
            kinds, actions = await health()
            return kinds[:1] == ["broker"] and actions[0].startswith("2 of 2 pods cannot reach the broker since 20")

        await until(is_named, 60, lambda: str(conn.execute("select attention from ops.health").fetchall()))
        kinds, actions = await health()
        assert "pods" not in kinds
        assert actions[0].endswith("ops.pods (docs/operations.md#broker-down)")

        if kafka.keeps_records:
            kafka.start()

            async def is_over() -> bool:
                return conn.execute("select level from ops.health").fetchone() == ("fine",)

            await until(is_over, 90, lambda: str(conn.execute("select attention from ops.health").fetchall()))
            await until(are_alive, 30, lambda: str(conn.execute("table ops.pods").fetchall()))

        assert await started.stop() == [0, 0]
        assert conn.execute("select count(*) from ops.pods").fetchone() == (0,)
        assert (await health())[0] == ["consumers", "relays"]
