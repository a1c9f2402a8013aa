"""Which PostgreSQL the service runs on: the oldest supported version works, an older one is refused at the start."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.servers import databases
from tests.support.checks.inner_run import run_tests
from tests.support.pods.command_line import NOBODY, CommandLine

Pooling = Callable[..., AbstractContextManager[str]]
SETTING = {"run": "ELS_DATABASE_URL", "relay": "ELS_DATABASE_URL", "migrate": "ELS_MIGRATION_DATABASE_URL"}


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """With neither a database nor a broker."""
    return CommandLine(tmp_path, monkeypatch, capfd, {"ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY, "ELS_HTTP_PORT": "0"})


@pytest.mark.parametrize("command", SETTING)
def test_a_server_that_is_too_old_is_refused_in_one_line(
    service: CommandLine, too_old_postgres: Postgres, command: str
) -> None:
    ended = service(command, ELS_DATABASE_URL=too_old_postgres.url())
    assert ended.failed_with(1, f"{SETTING[command]}: the server is PostgreSQL 16.", "PostgreSQL 17 or newer is needed")


def test_check_reports_a_server_that_is_too_old(service: CommandLine, too_old_postgres: Postgres) -> None:
    ended = service("check", "--json", ELS_DATABASE_URL=too_old_postgres.url())
    told = {row["check"]: row["told"] for row in ended.json if not row["ok"]}
    assert ended.status == 1
    assert told["database"].startswith("ELS_DATABASE_URL: the server is PostgreSQL 16.")


@pytest.mark.parametrize("setting", ["none", "session", "transaction"])
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_server_that_is_too_old_is_named_behind_a_pooler(
    service: CommandLine, too_old_postgres: Postgres, pgbouncer: Pooling, mode: str, setting: str
) -> None:
    with pgbouncer(too_old_postgres.url(), mode) as url:
        ended = service("run", ELS_DATABASE_URL=url, ELS_DATABASE_POOLER=setting)
    assert ended.failed_with(1, "ELS_DATABASE_URL: the server is PostgreSQL 16.")


@pytest.mark.parametrize("command", SETTING)
def test_a_database_that_is_not_utf_8_is_refused_in_one_line(
    service: CommandLine, server_url: str, command: str
) -> None:
    name = f"els_test_latin_{command}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"create database {name} template template0 encoding 'LATIN1' locale_provider libc locale 'C'")
        try:
            ended = service(command, ELS_DATABASE_URL=databases.database_in(server_url, name))
        finally:
            conn.execute(f"drop database {name} with (force)")
    assert ended.failed_with(1, f"{SETTING[command]}: the encoding of the database is LATIN1", "encoding 'UTF8'")


SELECTIONS = {
    "tables": [
        f"tests/integration/postgres/test_{name}.py"
        for name in ("schema", "views", "view_plans", "health", "invariant_violations")
    ],
    "intake": ["tests/integration/intake/test_transaction.py", "tests/integration/store/test_plans.py"],
    "purge": [
        f"tests/integration/purge/test_{name}.py"
        for name in ("purge", "expiry", "time_limits", "late_batches", "retention", "published")
    ],
    "relay": [
        f"tests/integration/relay/{name}"
        for name in (
            "test_relay.py::test_a_row_becomes_a_record_with_its_key_value_and_headers",
            "test_relay.py::test_deleted_rows_that_vacuum_cannot_remove_yet_are_not_read_again",
            "test_leases.py::test_relays_share_the_shards_and_take_over_from_a_crashed_one",
            "test_leases.py::test_a_commit_of_another_pod_wakes_the_relay_of_the_shard",
        )
    ],
    "pods": [
        "tests/acceptance/test_recorded_morning.py::test_the_morning_at_full_speed_has_the_expected_result[tansu-2]"
    ],
}
"""Tests that are run on the oldest supported version, too. Each selection is one test, so that workers share them."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("selection", SELECTIONS.values(), ids=SELECTIONS)
def test_the_service_on_the_oldest_supported_postgresql(oldest_postgres: Postgres, selection: list[str]) -> None:
    run_tests(*selection, settings=[("ELS_DATABASE_URL", oldest_postgres.url())])
