"""Provides the command line on an empty database, and a pod that applies polls to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.pods.command_line import NOBODY, CommandLine
from tests.support.pods.operator_stage import ApplyingPod


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], app_url: str
) -> CommandLine:
    settings = {"ELS_DATABASE_URL": app_url, "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY}
    return CommandLine(tmp_path, monkeypatch, capfd, settings)


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def pod(app_url: str) -> ApplyingPod:
    return ApplyingPod(app_url)
