"""Tests that `top` shows the state of the service to any role that may read the views, also without a broker."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.local.processes import plain_environment
from deploy.servers.brokers import Broker
from deploy.servers.databases import url_as
from service.postgres import migration
from service.postgres.statements import STATEMENTS
from tests.support.builders.alive import ALIVE
from tests.support.pods.command_line import NOBODY, ROOT, CommandLine


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def top(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], database_url: str
) -> CommandLine:
    """`top` as a role that may only read the views, without a broker."""
    settings = {"ELS_DATABASE_URL": url_as(database_url, "els_ops"), "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY}
    return CommandLine(tmp_path, monkeypatch, capfd, settings)


def a_rejection(conn: psycopg.Connection[Any], error: str = "no JSON") -> None:
    conn.execute(
        'insert into els.quarantine (topic, fingerprint, partition, "offset", reason, error, first_seen_at,'
        " last_seen_at) values ('some.topic', sha256('x'), 0, 0, 'not_json', %s, now(), now())",
        [error],
    )


def test_the_screen_shows_whether_the_service_is_healthy_or_what_needs_attention(
    top: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(ALIVE)
    conn.execute("insert into els.notices (kind, detail) values ('servers', 'the database moved')")
    shown = top("top", "--once", "--interval", "1")
    assert (shown.status, "action needed" in shown.out) == (0, True), "the broker is unavailable"
    assert "the broker is unavailable" in shown.out
    assert "the database moved" in shown.out
    a_rejection(conn)
    conn.execute("insert into els.topic_refusals values ('huleedu.file.essay.content.provisioned.v1', 1000, now())")
    ended = top("top", "--once", "--interval", "1")
    assert ended.status == 1
    assert re.search("1 re(fused|jected) inputs are open: ops.quarantine", ended.out)
    assert "PAUSED" in ended.out
    assert "not_json, open" in ended.out


def test_rows_of_the_outbox_are_counted_in_both_their_tables(conn: psycopg.Connection[Any]) -> None:
    def counted() -> tuple[int, int]:
        conn.execute("select pg_stat_force_next_flush()")
        conn.row_factory = psycopg.rows.dict_row
        health = conn.execute(STATEMENTS["watch_health"]).fetchone()
        assert health
        return health["written"], health["published"]

    written, published = counted()
    conn.execute(
        "insert into els.outbox_pages (batch_id, topics, events) select 'b', '{}', '{}' from generate_series(1, 3)"
    )
    conn.execute("delete from els.outbox_pages where seq in (select seq from els.outbox_pages limit 2)")
    assert counted() == (written + 3, published + 2)


def test_scripts_get_the_whole_snapshot_as_json(top: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute(ALIVE)
    shown = top("top", "--once", "--json", "--interval", "1").json
    assert (shown["level"], shown["well"], shown["attention"], shown["lag"]) == ("fine", True, [], None)
    assert shown["health"]["relays"] == 1
    assert shown["rates"] == {"arriving": None, "written": 0.0, "published": 0.0}
    conn.execute("drop view ops.quarantine cascade")
    broken = top("top", "--once", "--json", "--interval", "1")
    assert (broken.status, broken.json["well"], broken.json["health"]) == (1, False, None)


def test_the_consumer_lag_is_shown(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    app_url: str,
    tansu: Broker,
    conn: psycopg.Connection[Any],
) -> None:
    conn.execute(ALIVE)
    top = CommandLine(tmp_path, monkeypatch, capfd, {"ELS_DATABASE_URL": app_url, **tansu.settings})
    shown = top("top", "--once", "--json", "--interval", "1", ELS_CONSUMER_GROUP="nobody-yet").json
    assert (shown["broker"], set(shown["lag"].values()), shown["rates"]["arriving"]) == (None, {0}, 0.0)
    assert "─\n│ fine " in top("top", "--once", "--interval", "1").out.replace("╮", "")
    conn.execute("insert into els.notices (kind, detail) values ('servers', 'the database moved')")
    assert " notice ─" in top("top", "--once", "--interval", "1").out


def test_the_screen_is_written_to_an_svg_file(top: CommandLine, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    a_rejection(conn)
    assert top("top", "--once", "--interval", "1", "--svg", str(tmp_path / "top.svg")).status == 1
    picture = (tmp_path / "top.svg").read_text()
    assert picture.startswith("<svg")
    assert "quarantine" in picture


class Terminal:
    """Runs `top` at a terminal and reads its screen."""

    def __init__(self, url: str, folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(self._ours, (40, 100))
        self._shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "top", "--interval", "1"],
            env={
                **plain_environment(),
                "PYTHONPATH": str(ROOT),
                "ELS_DATABASE_URL": url,
                "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY,
                "TERM": "xterm",
            },
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def shows(self, text: str, seconds: float = 60) -> None:
        """Wait until the text is on the screen again."""
        self._shown = ""
        end = time.monotonic() + seconds
        while text not in self._shown:
            assert time.monotonic() < end, self._shown[-3000:]
            if select.select([self._ours], [], [], 0.1)[0]:
                self._shown += os.read(self._ours, 65_536).decode(errors="replace")

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[[str], Terminal]]:
    opened: list[Terminal] = []

    def open_one(url: str) -> Terminal:
        opened.append(Terminal(url, tmp_path))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_it_survives_a_stop_of_the_database_and_ends_at_q(
    durable_postgres: Postgres, terminal: Callable[[str], Terminal]
) -> None:
    url = durable_postgres.url()
    migration.upgrade(url)
    top = terminal(url)
    top.shows("no pod publishes events")
    durable_postgres.stop()
    top.shows("the database is unavailable")
    durable_postgres.start()
    top.shows("no pod publishes events")
    top.press("q")
    assert top.process.wait(timeout=30) == 0


def test_text_from_outside_cannot_style_the_terminal(top: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "insert into els.operator_actions (who, action, why, topic) values ('me', 'x', '[red]\x1b[31m', 'a\x07b')"
    )
    shown = top("top", "--once", "--interval", "1").out
    assert "[red]\ufffd[31m" in shown
    assert "\x1b[31m" not in shown
    assert "\x07" not in shown


def test_the_latest_events_are_read_by_indexes(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        """
        insert into els.pending_content (
            batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id,
            file_size_bytes, correlation_id, stored_at, waiting_since, state, closed_at
        )
        select 'b' || n % 1000, 't' || n, n, 'u', 'f', 'r', 1, gen_random_uuid(), now(), now() - n * interval '1 s',
            case when n % 2 = 0 then 'pending' else 'expired' end, case when n % 2 = 1 then now() end
        from generate_series(1, 20000) as n;
        insert into els.batches (
            batch_id, expected, assigned, state, essay_set, course_code, user_id, essay_instructions, correlation_id,
            registered_at, changed_at, completed_at
        )
        select 'b' || n, 1, 1, 'ready', sha256('x'), 'ENG5', 'u', '', gen_random_uuid(), now(), now(), now()
        from generate_series(1, 20000) as n;
        insert into els.quarantine (
            topic, fingerprint, partition, "offset", reason, error, first_seen_at, last_seen_at
        )
        select 't', sha256(n::text::bytea), 0, n, 'r', 'e', now(), now()
        from generate_series(1, 20000) as n;
        insert into els.operator_actions (who, action, why)
        select 'me', 'x', '' from generate_series(1, 20000);
        analyze
        """
    )
    explained = conn.execute(
        f"explain (analyze, format json) {STATEMENTS['watch_events']}".encode(), {"page": 12}
    ).fetchone()
    assert explained is not None
    plan = json.dumps(explained[0])
    assert set(re.findall(r'"Seq Scan".*?"Relation Name": "(\w+)"', plan)) == {"slice"}
    for index in ("batches_ended", "pending_content_due", "pending_content_expired", "quarantine_pkey"):
        assert index in plan
