"""Runs a short form of the histories of `make prove`: random steps from fixed seeds, compared with a small model."""

import time
from collections.abc import Callable

import pytest

from service.intake.work import BatchWork, uploads_of
from service.purge import purge
from tests.prove.histories import histories
from tests.prove.report import Task


def task(seed: int) -> Task:
    return Task(seed, time.monotonic() + 120)


@pytest.mark.parametrize("seed", [1, 2])
async def test_histories_end_as_the_model_predicts(database_url: str, seed: int) -> None:
    row = await histories(database_url, task(seed), 10)
    assert (row.runs, row.found) == (10, [])
    assert row.more["deaths"] > 10


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
    assert (await histories(database_url, task(1), 8)).found
