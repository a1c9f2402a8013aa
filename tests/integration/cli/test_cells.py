"""Commands that ask all cells: they show each, and one that is down does not hold up the others."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest

from deploy.servers.brokers import Broker
from deploy.servers.databases import url_as
from service.cli import snapshots
from service.domain.cells import Slice
from tests.support.builders.alive import ALIVE
from tests.support.builders.inputs import provisioned
from tests.support.pods.command_line import NOBODY, CommandLine
from tests.support.pods.operator_stage import ApplyingPod
from tests.support.servers.cells import batch_of, new_cells, urls_of

DOWN = f"postgresql://els_app:x@{NOBODY}/els"
ONCE = ("top", "--once", "--interval", "1")


@pytest.fixture
def cells(server_url: str, template: str) -> Iterator[Sequence[str]]:
    with new_cells(server_url, template, "ab") as urls:
        yield urls


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], cells: Sequence[str]
) -> CommandLine:
    """The command line of cell 0, which knows the databases of both, without a broker."""
    settings = {
        "ELS_DATABASE_URL": url_as(cells[0], "els_app"),
        "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY,
        "ELS_CELLS": "2",
        "ELS_CELL": "0",
        "ELS_CELL_DATABASE_URLS": urls_of(cells),
    }
    return CommandLine(tmp_path, monkeypatch, capfd, settings)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"postgresql://els_app:x@127.0.0.1:{server.getsockname()[1]}/els?connect_timeout=60"


def with_one_down(cells: Sequence[str], url: str = DOWN) -> str:
    return f"{url} {urls_of(cells[1:])}"


def row_of(cell: str, shown: str) -> list[str]:
    """Returns the line of a cell, without its frame."""
    words = (line.strip("│ ").split() for line in shown.splitlines())
    (found,) = (each for each in words if each[:1] == [cell])
    return found


def test_top_shows_a_line_for_each_cell_and_their_total(service: CommandLine, cells: Sequence[str]) -> None:
    for cell, url in enumerate(cells):
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(ALIVE)
        texts = [provisioned(batch_of(cell), f"t{each}") for each in range(cell + 1)]
        ApplyingPod(url_as(url, "els_app"), Slice(2, cell)).take(*texts)
    shown = service(*ONCE)
    assert shown.status == 0
    assert row_of("0", shown.out)[-3:] == ["1", "0", "1"]
    assert row_of("1", shown.out)[-3:] == ["2", "0", "1"]
    assert row_of("all", shown.out)[-3:] == ["3", "0", "2"]
    found = service(*ONCE, "--json").json
    assert (found["level"], found["well"], found["down"], found["total"]["pending"]) == ("fine", True, [], 3)
    assert [(each["cell"], each["health"]["pending"]) for each in found["cells"]] == [(0, 1), (1, 2)]
    # As any role that may read the views.
    ops = service(*ONCE, "--json", ELS_CELL_DATABASE_URLS=urls_of(cells, "els_ops")).json
    assert [each["health"]["pending"] for each in ops["cells"]] == [1, 2]


def test_top_shows_a_cell_that_is_down_and_the_others(service: CommandLine, cells: Sequence[str]) -> None:
    with psycopg.connect(cells[1], autocommit=True) as conn:
        conn.execute(ALIVE)
        conn.execute("insert into els.notices (kind, detail) values ('servers', 'the database moved')")
    down = with_one_down(cells)
    shown = service(*ONCE, ELS_CELL_DATABASE_URLS=down)
    assert (shown.status, row_of("0", shown.out)[1], row_of("1", shown.out)[1]) == (1, "DOWN", "notice")
    assert "1 of 2 are down, and not in the total" in shown.out
    lines = [line.strip("│ ") for line in shown.out.splitlines()]
    assert [line for line in lines if line.startswith("cell 0: the database is unavailable: ")]
    assert [line for line in lines if line.startswith("cell 1: ") and "the database moved" in line]
    found = service(*ONCE, "--json", ELS_CELL_DATABASE_URLS=down).json
    assert (found["level"], found["down"], found["cells"][0]["health"]) == ("action needed", [0], None)
    # Two URLs in the wrong order.
    swapped = service(*ONCE, "--json", ELS_CELL_DATABASE_URLS=urls_of(cells[::-1])).json
    assert swapped["attention"][0] == "cell 0: the database is unavailable: it holds cell 1 of 2"


def test_a_cell_that_is_silent_does_not_hold_up_the_others(
    service: CommandLine, cells: Sequence[str], silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "DATABASE_SECONDS", 0.5)
    monkeypatch.setattr("service.cli.find.CELL_SECONDS", 0.5)
    monkeypatch.setattr("service.environment.CELL_SECONDS", 0.5)
    ApplyingPod(url_as(cells[1], "els_app"), Slice(2, 1)).take(provisioned(batch_of(1), "text-there"))
    urls, began = with_one_down(cells, silent), time.monotonic()
    found = service(*ONCE, "--json", ELS_CELL_DATABASE_URLS=urls).json
    assert found["attention"][0].startswith("cell 0: the database is unavailable: it has not answered within ")
    ended = service("find", "text-there", "--json", ELS_CELL_DATABASE_URLS=urls)
    assert (ended.status, {row["cell"] for row in ended.json}) == (1, {1})
    assert "cell 0: the database has not answered within " in ended.err
    rows = service("check", "--json", ELS_CELL_DATABASE_URLS=urls).json
    assert [(row["cell"], row["ok"]) for row in rows if row["check"] == "database"] == [(0, False), (1, True)]
    assert time.monotonic() - began < 30, "nobody waits for a minute"


def test_a_check_names_the_cell_whose_database_or_group_is_wrong(
    service: CommandLine, cells: Sequence[str], tansu: Broker
) -> None:
    ended = service("check", "--json", ELS_CELL_DATABASE_URLS=urls_of(cells[::-1]), **tansu.settings)
    rows = [(row["cell"], row["told"]) for row in ended.json if row["check"] == "cell"]
    assert ended.status == 1
    assert [cell for cell, _ in rows] == [0, 1]
    assert "the database holds cell 1 of 2, and this process is set to cell 0 of 2" in rows[0][1]
    assert [row["cell"] for row in ended.json if row["check"] == "broker"] == [None], "the broker is checked once"
    without = json.loads(service("check", "--json", without="ELS_CELL_DATABASE_URLS", **tansu.settings).out)
    assert not [row for row in without if "cell" in row]
