"""The short form of `make prove`'s fuzzing."""

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


def test_no_mutation_of_a_sample_has_another_answer_than_an_event_or_a_refusal() -> None:
    for row in fuzz(task(), 10_000):
        assert row.found == [], row.what
        assert row.runs > 0


def test_what_the_decoder_lets_through_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes every sample for the same content, but for what it can't read at all."""
    content = events.decode(CONTENT_PROVISIONED, inputs.content("b", "c" * 300), max_bytes=10_000)
    assert isinstance(content, Rejection)

    def decode(topic: str, value: bytes, *, max_bytes: int) -> Incoming | Rejection:
        value.decode()
        return Rejection(content.reason, "x" * 3000)

    monkeypatch.setattr(events, "decode", decode)
    found = fuzz(task(), 1_000)[0].found
    assert any("UnicodeDecodeError" in each for each in found)
    assert any("can't be kept" in each for each in found)
