"""Tests what each command does, its exit status, and that a failure is reported in one line."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.local.processes import plain_environment, wait_until
from deploy.servers import brokers, databases
from deploy.servers.brokers import Broker
from deploy.servers.ports import reserved_port
from service.__main__ import STATUS_TERMINATED
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    INCOMING_TOPICS,
)
from service.kafka import topics as kafka_module
from service.postgres.schema import EXPECTED_REVISION
from tests.support.builders.inputs import confirmation, content, registration
from tests.support.builders.outbox import INSERT_ROW, event, row_of
from tests.support.builders.progress import say_applied
from tests.support.checks.expected import read_back
from tests.support.pods.command_line import NOBODY, ROOT, CommandLine

Pooling = Callable[..., AbstractContextManager[str]]

UNAVAILABLE = f"postgresql://nobody:secret@{NOBODY}/els"


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """A command line without settings."""
    return CommandLine(tmp_path, monkeypatch, capfd, {})


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """A command line with settings, and no servers."""
    settings = {"ELS_DATABASE_URL": UNAVAILABLE, "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY, "ELS_HTTP_PORT": "0"}
    return CommandLine(tmp_path, monkeypatch, capfd, settings)


@pytest.fixture
def service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], app_url: str
) -> CommandLine:
    """A command line with a database, and no broker."""
    return CommandLine(
        tmp_path,
        monkeypatch,
        capfd,
        {"ELS_DATABASE_URL": app_url, "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY, "ELS_HTTP_PORT": "0"},
    )


@pytest.fixture
def conn(database_url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(database_url, autocommit=True)


# -- usage and settings


@pytest.mark.parametrize(
    "command",
    [
        "",
        "run",
        "migrate",
        "audit",
        "check",
        "topics",
        "topics create",
        "relay",
        "quarantine",
        "quarantine list",
        "quarantine show",
        "quarantine resume",
        "quarantine replay",
        "quarantine discard",
        "batches",
        "batches list",
        "batches show",
        "batches republish",
        "batches close",
        "batches cancel",
        "pending",
        "pending list",
        "pending show",
        "pending remove",
        "pending clear",
        "pending restore",
    ],
)
def test_every_command_prints_help_without_settings(bare: CommandLine, command: str) -> None:
    ended = bare.here(*command.split(), "--help")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"usage: python -m service {command}".rstrip())


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "unknown",
        "topics",
        "quarantine show",
        "quarantine show x",
        f"quarantine replay {2**63}",
        "quarantine list --limit 0",
        "check --what",
        "pending list --older-than soon",
        "pending list --older-than 20261129",
        "pending list --after 7",
        "pending list --after 2026-01-01T00:00:00Z/9223372036854775808",
        "pending list --older-than 36526d",
        "pending list --after 2026-01-01T00:00:00/7",
        "pending remove b",
        "pending show b \udcff",
        f"pending show {'b' * 256} t",
    ],
)
def test_a_wrong_command_is_a_usage_error(bare: CommandLine, arguments: str) -> None:
    ended = bare(*arguments.split())
    assert (ended.status, ended.out) == (2, "")
    assert "usage:" in ended.err


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        ("pending restore b --forec", "pending restore ["),
        ("quarantine list --what 7", "quarantine list ["),
        ("check --what", "check ["),
        ("find text extra", "find ["),
        ("--what check", "check ["),
    ],
)
def test_an_unknown_option_is_reported_with_the_usage_of_its_command(
    bare: CommandLine, arguments: str, usage: str
) -> None:
    ended = bare(*arguments.split())
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(f"usage: python -m service {usage}")
    assert "unrecognized arguments: " in ended.err.splitlines()[-1]


@pytest.mark.parametrize("missing", ["ELS_DATABASE_URL", "ELS_KAFKA_BOOTSTRAP_SERVERS"])
def test_a_missing_setting_is_named(configured: CommandLine, missing: str) -> None:
    assert configured.here("run", without=missing).failed_with(2, f"{missing}: is not set")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ELS_DATABASE_URL", "mysql://db/els"),
        ("ELS_KAFKA_BOOTSTRAP_SERVERS", "no port"),
        ("ELS_HTTP_PORT", "many"),
        ("ELS_MAX_POLL_RECORDS", "0"),
        ("ELS_KAFKA_SECURITY_PROTOCOL", "TELNET"),
        ("ELS_KAFKA_SSL_CAFILE", "/no/such/file"),
    ],
)
def test_a_malformed_setting_is_named(configured: CommandLine, name: str, value: str) -> None:
    assert configured.here("run", **{name: value}).failed_with(2, f"{name}: ")


def test_an_unknown_role_is_named(configured: CommandLine) -> None:
    assert configured.here("run", "--roles", "consumer,cook").failed_with(2, "--roles", "cook", "relay")


# -- failing dependencies


@pytest.mark.parametrize(
    "command", ["run", "migrate", "purge", "quarantine list", f"quarantine resume {BATCH_REGISTERED}"]
)
def test_an_unavailable_database_is_named_without_its_password(service: CommandLine, command: str) -> None:
    ended = service(*command.split(), ELS_DATABASE_URL=UNAVAILABLE)
    assert ended.failed_with(1, "DATABASE_URL: ", "refused")
    assert "secret" not in ended.err


@pytest.mark.parametrize("command", ["run", "topics create"])
def test_an_unavailable_broker_is_named(service: CommandLine, command: str) -> None:
    assert service(*command.split()).failed_with(1, "ELS_KAFKA_BOOTSTRAP_SERVERS: ")


def test_a_schema_at_another_revision_is_named_with_the_remedy(
    service: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("update els.alembic_version set version_num = '0000'")
    assert service("run").failed_with(1, "0000", EXPECTED_REVISION, "migrate")


def test_a_database_without_a_schema_is_reported_as_such(service: CommandLine, server_url: str) -> None:
    with databases.created(server_url, "template0") as url:
        assert service("run", ELS_DATABASE_URL=url).failed_with(1, "none", "migrate")
        assert service("quarantine", "list", ELS_DATABASE_URL=url).failed_with(1, "none", "migrate")


@pytest.mark.parametrize(("setting", "host"), [("ELS_HTTP_PORT", "127.0.0.1"), ("ELS_HTTP_HOST", "192.0.2.1")])
def test_an_address_that_cannot_be_used_ends_the_start_and_is_named(
    service: CommandLine, tansu: Broker, setting: str, host: str
) -> None:
    port = tansu.bootstrap_servers.rpartition(":")[2]
    ended = service("run", **tansu.settings, ELS_HTTP_HOST=host, ELS_HTTP_PORT=port)
    assert ended.status == 1
    assert ended.err.startswith(f"{setting}: ")
    assert ended.err.count("\n") == 1


# -- what the commands do


def test_migrate_migrates_an_empty_database_and_then_does_nothing(service: CommandLine, server_url: str) -> None:
    with databases.created(server_url, "template0") as url:
        for _ in range(2):
            ended = service("migrate", ELS_DATABASE_URL=url)
            assert (ended.status, ended.err) == (0, "")
            assert EXPECTED_REVISION in ended.out.splitlines()[-1]
        with psycopg.connect(url) as migrated:
            assert migrated.execute("select count(*) from ops.health").fetchone() == (1,)


def test_a_waiting_command_ends_at_sigterm_even_as_process_1(tmp_path: Path, database_url: str) -> None:
    """Process 1 of a container ignores unhandled signals, so the exit status must come from our handler."""
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("select pg_advisory_lock(hashtextextended('els.migrate', 0))")
        with subprocess.Popen(
            [sys.executable, "-m", "service", "migrate"],
            env={**plain_environment(), "PYTHONPATH": str(ROOT), "ELS_DATABASE_URL": database_url}
            | {"ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY},
            cwd=tmp_path,
        ) as waiting:
            clients = "datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()"
            there = f"select from pg_stat_activity where {clients}"
            assert wait_until(lambda: other.execute(there).rowcount > 0, 90, every=0.05)
            waiting.terminate()
            assert waiting.wait(10) == STATUS_TERMINATED


def test_events_are_sent_to_their_topics_with_the_batch_as_key(
    service: CommandLine, kafka: Broker, tmp_path: Path
) -> None:
    file = tmp_path / "events.json"
    events = [registration("b", ["e1"], class_id="8a"), content("b", "t"), confirmation("b", "8a")]
    file.write_bytes(b"\n".join(events))
    ended = service("send", str(file), "--json", **kafka.settings)
    assert ended.status == 0, ended
    topics = [BATCH_REGISTERED, CONTENT_PROVISIONED, ASSOCIATIONS_CONFIRMED]
    assert [(row["topic"], row["batch"]) for row in json.loads(ended.out)] == [(topic, "b") for topic in topics]
    records = asyncio.run(read_back(kafka, topics))
    assert [[record.key for record in records[topic]] for topic in topics] == [[b"b"]] * 3
    assert [json.loads(records[topic][0].value) for topic in topics] == [json.loads(event) for event in events]


def test_what_would_be_rejected_is_not_sent_unless_it_is_forced(
    service: CommandLine, kafka: Broker, tmp_path: Path
) -> None:
    file = tmp_path / "events.json"
    file.write_bytes(content("b", "t") + registration("b", []))
    assert service("send", str(file), **kafka.settings).failed_with(1, "event 2 would be rejected: no_essays")
    assert service("send", str(file), "--force", **kafka.settings).status == 0
    sent = asyncio.run(read_back(kafka, [BATCH_REGISTERED, CONTENT_PROVISIONED]))
    assert {topic: len(records) for topic, records in sent.items()} == {BATCH_REGISTERED: 1, CONTENT_PROVISIONED: 1}
    file.write_text('{"event_type": "another"}')
    assert service("send", str(file), **kafka.settings).failed_with(1, "event 1: its event_type is not an input topic")
    for wrong in ("", "{", "no JSON"):
        file.write_text(wrong)
        assert service("send", str(file), **kafka.settings).status == 2
    assert service("send", str(tmp_path / "missing"), **kafka.settings).status == 2


def test_relay_once_publishes_the_outbox_and_ends(
    service: CommandLine, kafka: Broker, conn: psycopg.Connection[Any]
) -> None:
    for number in range(1, 4):
        conn.execute(INSERT_ROW, row_of(event(f"batch-{number}", BATCH_READY, number)))
    ended = service("relay", "--once", **kafka.settings)
    assert (ended.status, ended.out) == (0, "The outbox is empty.\n"), ended
    assert conn.execute("select count(*) from els.outbox_pages").fetchone() == (0,)
    records = asyncio.run(read_back(kafka, [BATCH_READY]))
    assert sorted(json.loads(record.value)["data"]["text"] for record in records[BATCH_READY]) == [1, 2, 3]


def test_relay_once_reports_what_it_could_not_publish(
    service: CommandLine, apache: Broker, conn: psycopg.Connection[Any]
) -> None:
    missing = "a.topic.that.is.not.there"
    conn.execute(INSERT_ROW, row_of(event("stuck", BATCH_READY), event("stuck", missing), event("stuck", missing)))
    conn.execute(INSERT_ROW, row_of(event("fine", BATCH_READY)))
    ended = service("relay", "--once", **apache.settings)
    assert ended.status == 1, ended
    assert "events left in the outbox: 2" in ended.err.splitlines()[-1]
    assert conn.execute("select batch_id, topic, rows from ops.outbox_blocked").fetchall() == [("stuck", missing, 2)]


def test_topics_are_created_once(service: CommandLine, kafka: Broker) -> None:
    there = service("topics", "create", "--json", **kafka.settings)
    assert there.status == 0
    assert {row["topic"]: row["state"] for row in there.json} == dict.fromkeys(kafka_module.TOPICS, "there already")


def test_topics_that_are_missing_are_created(service: CommandLine) -> None:
    with brokers.tansu() as broker:
        created = service("topics", "create", "--json", **broker.settings)
        assert {row["topic"]: row["state"] for row in created.json} == dict.fromkeys(kafka_module.TOPICS, "created")
        assert created.status == 0


def test_check_passes_on_a_healthy_service(service: CommandLine, kafka: Broker) -> None:
    ended = service("check", "--json", **kafka.settings)
    assert [row["check"] for row in ended.json if not row["ok"]] == []
    assert {"database", "broker"} <= {row["check"] for row in ended.json}
    assert (ended.status, ended.err) == (0, "")
    assert "NOT OK" not in service("check", **kafka.settings).out


def test_check_reports_every_error(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute("update els.alembic_version set version_num = '0000'")
    ended = service("check", "--json")
    assert (ended.status, ended.err) == (1, "")
    assert [(row["check"], row["ok"]) for row in ended.json] == [("schema", False), ("broker", False)]
    away = service("check", "--json", ELS_DATABASE_URL=UNAVAILABLE)
    assert away.json[0]["told"].startswith("ELS_DATABASE_URL: ")
    assert away.json[1]["told"].startswith("ELS_KAFKA_BOOTSTRAP_SERVERS: ")
    assert "secret" not in away.out


def test_check_reports_a_database_that_is_behind(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute("insert into els.progress (topic, partition, next_offset, previous_release) values ('t', 0, 9, true)")
    conn.execute("insert into els.recovery (state, why) values ('behind', '7 records are missing')")
    rows = [row for row in service("check", "--json").json if row["check"] == "progress"]
    assert [row["ok"] for row in rows] == [False, True]
    assert "7 records are missing; run `recover`" in rows[0]["told"]
    assert "previous release have owned 1 partitions" in rows[1]["told"]


def test_check_reports_wrong_planner_settings(service: CommandLine, app_url: str) -> None:
    ended = service(
        "check", "--json", ELS_DATABASE_URL=f"{app_url}{'&' if '?' in app_url else '?'}options=-c%20jit%3Don"
    )
    (row,) = [row for row in ended.json if row["check"] == "planner"]
    assert (ended.status, row["ok"]) == (1, False)
    assert row["told"].startswith("jit is on: set by the options")
    # Here the login is not the role, so its defaults are missing: as behind a pooler that connected before `migrate`.
    pooled = service("check", "--json", ELS_DATABASE_POOLER="transaction")
    (row,) = [row for row in pooled.json if row["check"] == "planner"]
    assert "enable_seqscan is on" in row["told"]
    assert "run `migrate`" in row["told"]


def found(service: CommandLine, check: str, **settings: str) -> str:
    """What `check` says about an error, which is the only one of its kind; its exit status is 1."""
    ended = service("check", "--json", **settings)
    (row,) = [row for row in ended.json if row["check"] == check and not row["ok"]]
    assert ended.status == 1
    return str(row["told"])


def test_check_reports_a_database_that_is_read_only(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute(f"alter database {conn.info.dbname} set default_transaction_read_only = on".encode())
    assert "read-only: default_transaction_read_only is on (set by: database)" in found(service, "database")
    assert service("run").failed_with(1, "ELS_DATABASE_URL: read-only: ")


def test_check_reports_too_few_connections(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    needed = 20 * (6 + 3 + 4) + 10
    told = found(service, "connections", ELS_MAX_PODS="20", ELS_VIEWER_TOKEN="x" * 16)
    assert "max_connections without the reserved ones is " in told
    assert f"and should be {needed}" in told
    conn.execute(f"alter database {conn.info.dbname} connection limit 18".encode())
    assert "CONNECTION LIMIT of the database is 18 and should be 19" in found(service, "connections")


def test_check_counts_the_sessions_of_all_cells_on_the_server(service: CommandLine, app_url: str) -> None:
    """The URLs of the other cells tell where they are: here four of sixteen are elsewhere, and one database exists."""
    here = [app_url, *(databases.database_in(app_url, f"els_{cell}") for cell in range(1, 12))]
    elsewhere = [f"postgresql://els_app:x@elsewhere/els_{cell}" for cell in range(12, 16)]
    of = {"ELS_CELLS": "16", "ELS_CELL": "0", "ELS_CELL_DATABASE_URLS": " ".join(here + elsewhere)}
    told = found(service, "connections", ELS_MAX_PODS="4", **of)
    assert told.startswith("too few connections for 12 cells: max_connections without the reserved ones is ")
    assert f"and should be {12 * 4 * (6 + 3) + 10};" in told


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_check_and_the_start_report_a_pooler_that_is_not_named(
    service: CommandLine, pgbouncer: Pooling, database_url: str, mode: str
) -> None:
    with pgbouncer(database_url, mode) as url:
        assert f"set ELS_DATABASE_POOLER to {mode}" in found(service, "pooler", ELS_DATABASE_URL=url)
        assert service("run", ELS_DATABASE_URL=url).failed_with(1, f"set ELS_DATABASE_POOLER to {mode}")
        named = service("check", "--json", ELS_DATABASE_URL=url, ELS_DATABASE_POOLER=mode)
        assert {row["check"]: row["ok"] for row in named.json}["database"]
        told = {row["check"] for row in named.json if not row["ok"]}
        # The login is not els_app, so behind a transaction pooler it has no settings.
        assert told == ({"broker"} if mode == "session" else {"broker", "timeouts", "planner"})


def test_check_reports_a_timeout_of_the_role_that_is_too_short(
    service: CommandLine, pgbouncer: Pooling, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(f"alter database {conn.info.dbname} set statement_timeout = '15ms'".encode())
    with pgbouncer(database_url, "transaction") as url:
        told = found(service, "timeouts", ELS_DATABASE_URL=url, ELS_DATABASE_POOLER="transaction")
    assert "statement_timeout is 15 ms and should be 60000 ms" in told


def test_check_warns_where_commits_are_not_durable_by_default(
    service: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(f"alter database {conn.info.dbname} set synchronous_commit = off".encode())
    (row,) = [row for row in service("check", "--json").json if row["check"] == "durability"]
    assert row["ok"]
    assert row["told"].startswith("warning: synchronous_commit is off by default")


# -- quarantine

INSERT = """
    insert into els.quarantine (
        topic, fingerprint, "partition", "offset", key, value, headers, reason, error, first_seen_at, last_seen_at
    )
    values (%s, sha256(%s), 1, 7, %s, %s, '[["trace", "1"], ["none", null]]', 'not_json', %s, now(), now())
    returning id
