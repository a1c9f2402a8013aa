"""Runs a short form of the fuzzing of `make prove`."""

import time

import pytest

from service.domain import incoming as events
from service.domain.events import Incoming, Rejection
from service.domain.topics import CONTENT_PROVISIONED
from tests.prove.fuzz import fuzz
from tests.prove.report import Task
from tests.support.builders import inputs


def task() -> Task:
    return Task(1, time.monotonic() + 60)


def test_every_mutation_of_a_sample_is_decoded_to_an_event_or_a_rejection() -> None:
    for row in fuzz(task(), 10_000):
        assert row.found == [], row.what
        assert row.runs > 0


def test_fuzzing_finds_errors_of_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder is replaced by one that raises for invalid UTF-8 and returns the same rejection for all else."""
    content = events.decode(CONTENT_PROVISIONED, inputs.content("b", "c" * 300), max_bytes=10_000)
    assert isinstance(content, Rejection)

    def decode(topic: str, value: bytes, *, max_bytes: int) -> Incoming | Rejection:
        value.decode()
        return Rejection(content.reason, "x" * 3000)

    monkeypatch.setattr(events, "decode", decode)
    found = fuzz(task(), 1_000)[0].found
    assert any("UnicodeDecodeError" in each for each in found)
    assert any("can't be kept" in each for each in found)
