"""Pods that are set to another slice, or to the group of another cell, are refused in one line and change nothing."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from itertools import count, islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiokafka import AIOKafkaProducer

from deploy.servers import databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import Pod, Pods, pods, until
from service.domain.cells import cell_of
from service.domain.topics import CONTENT_PROVISIONED
from tests.support.builders.inputs import content
from tests.support.pods.command_line import CommandLine

Pooling = Callable[..., AbstractContextManager[str]]

OWN = {"ELS_CELLS": "2", "ELS_CELL": "1"}
REFUSAL = "the database holds {}, and this process is set to {} (ELS_CELLS, ELS_CELL)"
CHANGED = """
    select (select array_agg(p::text order by p) from els.progress as p),
        (select array_agg(text_storage_id order by text_storage_id) from els.pending_content)
"""


async def test_a_pod_and_its_database_must_have_the_same_slice(
    tmp_path: Path, app_url: str, database_url: str, tansu: Broker, group: str
) -> None:
    settings = {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": group}
    await check_the_fence(tmp_path, settings | tansu.settings, database_url, tansu)


@pytest.mark.parametrize("mode", ["session", "transaction"])
async def test_a_pod_behind_a_pooler_and_its_database_must_have_the_same_slice(
    tmp_path: Path, app_url: str, database_url: str, pgbouncer: Pooling, tansu: Broker, group: str, mode: str
) -> None:
    with pgbouncer(app_url, mode) as url:
        settings = {"ELS_DATABASE_URL": url, "ELS_DATABASE_POOLER": mode, "ELS_CONSUMER_GROUP": group}
        await check_the_fence(tmp_path, settings | tansu.settings, database_url, tansu)


async def check_the_fence(folder: Path, settings: Mapping[str, str], superuser: str, broker: Broker) -> None:
    """A pod works, its database gets another slice, and the old one again; then pods start with wrong slices."""
    own = list(islice((each for each in map("b{}".format, count()) if cell_of(each, 4) == 1), 4))
    with psycopg.connect(superuser, autocommit=True) as conn, pods(folder, settings) as running:

        def texts() -> Any:
            return conn.execute(CHANGED).fetchall()[0][1]

        conn.execute("update els.slice set cells = 2, cell = 1")
        (pod,) = running.start(1, **OWN)
        await pod.ready()
        await publish(broker, own[0])
        await until(lambda: texts() == [own[0]], 30, lambda: str(texts()))

        conn.execute("update els.slice set cells = 4, cell = 1")  # as a split does
        await shows(pod, REFUSAL.format("cell 1 of 4", "cell 1 of 2"))
        before = conn.execute(CHANGED).fetchall()
        await publish(broker, own[1])
        wrong = {"cell 0 of 2": OWN | {"ELS_CELL": "0"}, "cell 3 of 4": {"ELS_CELLS": "4", "ELS_CELL": "3"}}
        await end(running, "cell 1 of 4", wrong | {"all batches": {}})
        assert conn.execute(CHANGED).fetchall() == before
        assert "EL006" not in pod.readiness()[1]

        conn.execute("update els.slice set cells = 2, cell = 1")
        await pod.ready()
        await until(lambda: texts() == own[:2], 30, lambda: str(texts()))
        pod.terminate()
        assert await pod.ended() == 0
        conn.execute("update els.slice set cells = 1, cell = 0")
        await end(running, "all batches", {"cell 1 of 2": OWN})


async def publish(broker: Broker, batch_id: str) -> None:
    """Publishes content of a batch, whose text has the same name."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap_servers) as producer:
        await producer.send_and_wait(CONTENT_PROVISIONED, content(batch_id, batch_id), b"key")


async def shows(pod: Pod, error: str) -> None:
    """Waits until /readyz has this line."""
    await until(lambda: error in pod.readiness()[1], 30, lambda: pod.readiness()[1])


async def end(running: Pods, held: str, wrong: Mapping[str, Mapping[str, str]]) -> None:
    """Starts pods that are set to other slices than the database holds: each must end with one line."""
    started = {name: running.start(1, **settings)[0] for name, settings in wrong.items()}
    for name, pod in started.items():
        assert await pod.ended() == 1
        assert [entry["event"].strip() for entry in pod.logged()] == [REFUSAL.format(held, name)]


async def test_a_pod_with_the_group_of_another_cell_does_not_join_it(
    tmp_path: Path,
    server_url: str,
    template: str,
    database_url: str,
    app_url: str,
    tansu: Broker,
    group: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A service without cells takes the name of a cell's group: that cell goes on."""
    settings = {"ELS_DATABASE_URL": app_url, "ELS_CONSUMER_GROUP": group, **tansu.settings}
    foreign = {"ELS_CONSUMER_GROUP": f"{group}.cell-1-of-2"}
    error = f"ELS_CONSUMER_GROUP: the group '{group}.cell-1-of-2' is that of cell 1 of 2, and this is all batches"
    with databases.cloned(server_url, template) as other, pods(tmp_path, settings) as running:
        with psycopg.connect(database_url) as conn:
            conn.execute("update els.slice set cells = 2, cell = 1")
        (pod,) = running.start(1, **OWN)
        await pod.ready()
        url = {"ELS_DATABASE_URL": databases.url_as(other, "els_app")}
        (outsider,) = running.start(1, **url, **foreign)
        await shows(outsider, error)
        assert sum(entry["event"] == "partitions_assigned" for entry in pod.logged()) == 1
        assert pod.readiness()[0]
        service = CommandLine(tmp_path, monkeypatch, capfd, settings | url)
        checked = await asyncio.to_thread(service, "check", "--json", **foreign)
        rows = {row["check"]: row for row in checked.json}
        assert (rows["group"]["ok"], rows["group"]["told"]) == (False, error)
        assert await running.stop() == [0, 0]