"""


def rejected(
    conn: psycopg.Connection[Any], value: bytes | None, *, key: bytes | None = b"k", error: str = "bad"
) -> int:
    row = conn.execute(INSERT, [CONTENT_PROVISIONED, value or b"", key, value, error]).fetchone()
    assert row is not None
    return int(row[0])


def test_the_quarantine_is_listed_in_pages(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    assert service("quarantine", "list", "--json").json == []
    assert service("quarantine", "list").out == "none\n"
    ids = [rejected(conn, b"%d" % number) for number in range(3)]
    page = service("quarantine", "list", "--json", "--limit", "2")
    assert [row["id"] for row in page.json] == ids[:0:-1]
    assert page.json[0].items() >= {"state": "open", "topic": CONTENT_PROVISIONED, "offset": 7}.items()
    assert [row["id"] for row in service("quarantine", "list", "--json", "--before", str(ids[1])).json] == ids[:1]
    assert service("quarantine", "list", "--json", "--state", "replayed", "--topic", BATCH_REGISTERED).json == []
    assert str(ids[0]) in service("quarantine", "list").out


def test_a_rejected_input_is_shown_as_text_only_if_it_is_text(
    service: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    shown = service("quarantine", "show", "--json", str(rejected(conn, '{"name": "Åsa"'.encode()))).json
    assert (shown["value"], shown["key"], shown["headers"]) == ('{"name": "Åsa"', "k", [["trace", "1"], ["none", None]])
    binary = service("quarantine", "show", "--json", str(rejected(conn, b"\xff\x00", key=None))).json
    assert (binary["value_base64"], "value" in binary, binary["key"]) == ("/wA=", False, None)
    escape = service("quarantine", "show", "--json", str(rejected(conn, b"\x1b[2J"))).json
    assert "value" not in escape
    assert service("quarantine", "show", str(rejected(conn, None))).status == 0
    assert service("quarantine", "show", "999").failed_with(1, "999")


def test_text_in_the_quarantine_cannot_style_the_terminal(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    id_ = rejected(conn, b"x", error="\x1b[31m[red]it says[/red] \x07")
    for ended in (service("quarantine", "list"), service("quarantine", "show", str(id_))):
        assert ended.status == 0
        assert "[red]it says[/red]" in ended.out
        assert "\x1b" not in ended.out
        assert "\x07" not in ended.out


def test_a_paused_topic_is_resumed_once(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute("insert into els.topic_refusals values (%s, 1000, now())", [CONTENT_PROVISIONED])
    assert service("quarantine", "resume", CONTENT_PROVISIONED).status == 0
    assert conn.execute("select count(*) from els.topic_refusals where stopped_at is not null").fetchone() == (0,)
    assert service("quarantine", "resume", CONTENT_PROVISIONED).failed_with(1, "is not paused")
    assert service("quarantine", "resume", "some.topic").failed_with(2, "some.topic", CONTENT_PROVISIONED)


def test_a_closed_pipe_causes_no_traceback(tmp_path: Path, app_url: str, conn: psycopg.Connection[Any]) -> None:
    for number in range(300):
        rejected(conn, b"%d" % number, error="e" * 1_000)
    command = f"{sys.executable} -m service quarantine list --limit 300 --json | head -1"
    ended = subprocess.run(
        ["/bin/sh", "-c", command],
        env={
            **plain_environment(),
            "PYTHONPATH": str(ROOT),
            "ELS_DATABASE_URL": app_url,
            "ELS_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{reserved_port()}",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("[\n", "")


# -- purge


def let_wait(conn: psycopg.Connection[Any], text_storage_id: str) -> None:
    """Insert a content that has waited for two days."""
    conn.execute(
        "insert into els.pending_content (batch_id, text_storage_id, arrival, file_upload_id, original_file_name,"
        " raw_file_storage_id, file_size_bytes, correlation_id, stored_at, waiting_since) values ('b', %(text)s,"
        " nextval('els.arrivals'), 'u', 'n', 'r', 1, gen_random_uuid(), now(), now() - interval '2 days')",
        {"text": text_storage_id},
    )


def test_purge_reports_what_it_did_and_a_dry_run_what_is_due(
    service: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    say_applied(conn)
    let_wait(conn, "c1")
    let_wait(conn, "c2")
    states = "select state, count(*) from els.pending_content group by state"
    for _ in range(2):
        dry = service("purge", "--dry-run", "--json")
        assert (dry.status, dry.json["expired_content"], dry.json["whole"]) == (0, 2, True)
    assert conn.execute(states).fetchall() == [("pending", 2)]
    done = service("purge", "--json")
    assert (done.status, done.err, done.json) == (0, "", dry.json)
    assert conn.execute("select count(*) from els.purge_rounds where ended_at <= now()").fetchone() == (1,)
    assert conn.execute(states).fetchall() == [("expired", 2)]
    people = service("purge")
    assert people.status == 0
    assert "expired content" in people.out


def test_purge_uses_the_settings(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    let_wait(conn, "c1")
    held = service("purge", "--json")
    assert (held.json["expired_content"], held.json["held"]) == (0, True)
    assert "not known to be applied" in held.err
    say_applied(conn)
    assert service("purge", "--json", ELS_PENDING_TTL_SECONDS="259200").json["expired_content"] == 0
    assert service("purge", "--json").json["expired_content"] == 1


def test_a_purge_beside_another_one_reports_that_it_is_not_complete(
    service: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtext('els'), hashtext('purge'))")
        ended = service("purge", "--json")
    assert (ended.status, ended.json["whole"]) == (1, False)
    assert "another" in ended.err


def test_recover_ends_the_state_behind(service: CommandLine, conn: psycopg.Connection[Any], kafka: Broker) -> None:
    conn.execute("insert into els.progress (topic, partition, next_offset) values (%s, 0, 0)", [CONTENT_PROVISIONED])
    conn.execute("insert into els.recovery (state, why) values ('behind', 'restored')")
    wrong = service("recover", "--fresh", **kafka.settings)
    assert (wrong.status, "not empty" in wrong.err) == (1, True)
    dry = service("recover", "--dry-run", "--json", **kafka.settings)
    assert (dry.status, dry.json["behind"], dry.json["counts"]["inputs to read"]) == (0, "restored", 0)
    assert conn.execute("select state from els.recovery").fetchall() == [("behind",)]
    done = service("recover", "--why", "the backup of 03:00", **kafka.settings)
    assert (done.status, "The database was behind: restored." in done.out) == (1, True)
    assert "operator actions of the lost time" in done.err
    assert conn.execute("select count(*) from els.recovery").fetchone() == (0,)
    assert conn.execute("select action, why from ops.operator_actions").fetchall() == [
        ("recover", "the backup of 03:00")
    ]


def test_recover_reports_the_operator_actions_that_it_cannot_repeat(
    service: CommandLine, kafka: Broker, tmp_path: Path
) -> None:
    """Also where the database is not known to be behind: an operator may have restored it."""
    acts = tmp_path / "acts.jsonl"
    acts.write_text(
        '{"at": "2026-11-30T01:00:00Z", "who": "me", "action": "pending remove", "batch_id": "b",'
        ' "details": {"contents": 1, "text_storage_ids": ["t"]}}\n'
    )
    listed = service("recover", "--acts", str(acts), **kafka.settings)
    assert (listed.status, "not repeated: pending remove b at 2026-11-30T01:00" in listed.err) == (1, True)
    acts.write_text("")
    assert service("recover", "--acts", str(acts), **kafka.settings).status == 0
    acts.write_text("{")
    assert service("recover", "--acts", str(acts), **kafka.settings).failed_with(1, "line 1 is not JSON")


def test_a_recovery_can_be_abandoned(service: CommandLine, conn: psycopg.Connection[Any], kafka: Broker) -> None:
    useless = service("recover", "--abandon", **kafka.settings)
    assert (useless.status, "no recovery has begun" in useless.err) == (1, True)
    conn.execute("insert into els.recovery (state, why) values ('recovering', 'restored')")
    conn.execute("insert into els.server_identity (identity) values ('another')")
    assert service("recover", "--abandon", "--why", "the backup is another one", **kafka.settings).status == 0
    assert conn.execute("select count(*) from els.recovery").fetchone() == (0,)
    assert conn.execute("select action from ops.operator_actions").fetchall() == [("recover abandon",)]


def test_an_empty_database_can_be_filled_with_all_inputs_as_new_ones(
    service: CommandLine, conn: psycopg.Connection[Any], kafka: Broker
) -> None:
    conn.execute("insert into els.recovery (state, why) values ('behind', 'it is empty')")
    assert service("recover", "--fresh", **kafka.settings).status == 0
    query = "select count(distinct topic), sum(next_offset) from els.progress"
    assert conn.execute(query).fetchone() == (len(INCOMING_TOPICS), 0)
    assert conn.execute("select count(*) from els.recovery").fetchone() == (0,)


def test_check_compares_retentions_with_those_of_the_topics(service: CommandLine, apache: Broker) -> None:
    ended = service("check", "--json", **apache.settings, ELS_EXPIRED_RETENTION_SECONDS="60")
    messages = [row["told"] for row in ended.json if not row["ok"]]
    assert ended.status == 1
    assert len(messages) == len(INCOMING_TOPICS)
    assert all("ELS_EXPIRED_RETENTION_SECONDS is 60" in each for each in messages)
