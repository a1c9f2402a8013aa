"""Runs a short form of the histories of `make prove`: random steps from fixed seeds, compared with a small model."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from deploy.servers import databases
from service.intake.work import BatchWork, uploads_of
from service.kafka import deliveries
from service.purge import purge
from tests.prove.histories import histories
from tests.prove.report import Task

Cells = Callable[[int], list[str]]

LONG = pytest.mark.only_in_test_all("twelve histories on four cells")


def task(seed: int) -> Task:
    return Task(seed, time.monotonic() + 120)


@pytest.mark.parametrize("seed", [1, 2])
async def test_histories_end_as_the_model_predicts(database_url: str, seed: int) -> None:
    row = await histories([database_url], task(seed), 10)
    assert (row.runs, row.found) == (10, [])
    assert row.more["deaths"] > 10


@pytest.fixture
def cells(server_url: str, template: str, database_url: str) -> Iterator[Cells]:
    """Gives a database for all batches, and behind it those of so many cells."""
    with ExitStack() as stack:
        yield lambda count: [
            database_url,
            *(stack.enter_context(databases.cloned(server_url, template)) for _ in range(count)),
        ]


@pytest.mark.parametrize(("count", "most"), [(2, 2), (4, 1), pytest.param(4, 12, marks=LONG)])
async def test_histories_on_several_cells_end_as_on_one(cells: Cells, count: int, most: int) -> None:
    row = await histories(cells(count), task(count), most)
    assert (row.runs, row.found) == (most, [])
    assert row.more["deaths"] > most


async def test_the_comparison_with_cells_detects_records_in_the_wrong_one(
    cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "scanned_batch_id", lambda value: "b0" if b"b" in value else None)
    found = (await histories(cells(2), task(1), 1)).found
    assert any(re.search("places of b[0-9]+ in cell . of 2: ", each) for each in found), found


def expire_without_events(patch: pytest.MonkeyPatch) -> None:
    async def publish(*_: object) -> None:
        pass

    patch.setattr(purge, "publish", publish)


def assign_failures_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(BatchWork, "uploads", lambda self: uploads_of(self.failures) + uploads_of(self.contents))


@pytest.mark.parametrize("broken", [expire_without_events, assign_failures_first])
async def test_the_model_detects(
    database_url: str, monkeypatch: pytest.MonkeyPatch, broken: Callable[[pytest.MonkeyPatch], None]
) -> None:
    broken(monkeypatch)
    assert (await histories([database_url], task(1), 8)).found
