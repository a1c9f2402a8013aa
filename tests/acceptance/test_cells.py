"""Cells replay the recorded morning: together, their tables and topics end as those of one database."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from deploy.servers import databases
from deploy.servers.brokers import Broker, committed_offsets
from deploy.servers.pods import Pods, pods
from service.domain.cells import slices_at
from tests.support.builders import replay
from tests.support.builders.replay import Record, Replay
from tests.support.checks.audited import audited_cells
from tests.support.checks.cells import check_slices, copy_union
from tests.support.checks.expected import all_done, check_tables, check_topics
from tests.support.pods.command_line import NOBODY, CommandLine
from tests.support.selection import partly_in_test_all
from tests.support.servers.cells import batch_of, new_cells, urls_of

Cells = Callable[[str], Sequence[str]]


@pytest.fixture
def cells(server_url: str, template: str) -> Iterator[Cells]:
    """Gives the databases of cells at their places, as superuser."""
    with ExitStack() as stack:
        yield lambda places: stack.enter_context(new_cells(server_url, template, places))


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], settings: dict[str, str]
) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch, capfd, settings)


def start(running: Pods, urls: Sequence[str], each: int = 1) -> None:
    """Starts pods of each cell."""
    for of, url in slices_at(urls):
        own = {"ELS_DATABASE_URL": databases.url_as(url, "els_app"), "ELS_CELLS": str(of.cells)}
        running.start(each, **own, ELS_CELL=str(of.cell))


async def check_union(
    urls: Sequence[str], union: str, kafka: Broker, group: str, morning: Replay, records: Sequence[Record]
) -> None:
    """Waits until all cells have reached the end, and checks them as if they were one."""
    for of, url in slices_at(urls):
        await all_done(url, kafka, group + of.suffix, morning.ends)
    check_slices(urls)
    copy_union(sorted(set(urls)), union)
    await check_tables(union)
    await check_topics(union, kafka, records)


@pytest.mark.parametrize(
    "places", partly_in_test_all(["ab", "abcb", "abcd"], {"abcb", "abcd"}, "the recorded morning on 3 and 4 cells")
)
async def test_the_morning_on_several_cells_ends_as_on_one(
    tmp_path: Path,
    settings: dict[str, str],
    group: str,
    database_url: str,
    kafka: Broker,
    cells: Cells,
    places: str,
    service: CommandLine,
) -> None:
    urls, records = cells(places), replay.morning()
    morning = Replay(kafka, records)
    with pods(tmp_path, settings) as running:
        start(running, urls)
        await running.ready()
        await morning.run()
        await check_union(urls, database_url, kafka, group, morning, records)
        assert await running.stop() == [0] * len(set(urls))
        assert running.complaints() == []
    assert all(rows_of(url) for url in urls)
    report = await audited_cells(urls, kafka, group)
    assert (report.findings[:20], report.unknown, report.counts["inputs of other cells"]) == ([], 0, 0)
    if places == "ab":
        await asyncio.to_thread(check_the_command, service, urls)
        await check_two_cells_at_work(urls, kafka, group)


def check_the_command(service: CommandLine, urls: Sequence[str]) -> None:
    """The same by the command, and with one cell down: the batches of the other are audited."""
    settings = {"ELS_CELLS": "2", "ELS_CELL": "0", "ELS_CELL_DATABASE_URLS": urls_of(urls)}
    ended = service("audit", "--whole", "--json", **settings)
    assert (ended.status, ended.json["clean"], ended.json["not_audited"]) == (0, True, []), ended
    batches = ended.json["counts"]["batches and what waits for one"]
    down = f"{urls_of(urls[:1])} postgresql://els_app:x@{NOBODY}/els"
    ended = service("audit", "--whole", "--json", **settings | {"ELS_CELL_DATABASE_URLS": down})
    assert (ended.status, ended.json["clean"], ended.json["violations"]) == (1, False, {})
    assert [each["cell"] for each in ended.json["not_audited"]] == [1]
    assert "cell 1 is not audited: " in ended.err
    assert 0 < ended.json["counts"]["batches and what waits for one"] < batches
    assert ended.json["counts"]["inputs of other cells"] > 0


async def check_two_cells_at_work(urls: Sequence[str], kafka: Broker, group: str) -> None:
    """What one cell has of a batch of the other is found: what waits, and what no split has left there."""
    columns = (
        "batch_id, text_storage_id, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes, arrival"
    )
    with psycopg.connect(urls[0], autocommit=True) as conn:
        conn.execute(
            f"insert into els.pending_content ({columns}, correlation_id, stored_at, waiting_since)"
            " values (%s, 'text', 'upload', 'name', 'raw', 1, 1, gen_random_uuid(), now(), now())",
            [batch_of(1)],
        )
        excess = columns.replace("arrival", "reason")
        conn.execute(
            f"insert into els.excess_content ({excess}, correlation_id, declared_at)"
            " values (%s, 'more', 'upload', 'name', 'raw', 1, 'BATCH_FULL', gen_random_uuid(), now())",
            [batch_of(1)],
        )
        report = await audited_cells(urls, kafka, group)
        assert [(each.rule, each.batch_id) for each in report.findings] == [("cell", batch_of(1))] * 2
        assert report.counts["rows of batches of other cells"] == 2
        conn.execute("update els.slice set since = now(), trims = true")
        report = await audited_cells(urls, kafka, group)
        assert [each.detail.split()[0] for each in report.findings] == ["pending"], "of a split, history may be left"


@pytest.mark.only_in_test_all("the recorded morning three times on several cells")
@pytest.mark.parametrize("places", ["ab", "abcd"])
async def test_repeats_on_several_cells_add_nothing(
    tmp_path: Path, settings: dict[str, str], group: str, database_url: str, kafka: Broker, cells: Cells, places: str
) -> None:
    """Each record twice, then all of them once more under new event ids; two pods of each cell."""
    urls, records = cells(places), replay.again_renewed(replay.each_twice(replay.morning()))
    morning = Replay(kafka, records)
    await morning.run()
    with pods(tmp_path, settings) as running:
        start(running, urls, 2)
        await check_union(urls, database_url, kafka, group, morning, records)
        assert await running.stop() == [0] * 2 * len(urls)


@pytest.mark.only_in_test_all("the recorded morning on 2 cells, of which one is down")
async def test_a_database_that_is_down_stops_its_cell_only(
    tmp_path: Path,
    settings: dict[str, str],
    group: str,
    server_url: str,
    database_url: str,
    kafka: Broker,
    cells: Cells,
) -> None:
    """Meanwhile the group of the other cell passes all offsets; its own inputs are applied when it is back."""
    urls, records = cells("ab"), replay.morning()
    morning = Replay(kafka, records)
    name = str(conninfo_to_dict(urls[1])["dbname"])
    with pods(tmp_path, settings) as running, psycopg.connect(server_url, autocommit=True) as server:
        start(running, urls)
        await running.ready()
        server.execute(f'alter database "{name}" with allow_connections false'.encode())
        server.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
        try:
            await morning.run()
            await all_done(urls[0], kafka, f"{group}.cell-0-of-2", morning.ends)
            passed = await committed_offsets(kafka, f"{group}.cell-1-of-2", morning.ends)
            assert sum(passed.values()) < sum(morning.ends.values()) / 2
        finally:
            server.execute(f'alter database "{name}" with allow_connections true'.encode())
        await check_union(urls, database_url, kafka, group, morning, records)
        assert await running.stop() == [0, 0]


def rows_of(url: str) -> Any:
    with psycopg.connect(url) as conn:
        return conn.execute("select count(*) from els.batches").fetchall()[0][0]
