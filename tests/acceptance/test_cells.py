"""Cells replay the recorded morning: together, their tables and topics end as those of one database."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.servers import databases
from deploy.servers.brokers import Broker
from deploy.servers.pods import Pods, pods
from tests.support.builders import replay
from tests.support.builders.replay import Record, Replay
from tests.support.checks.cells import check_slices, copy_union
from tests.support.checks.expected import all_done, check_tables, check_topics
from tests.support.selection import partly_in_test_all

Cells = Callable[[int], Sequence[str]]


@pytest.fixture
def cells(server_url: str, template: str) -> Iterator[Cells]:
    """Gives the databases of so many cells, as superuser."""
    with ExitStack() as stack:

        def made(count: int) -> Sequence[str]:
            urls = [stack.enter_context(databases.cloned(server_url, template)) for _ in range(count)]
            for cell, url in enumerate(urls):
                with psycopg.connect(url) as conn:
                    conn.execute("update els.slice set cells = %s, cell = %s", [count, cell])
            return urls

        yield made


def start(running: Pods, urls: Sequence[str], each: int = 1) -> None:
    """Starts pods of each cell."""
    for cell, url in enumerate(urls):
        own = {"ELS_DATABASE_URL": databases.url_as(url, "els_app"), "ELS_CELLS": str(len(urls)), "ELS_CELL": str(cell)}
        running.start(each, **own)


async def check_union(
    urls: Sequence[str], union: str, kafka: Broker, group: str, morning: Replay, records: Sequence[Record]
) -> None:
    """Waits until all cells have reached the end, and checks them as if they were one."""
    for cell, url in enumerate(urls):
        await all_done(url, kafka, f"{group}.cell-{cell}-of-{len(urls)}", morning.ends)
    check_slices(urls)
    copy_union(urls, union)
    await check_tables(union)
    await check_topics(union, kafka, records)


@pytest.mark.parametrize("count", partly_in_test_all([2, 4], {4}, "the recorded morning on 4 cells"))
async def test_the_morning_on_several_cells_ends_as_on_one(
    tmp_path: Path,
    settings: dict[str, str],
    group: str,
    database_url: str,
    kafka: Broker,
    cells: Cells,
    count: int,
) -> None:
    urls, records = cells(count), replay.morning()
    morning = Replay(kafka, records)
    with pods(tmp_path, settings) as running:
        start(running, urls)
        await running.ready()
        await morning.run()
        await check_union(urls, database_url, kafka, group, morning, records)
        assert await running.stop() == [0] * count
        assert running.complaints() == []
    assert all(rows_of(url) for url in urls)


@pytest.mark.only_in_test_all("the recorded morning three times on several cells")
@pytest.mark.parametrize("count", [2, 4])
async def test_repeats_on_several_cells_add_nothing(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, cells: Cells, count: int
) -> None:
    """Each record twice, then all of them once more under new event ids; two pods of each cell."""
    urls, records = cells(count), replay.again_renewed(replay.each_twice(replay.morning()))
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings) as running:
        start(running, urls, 2)
        await check_union(urls, database_url, kafka, group, morning, records)
        assert await running.stop() == [0] * 2 * count


def rows_of(url: str) -> Any:
    with psycopg.connect(url) as conn:
        return conn.execute("select count(*) from els.batches").fetchall()[0][0]
