"""What operators do with what belongs to another cell: a rejected input is replayed there, and a search finds it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from deploy.servers import databases
from service.domain.cells import cell_of
from service.domain.events import Reason, Rejection
from service.domain.topics import CONTENT_PROVISIONED
from tests.support.builders.inputs import content, delivery
from tests.support.pods.command_line import NOBODY, CommandLine
from tests.support.pods.operator_stage import ApplyingPod, states, written
from tests.support.servers.cells import become_cells

OTHERS = next(f"b{each}" for each in range(99) if cell_of(f"b{each}", 2) == 1)
URL = "postgresql://els_app:x@{}/els"
WRONG_PLACES = (" ".join(URL.format(host) for host in "aabc"), "the places 0, 1 of a database are no cell")
REPLAYED = "select state, edited_value is not null, batch_id from els.quarantine"


class Halves(NamedTuple):
    """Two cells: the command line of cell 0, with and without the URLs of both, and connections to both."""

    service: CommandLine
    urls: str
    here: psycopg.Connection[Any]
    there: psycopg.Connection[Any]


@pytest.fixture
def halves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    server_url: str,
    template: str,
    app_url: str,
    database_url: str,
) -> Iterator[Halves]:
    with databases.cloned(server_url, template) as other:
        settings = {"ELS_DATABASE_URL": app_url, "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY}
        service = CommandLine(tmp_path, monkeypatch, capfd, settings | {"ELS_CELLS": "2", "ELS_CELL": "0"})
        urls = f"{app_url} {databases.url_as(other, 'els_app')}"
        with psycopg.connect(database_url, autocommit=True) as here, psycopg.connect(other, autocommit=True) as there:
            yield Halves(service, urls, here, there)


def reject_here(halves: Halves, app_url: str, value: bytes) -> int:
    """Quarantines a value in cell 0, as a release does that cannot read it. Returns its id."""
    ApplyingPod(app_url).take(delivery(CONTENT_PROVISIONED, value, event=Rejection(Reason.NOT_JSON, "said the bug")))
    become_cells(halves.here, halves.there)
    ((id_,),) = halves.here.execute("select id from els.quarantine").fetchall()
    return int(id_)


def test_an_input_of_another_cell_is_replayed_there_and_closed_here(halves: Halves, app_url: str) -> None:
    id_ = reject_here(halves, app_url, content(OTHERS, "t"))
    ended = halves.service("quarantine", "replay", str(id_), "--json")
    assert ended.status == 1
    assert ended.json[0]["outcome"] == "other_cell"
    assert ended.json[0]["error"] == "its batch belongs to cell 1 of 2: set ELS_CELL_DATABASE_URLS to replay it there"
    assert states(halves.there) == {}

    ended = halves.service("quarantine", "replay", str(id_), "--json", "--why", "w", ELS_CELL_DATABASE_URLS=halves.urls)
    assert (ended.status, ended.json[0]["outcome"]) == (0, "pending")
    assert (states(halves.here), states(halves.there)) == ({}, {"t": "pending"})
    for conn in (halves.here, halves.there):
        ((state, is_edited, _),) = conn.execute(REPLAYED).fetchall()
        assert (state, is_edited) == ("replayed", False)
        ((_, action, _, topic, why, details),) = written(conn)
        assert (action, topic, why, details["outcome"]) == ("quarantine replay", CONTENT_PROVISIONED, "w", "pending")
    assert written(halves.here)[0][-1]["cell"] == 1

    # As after a crash between the two.
    halves.here.execute("update els.quarantine set state = 'open', closed_at = null")
    ended = halves.service("quarantine", "replay", str(id_), "--json", ELS_CELL_DATABASE_URLS=halves.urls)
    assert (ended.status, ended.json[0]["outcome"]) == (0, "repeat")
    assert halves.here.execute(REPLAYED).fetchall()[0][0] == "replayed"
    assert len(written(halves.there)) == 1


def test_an_input_that_is_corrected_to_another_cells_is_processed_there(
    halves: Halves, app_url: str, tmp_path: Path
) -> None:
    id_ = reject_here(halves, app_url, b"nobody can read this")
    corrected = tmp_path / "corrected.json"
    corrected.write_bytes(content(OTHERS, "t"))
    arguments = ("quarantine", "edit", str(id_), f"--file={corrected}", "--why=w")
    assert "belongs to cell 1 of 2" in halves.service(*arguments).err
    assert states(halves.there) == {}
    ended = halves.service(*arguments, "--dry-run", ELS_CELL_DATABASE_URLS=halves.urls)
    assert (ended.status, states(halves.there)) == (0, {})
    ended = halves.service(*arguments, ELS_CELL_DATABASE_URLS=halves.urls)
    assert ended.status == 0, ended
    assert (states(halves.here), states(halves.there)) == ({}, {"t": "pending"})
    for conn in (halves.here, halves.there):
        assert conn.execute(REPLAYED).fetchall()[0][:2] == ("replayed", True)


def test_the_database_of_the_other_cell_must_be_that_cell(halves: Halves, app_url: str) -> None:
    id_ = reject_here(halves, app_url, content(OTHERS, "t"))
    urls = f"{app_url} {app_url}&connect_timeout=5"
    ended = halves.service("quarantine", "replay", str(id_), ELS_CELL_DATABASE_URLS=urls)
    assert ended.status == 1
    assert "the database holds cell 0 of 2, and this process is set to cell 1 of 2" in ended.out + ended.err
    ended = halves.service("quarantine", "list", ELS_CELL_DATABASE_URLS=app_url)
    assert ended.failed_with(2, "ELS_CELL_DATABASE_URLS: should have 2 URLs with ELS_CELLS=2")
    for wrong, said in ((f"{app_url} {app_url}", "has all batches, and this process is cell 0 of 2"), WRONG_PLACES):
        ended = halves.service("quarantine", "list", ELS_CELL_DATABASE_URLS=wrong)
        assert ended.failed_with(2, f"ELS_CELL_DATABASE_URLS: {said}")


def test_an_operator_who_asks_the_wrong_cell_about_a_batch_learns_which_one_has_it(halves: Halves) -> None:
    become_cells(halves.here, halves.there)
    elsewhere = f"batch {OTHERS} belongs to cell 1 of 2, and this is cell 0 of 2"
    for command in ("show", "republish", "close", "cancel --reason OTHER"):
        name, *options = command.split()
        why = [] if name == "show" else ["--why=w"]
        yes = ["--yes"] if name in ("close", "cancel") else []
        assert halves.service("batches", name, OTHERS, *options, *why, *yes).failed_with(1, elsewhere)


def test_a_search_finds_what_is_in_any_cell(halves: Halves, app_url: str) -> None:
    id_ = reject_here(halves, app_url, content(OTHERS, "text-there"))
    halves.service("quarantine", "replay", str(id_), ELS_CELL_DATABASE_URLS=halves.urls)
    halves.here.execute("delete from els.quarantine")
    assert halves.service("find", "text-there").failed_with(1, "nothing has the id 'text-there'")
    ended = halves.service("find", "text-there", "--json", ELS_CELL_DATABASE_URLS=halves.urls)
    assert (ended.status, {row["cell"] for row in ended.json}) == (0, {1})
    ended = halves.service("find", "no such text", ELS_CELL_DATABASE_URLS=halves.urls)
    assert ended.failed_with(1, "nothing has the id 'no such text'")
    # A cell whose database is down is named, and the others are searched.
    urls = f"postgresql://els_app:x@{NOBODY}/els {halves.urls.split()[1]}"
    ended = halves.service("find", "text-there", "--json", ELS_CELL_DATABASE_URLS=urls)
    assert (ended.status, [row["cell"] for row in ended.json][:1]) == (1, [1])
    assert "cell 0: ELS_DATABASE_URL: " in ended.err
