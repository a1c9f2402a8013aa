"""Tests that the parts of a pod are connected: a commit with events wakes its relay."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.application import _Process
from service.intake.outcome import Effects
from service.postgres.pool import Database
from service.purge.policy import Chunk
from service.settings import load_settings


@pytest.fixture
async def process(app_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Process]:
    monkeypatch.setenv("ELS_DATABASE_URL", app_url)
    monkeypatch.setenv("ELS_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    database = Database(app_url)
    yield _Process(load_settings(), database, ["consumer", "relay", "purge"], asyncio.Event(), replay=False)
    await database.close()


def is_woken(process: _Process) -> bool:
    assert process._relay is not None
    wake = process._relay._worker.wake
    woken = wake.is_set()
    wake.clear()
    return woken


async def test_a_commit_with_events_wakes_the_relay_of_the_pod(process: _Process) -> None:
    await process._intake_committed(Effects(published=1))
    assert is_woken(process)
    process._purge_committed(Chunk("expired_content", published=1))
    assert is_woken(process)
    await process._intake_committed(Effects())
    process._purge_committed(Chunk("expired_content"))
    assert not is_woken(process)


async def test_the_relay_loop_goes_on_at_once_when_it_is_woken(process: _Process) -> None:
    assert process._relay is not None
    assert process._relay._working.wake is process._relay._worker.wake
