"""Tests the interfaces of operators with random requests and commands; `make prove` runs more of them."""

import time
from collections import Counter

import pytest
from structlog.testing import capture_logs

from service.cli import pending
from service.http import admin
from tests.prove.fuzz_operators import fuzz_operators, wrong_with_command
from tests.prove.report import Task


def task() -> Task:
    return Task(1, time.monotonic() + 60)


def test_every_request_and_command_has_a_documented_result(app_url: str) -> None:
    for row in fuzz_operators(app_url, task(), 1_000):
        print(row)
        assert row.found == [], row.what
        assert row.runs > 100


def test_an_interface_that_fails_is_noticed(app_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(admin, "_validated", fail)
    monkeypatch.setattr(pending, "_pending_filter", fail)
    with capture_logs():  # tracebacks would take longer to write than all the rest
        requests, commands = fuzz_operators(app_url, task(), 300)
    assert any("answered with 500" in each for each in requests.found)
    assert any("KeyError" in each for each in commands.found)
    assert wrong_with_command(["--help"], Counter()) is None
