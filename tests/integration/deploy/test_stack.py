"""Tests what `make up` and `make down` do."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from deploy.local.__main__ import commands
from deploy.local.processes import plain_environment
from deploy.local.stack import Stack, begin_new_epochs
from deploy.servers.pods import ROOT
from service.domain.topics import CONTENT_PROVISIONED


def test_a_new_broker_has_new_topics(app_url: str, database_url: str) -> None:
    """Else pods report the records of the broker before it as lost."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "insert into els.progress"
            " (topic, partition, epoch, next_offset, record_offset, record_digest, applied_until)"
            " values (%s, 0, 3, 70, 69, 'x', now())",
            [CONTENT_PROVISIONED],
        )
        begin_new_epochs(app_url)
        found = conn.execute("select epoch, next_offset, record_offset, record_digest, applied_until from els.progress")
        assert found.fetchall() == [(4, 0, None, None, None)]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of a checkout of its own, which has nothing but the code."""
    made = Stack(tmp_path, plain_environment() | {"PYTHONPATH": str(ROOT)}, Console(quiet=True))
    try:
        yield made
    finally:
        with made.exclusively():
            made.clean()


LEVEL = "select level, attention from ops.health"


@pytest.mark.timeout(300)
def test_up_may_be_called_at_any_time_and_keeps_the_data(stack: Stack) -> None:
    with stack.exclusively():
        settings = stack.up()
        with psycopg.connect(settings["ELS_MIGRATION_DATABASE_URL"], autocommit=True) as conn:
            conn.execute("create table kept ()")
            assert conn.execute(LEVEL).fetchone() == ("fine", [])
        assert stack.up() == settings
        for printed in commands(stack, ROOT).values():
            ran = subprocess.run(
                ["/bin/sh", "-c", printed], cwd=ROOT, env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=False
            )
            assert (ran.returncode, ran.stderr) == (0, b""), printed
        stack.down()
        assert not any(stack.running().values())
        assert stack.up()["ELS_DATABASE_URL"] == settings["ELS_DATABASE_URL"]
    with psycopg.connect(settings["ELS_MIGRATION_DATABASE_URL"], autocommit=True) as conn:
        conn.execute("table kept")
        assert conn.execute(LEVEL).fetchone() == ("fine", [])
