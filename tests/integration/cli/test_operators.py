"""Tests the commands of operators on pending content, quarantine and batches, and the log of their actions."""

import asyncio
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.local.processes import plain_environment
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import Reason, Rejection
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.intake.intake import Intake
from service.operators.errors import Conflict
from service.operators.replay import Replay
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS
from service.runtime.health import Health
from service.store.operator_actions import Operator
from tests.support.builders.inputs import content, delivery, failed, provisioned, registered
from tests.support.interleaving.interleaving import forget
from tests.support.pods.command_line import NOBODY, ROOT, CommandLine


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


class Pod:
    """The part of a pod that applies polls."""

    def __init__(self, url: str) -> None:
        self._url = url

    def take(self, *deliveries: Delivery) -> None:
        """Apply records as the consumer would, in an event loop of its own like that of the command line."""
        asyncio.run(self._take(deliveries))

    async def _take(self, deliveries: tuple[Delivery, ...]) -> None:
        database = Database(self._url, pool_size=1)
        outcome = await Intake(database, IntakeLimits(), Health("database"), forget).take(deliveries)
        assert (outcome.deferred, outcome.not_admitted) == ([], [])
        await database.close()


@pytest.fixture
def pod(app_url: str) -> Pod:
    return Pod(app_url)


def expire(conn: psycopg.Connection[Any], *texts: str) -> None:
    """Expire content as a purge round would."""
    conn.execute(
        "update els.pending_content set state = 'expired', closed_at = now(), waiting_since = now() - interval '2 days'"
        " where text_storage_id = any(%s)",
        [list(texts)],
    )


def expire_failures(conn: psycopg.Connection[Any]) -> None:
    """Expire all waiting failures as a purge round would."""
    conn.execute("update els.validation_failures set state = 'expired', closed_at = now() where state = 'pending'")


def states(conn: psycopg.Connection[Any]) -> dict[str, str]:
    rows = conn.execute("select text_storage_id, state from els.pending_content order by arrival").fetchall()
    return dict(rows)


def written(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("select who, action, batch_id, topic, why, details from ops.operator_actions").fetchall()


def environment(app_url: str) -> dict[str, str]:
    """Returns the environment of a command in a process of its own."""
    return {
        **plain_environment(),
        "PYTHONPATH": str(ROOT),
        "ELS_DATABASE_URL": app_url,
        "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY,
        "TERM": "xterm",
    }


def in_a_process(
    app_url: str, folder: Path, *arguments: str, stdin: int | None = None, stderr: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=environment(app_url),
        cwd=folder,
        text=True,
        timeout=60,
        check=False,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


# -- pending


def test_pending_content_is_listed_in_pages_the_longest_waiting_first(service: CommandLine, pod: Pod) -> None:
    assert service("pending", "list").out == "none\n"
    for each in (provisioned("b2", "t1"), provisioned("b1", "t2"), provisioned("b2", "t3")):
        pod.take(each)
    listed = service("pending", "list", "--json", "--limit", "2")
    assert [(row["batch_id"], row["text_storage_id"]) for row in listed.json] == [("b2", "t1"), ("b1", "t2")]
    after = listed.err.split("--after=")[1].strip()
    assert after == f"{listed.json[1]['waiting_since']}/{listed.json[1]['arrival']}"
    rest = service("pending", "list", "--json", "--limit", "2", "--after", after)
    assert ([row["text_storage_id"] for row in rest.json], rest.err) == (["t3"], "")
    assert "t3.txt" in service("pending", "list").out


def test_pending_content_is_filtered_by_batch_age_file_name_and_state(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(
        provisioned("b1", "t1"), provisioned("b1", "t2"), provisioned("b2", "t3", original_file_name="100%_ÅSA.txt")
    )
    conn.execute("update els.pending_content set stored_at = now() - interval '3 hours' where text_storage_id = 't1'")
    expire(conn, "t2")

    def found(*arguments: str) -> list[str]:
        return [row["text_storage_id"] for row in service("pending", "list", "--json", *arguments).json]

    assert found() == ["t1", "t3"]
    assert found("--batch", "b1") == ["t1"]
    assert found("--older-than", "2h") == ["t1"]
    assert found("--newer-than", "120m") == ["t3"]
    assert found("--file", "%_åsa") == ["t3"]
    assert found("--file", "1_0") == []
    assert found("--state", "expired") == ["t2"]
    assert found("--state", "removed") == []


def test_a_page_of_pending_content_is_read_by_an_index(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        """
        insert into els.pending_content (
            batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id,
            file_size_bytes, correlation_id, stored_at, waiting_since
        )
        select 'b' || n % 1000, 't' || n, n, 'u', 'f', 'r', 1, gen_random_uuid(), now(), now() - n * interval '1 s'
        from generate_series(1, 20000) as n
        """
    )
    conn.execute("analyze els.pending_content")
    names = ("batch_id", "contains", "older_than", "newer_than", "after_time", "after_arrival")
    anything = {**dict.fromkeys(names), "state": "pending", "page": 50}

    def plan(**conditions: object) -> str:
        lines = conn.execute(f"explain {STATEMENTS['list_pending_content']}".encode(), anything | conditions)
        return "\n".join(line for (line,) in lines)

    page_after = {"after_time": datetime.now(UTC), "after_arrival": 7}
    for each in (plan(), plan(**page_after)):
        assert "pending_content_due" in each
        assert "Seq Scan" not in each
    assert "pending_content_pkey" in plan(batch_id="b7") or "pending_content_order" in plan(batch_id="b7")


def test_a_content_is_shown_with_all_fields_or_an_error_says_why_not(service: CommandLine, pod: Pod) -> None:
    pod.take(provisioned("b", "t"), registered("r", "e1"))
    shown = service("pending", "show", "b", "t", "--json").json
    assert (shown["state"], shown["original_file_name"], shown["file_upload_id"]) == ("pending", "t.txt", "upload-t")
    assert "original_file_name: t.txt" in service("pending", "show", "b", "t").out
    assert service("pending", "show", "b", "x").failed_with(1, "no content x")
    assert service("pending", "show", "r", "x").failed_with(1, "batch r is registered")


def test_removed_content_stays_removed_after_redelivery_and_is_logged(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    contents = [provisioned("b", "t1"), provisioned("b", "t2"), provisioned("b", "t3")]
    pod.take(*contents)
    ended = service("pending", "remove", "b", "t1", "t2", "--yes", "--who", "Åsa", "--why", "wrong class")
    assert (ended.status, ended.out) == (0, "2 contents of batch b removed.\n")
    pod.take(*contents)
    assert states(conn) == {"t1": "removed", "t2": "removed", "t3": "pending"}
    details = {"contents": 2, "text_storage_ids": ["t1", "t2"]}
    assert written(conn) == [("Åsa", "pending remove", "b", None, "wrong class", details)]
    assert conn.execute(
        "select count(*) from els.pending_content, els.operator_actions where closed_at = at"
    ).fetchone() == (2,)
    removed = conn.execute("select text_storage_id, who, why from ops.removed_content order by 1").fetchall()
    assert removed == [("t1", "Åsa", "wrong class"), ("t2", "Åsa", "wrong class")]
    pod.take(registered("b", "e1", "e2"), *contents)
    assert conn.execute("select text_storage_id from els.slots order by position").fetchall() == [("t3",), (None,)]
    assert states(conn) == {"t1": "removed", "t2": "removed"}


def test_removing_missing_content_is_an_error_and_changes_nothing(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t"))
    assert service("pending", "remove", "b", "x", "--yes").failed_with(1, "no such content waits for batch b")
    assert service("pending", "clear", "b", "--older-than", "1h", "--yes").failed_with(1, "no such content")
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


def test_of_named_contents_all_are_changed_or_none(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"))
    assert service("pending", "remove", "b", "t1", "x", "--yes").failed_with(1, "no such content waits for batch b: x")
    expire(conn, "t1")
    assert service("pending", "restore", "b", "t1", "t2").failed_with(1, "no such content of batch b is expired: t2")
    assert (states(conn), written(conn)) == ({"t1": "expired", "t2": "pending"}, [])


def test_clear_removes_all_pending_and_expired_content_of_one_batch(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"), provisioned("other", "t3"))
    expire(conn, "t2")
    assert service("pending", "clear", "b", "--file", "T1", "--yes").out == "1 content of batch b removed.\n"
    assert service("pending", "clear", "b", "--yes").out == "1 content of batch b removed.\n"
    assert states(conn) == {"t1": "removed", "t2": "removed", "t3": "pending"}
    assert [row[5] for row in written(conn)] == [
        {"contents": 1, "text_storage_ids": ["t1"], "contains": "T1"},
        {"contents": 1, "text_storage_ids": ["t2"]},
    ]


def test_nothing_is_removed_without_a_terminal_for_the_confirmation(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.take(provisioned("b", "t"))
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        for command in (["remove", "b", "t"], ["clear", "b"]):
            assert service("pending", *command).failed_with(2, "--yes")
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


@pytest.mark.parametrize(("answer", "status", "state"), [("n", 1, "pending"), ("", 1, "pending"), ("y", 0, "removed")])
def test_at_a_terminal_the_command_asks_for_confirmation(
    pod: Pod, conn: psycopg.Connection[Any], app_url: str, tmp_path: Path, answer: str, status: int, state: str
) -> None:
    pod.take(provisioned("b", "t"))
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    ended = in_a_process(app_url, tmp_path, "pending", "clear", "b", stdin=theirs)
    os.close(ours)
    os.close(theirs)
    assert ended.stderr.startswith("Remove 1 content of batch b? [y/N] ")
    assert (ended.returncode, states(conn)) == (status, {"t": state})


def test_ctrl_c_at_the_confirmation_ends_the_command(
    pod: Pod, conn: psycopg.Connection[Any], app_url: str, tmp_path: Path
) -> None:
    pod.take(provisioned("b", "t"))
    asking = [sys.executable, "-m", "service", "pending", "clear", "b"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        asking, env=environment(app_url), cwd=tmp_path, stdin=theirs, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stderr
        assert command.stderr.read(len("Remove 1 content of batch b? [y/N] ")).endswith("[y/N] ")
        command.send_signal(signal.SIGINT)
        try:
            status = command.wait(timeout=20)
        finally:
            command.kill()
    os.close(ours)
    os.close(theirs)
    assert (status, states(conn)) == (130, {"t": "pending"})


def test_a_registered_batch_has_nothing_to_remove_or_to_restore(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t"), registered("b", "e1"))
    for command in (["remove", "b", "t", "--yes"], ["clear", "b", "--yes"], ["restore", "b"]):
        assert service("pending", *command).failed_with(1, "batch b is registered")
    assert written(conn) == []


def test_content_cannot_be_removed_while_its_batch_is_being_registered(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    """A running registration holds the lock of the batch: nobody removes content that it may assign."""
    pod.take(provisioned("b", "t"))
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('b', 0))")
        assert service("pending", "clear", "b", "--yes").failed_with(
            1, "another transaction is working on this", "try again"
        )
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


def test_restored_content_keeps_its_place_in_the_order(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(*(provisioned("b", f"t{number}") for number in range(1, 5)))
    expire(conn, "t1", "t2", "t4")
    assert service("pending", "restore", "b", "t2", "--why", "late").out == "1 content of batch b restored.\n"
    assert states(conn) == {"t1": "expired", "t2": "pending", "t3": "pending", "t4": "expired"}
    assert service("pending", "restore", "b").out == "2 contents of batch b restored.\n"
    assert conn.execute(
        "select count(*) from els.pending_content where closed_at is null and waiting_since > now() - interval '1 hour'"
    ).fetchone() == (4,)
    assert service("pending", "restore", "b").failed_with(1, "no such content of batch b is expired")
    pod.take(registered("b", "e1", "e2", "e3", "e4"))
    assert conn.execute("select text_storage_id from els.slots order by position").fetchall() == [
        ("t1",), ("t2",), ("t3",), ("t4",)
    ]  # fmt: skip
    assert [(row[1], row[4], row[5]["contents"]) for row in written(conn)] == [
        ("pending restore", "late", 1),
        ("pending restore", "", 2),
    ]


def test_removed_content_is_not_restored(service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]) -> None:
    pod.take(provisioned("b", "t"))
    assert service("pending", "clear", "b", "--yes").status == 0
    assert service("pending", "restore", "b").failed_with(1, "no such content")
    assert states(conn) == {"t": "removed"}


def test_a_restore_needs_a_batch_a_filter_or_all(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    assert service("pending", "restore").failed_with(2, "--all")
    assert service("pending", "restore", "--dry-run").failed_with(2, "--all")
    assert service("pending", "restore", "b", "t", "--file", "x").failed_with(2, "cannot be combined with a filter")
    assert service("pending", "restore", "--all").failed_with(1, "no such content is expired")
    assert written(conn) == []


def test_what_expired_is_restored_in_pages_and_keeps_its_place_for_the_registration(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    batches = [f"b{number}" for number in range(4)]
    for batch in batches:
        pod.take(*(provisioned(batch, f"{batch}-{number:03}") for number in range(300)))
    order = conn.execute("select batch_id, text_storage_id, arrival from els.pending_content order by 3").fetchall()
    expire(conn, *(text for _, text, _ in order))
    ended = service("pending", "restore", "--all", "--why", "wrong TTL")
    assert (ended.status, ended.out) == (0, "1200 contents restored.\n")
    found = "select batch_id, text_storage_id, arrival from els.pending_content where state = 'pending' order by 3"
    assert conn.execute(found).fetchall() == order
    assert conn.execute(
        "select count(*) from els.pending_content where closed_at is null and waiting_since > now() - interval '1 hour'"
    ).fetchone() == (1200,)
    actions = conn.execute("select at, action, why, details from ops.operator_actions").fetchall()
    assert {row[1:3] for row in actions} == {("pending restore", "wrong TTL")}
    pages: dict[Any, int] = {}
    for at, _, _, details in actions:
        pages[at] = pages.get(at, 0) + details["contents"]
    assert sorted(pages.values()) == [200, 500, 500]
    for batch in batches:
        pod.take(registered(batch, *(f"{batch}-e{number:03}" for number in range(300))))
    slots = conn.execute("select text_storage_id from els.slots order by batch_id, position").fetchall()
    assert slots == [(text,) for _, text, _ in order]
    assert conn.execute("table ops.invariant_violations").fetchall() == []


def test_expired_failures_are_restored_too(service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]) -> None:
    pod.take(provisioned("b", "t"), failed("b", "u1"), failed("b", "u2"), failed("c", "u3"))
    order = "select file_upload_id, state, arrival from els.validation_failures order by arrival"
    before = conn.execute(order).fetchall()
    expire(conn, "t")
    expire_failures(conn)
    assert service("pending", "restore", "b", "t").out == "1 content of batch b restored.\n"
    ended = service("pending", "restore", "b")
    assert ended.out == "0 contents and 2 validation failures of batch b restored.\n"
    ended = service("pending", "restore", "--newer-than", "1h", "--json")
    assert ended.json == {"contents": 0, "failures": 1, "busy": [], "registered": []}
    assert conn.execute(order).fetchall() == before
    assert written(conn)[1][5] == {
        "contents": 0, "text_storage_ids": [], "failures": 2, "file_upload_ids": ["u1", "u2"],
    }  # fmt: skip
    pod.take(registered("b", "e1", "e2"))
    taken = conn.execute("select state from els.validation_failures where batch_id = 'b' order by arrival").fetchall()
    assert taken == [("slot",), ("surplus",)]


def test_filters_select_what_is_restored_and_a_dry_run_changes_nothing(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"), provisioned("c", "t3"), failed("c", "u"))
    expire(conn, "t1", "t2", "t3")
    expire_failures(conn)
    conn.execute("update els.pending_content set closed_at = now() - interval '3 days' where text_storage_id = 't1'")
    before = [
        conn.execute(f"table els.{table}".encode()).fetchall() for table in ("pending_content", "validation_failures")
    ]
    for arguments, counted in (
        (["--all"], "3 contents and 1 validation failure would be restored."),
        (["--newer-than", "1d"], "2 contents and 1 validation failure would be restored."),
        (["--older-than", "1d"], "1 content would be restored."),
        (["--file", "T3"], "1 content would be restored."),
        (["b", "--newer-than", "1d"], "1 content of batch b would be restored."),
        (["b"], "2 contents of batch b would be restored."),
        (["b", "t1"], "1 content of batch b would be restored."),
        (["--file", "nowhere"], "0 contents would be restored."),
    ):
        ended = service("pending", "restore", *arguments, "--dry-run")
        assert (ended.status, ended.out) == (0, f"{counted}\n")
    after = [
        conn.execute(f"table els.{table}".encode()).fetchall() for table in ("pending_content", "validation_failures")
    ]
    assert (after, written(conn)) == (before, [])
    assert service("pending", "restore", "b", "--newer-than", "1d").out == "1 content of batch b restored.\n"
    assert states(conn) == {"t1": "expired", "t2": "pending", "t3": "expired"}
    assert written(conn)[0][5] == {"contents": 1, "text_storage_ids": ["t2"], "newer_than": 86400.0}
    assert service("pending", "restore", "--older-than", "1d").out == "1 content restored.\n"
    assert states(conn) == {"t1": "pending", "t2": "pending", "t3": "expired"}


def test_what_belongs_to_a_registered_batch_is_never_restored(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    """As if the registration had come between the search and the lock: a row for the batch is planted."""
    pod.take(provisioned("b", "t1"), provisioned("r", "t2"), failed("r", "u"))
    expire(conn, "t1", "t2")
    expire_failures(conn)
    conn.execute(
        "insert into els.batches (batch_id, expected, essay_set, course_code, user_id, essay_instructions,"
        " correlation_id, registered_at, changed_at)"
        " values ('r', 1, sha256('x'), 'ENG5', 'a teacher', '', gen_random_uuid(), now(), now())"
    )
    for arguments in (["--all"], ["--file", "T"]):
        ended = service("pending", "restore", *arguments)
        assert (ended.status, "batches were skipped: 1 registered (r)" in ended.err) == (1, True)
    assert states(conn) == {"t1": "pending", "t2": "expired"}
    assert conn.execute("select state from els.validation_failures").fetchall() == [("expired",)]
    assert [row[2] for row in written(conn)] == ["b"]


def test_a_batch_whose_lock_is_held_is_skipped_and_reported(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(*(provisioned("busy", f"t{number:03}") for number in range(600)), provisioned("free", "u"))
    expire(conn, *states(conn))
    conn.execute("update els.pending_content set closed_at = closed_at - interval '1 minute' where batch_id = 'busy'")
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock_shared(hashtextextended('busy', 0))")
        ended = service("pending", "restore", "--all", "--json")
        assert (ended.status, "batches were skipped: 1 busy (busy)" in ended.err) == (1, True)
        assert ended.json == {"contents": 1, "failures": 0, "busy": ["busy"], "registered": []}
    assert conn.execute("select batch_id from els.pending_content where state = 'pending'").fetchall() == [("free",)]
    assert service("pending", "restore", "--all").out == "600 contents restored.\n"


# -- quarantine


def rejected_by_a_bug(value: bytes, topic: str = CONTENT_PROVISIONED) -> Delivery:
    """A record that was rejected when it arrived; the present code accepts it."""
    return delivery(topic, value, event=Rejection(Reason.INVALID_FIELD, "said the bug"))


def quarantined(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("select state, reason, deliveries from els.quarantine order by id").fetchall()


def ids(conn: psycopg.Connection[Any]) -> list[int]:
    return [id_ for (id_,) in conn.execute("select id from els.quarantine order by id")]


def test_an_input_that_a_bug_rejected_is_replayed_after_the_fix(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    rejected = rejected_by_a_bug(content("b", "t"))
    pod.take(rejected)
    (id_,) = ids(conn)
    ended = service("quarantine", "replay", str(id_), "--json", "--who", "me", "--why", "fixed in 1.2")
    assert (ended.status, ended.err) == (0, "")
    assert ended.json == [{"id": id_, "topic": CONTENT_PROVISIONED, "outcome": "pending", "error": ""}]
    assert states(conn) == {"t": "pending"}
    details = {"id": id_, "outcome": "pending", "reason": "invalid_field"}
    assert written(conn) == [("me", "quarantine replay", None, CONTENT_PROVISIONED, "fixed in 1.2", details)]
    # Delivered again, to a pod with the fix and to one without: it stays closed, and nothing is applied twice.
    pod.take(provisioned("b", "t"), rejected)
    assert quarantined(conn) == [("replayed", "invalid_field", 2)]
    assert states(conn) == {"t": "pending"}
    assert service("quarantine", "replay", str(id_)).failed_with(1, "not open")


def test_each_kind_of_input_can_be_replayed_and_its_outcome_is_reported(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    deliveries = [registered("b", "e1", "e2"), provisioned("b", "t1"), failed("b", "u1"), provisioned("b", "t2")]
    for each in [*deliveries, provisioned("x", "t3")]:
        pod.take(delivery(each.topic, each.value, event=Rejection(Reason.DATA_ERROR, "then")))
    pod.take(provisioned("x", "t3"))
    ended = service("quarantine", "replay", "--all", "--json")
    assert [row["outcome"] for row in ended.json] == ["registered", "assigned", "failure slot", "excess", "repeat"]
    assert conn.execute("select state, assigned, failed from ops.batches").fetchall() == [("ready", 1, 1)]
    assert conn.execute("select count(*) from ops.outbox_events where topic like '%ready%'").fetchone() == (1,)
    assert {row[0] for row in quarantined(conn)} == {"replayed"}


def test_an_input_that_is_rejected_again_stays_open_with_its_new_reason(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1"))
    contradiction = registered("b", "e2")
    bad = [
        rejected_by_a_bug(b"no JSON"),
        rejected_by_a_bug(contradiction.value or b"", BATCH_REGISTERED),
        rejected_by_a_bug(content("b", "t", original_file_name="x" * 2_500_000)),
    ]
    for each in bad:
        pod.take(each)
    ended = service("quarantine", "replay", "--reason", "invalid_field", "--json", ELS_MAX_MESSAGE_BYTES="4194304")
    reasons = ["not_json", "conflicting_registration", "invalid_field"]
    assert (ended.status, ended.err) == (1, "3 of 3 could not be replayed\n")
    assert [row["outcome"] for row in ended.json] == reasons
    assert all(row["error"] for row in ended.json)
    assert quarantined(conn) == [("open", reason, 1) for reason in reasons]
    assert [row[5]["outcome"] for row in written(conn)] == ["rejected"] * 3
    assert conn.execute("select count(*) from els.slots where state <> 'open'").fetchone() == (0,)
    people = service("quarantine", "replay", str(ids(conn)[0]))
    assert (people.status, people.err) == (1, "1 of 1 could not be replayed\n")
    assert "not_json" in people.out


def test_a_thousand_inputs_are_replayed_and_failures_are_reported(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(
        registered("b", *(f"e{number}" for number in range(990))),
        rejected_by_a_bug(b"no JSON"),
        *(rejected_by_a_bug(content("b", f"t{number}")) for number in range(999)),
    )
    ended = service("quarantine", "replay", "--topic", CONTENT_PROVISIONED, "--newer-than", "1h")
    assert (ended.status, ended.err) == (1, "1 of 1000 could not be replayed\n")
    assert ended.out.endswith("990 replayed: assigned\n9 replayed: excess\n")
    assert conn.execute("select state, assigned from ops.batches").fetchall() == [("ready", 990)]
    assert conn.execute("select count(*) from ops.operator_actions").fetchone() == (1000,)


def test_inputs_of_one_poll_are_replayed_in_the_order_of_arrival(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    texts = [f"t{number}" for number in range(20)]
    pod.take(*(rejected_by_a_bug(content("b", text)) for text in texts))
    assert service("quarantine", "replay", "--all").status == 0
    arrived = conn.execute("select text_storage_id from els.pending_content order by arrival").fetchall()
    assert [text for (text,) in arrived] == texts


def test_progress_is_shown_only_at_a_terminal(
    pod: Pod, conn: psycopg.Connection[Any], app_url: str, tmp_path: Path
) -> None:
    pod.take(*(rejected_by_a_bug(content("b", f"t{number}")) for number in range(20)))
    ours, theirs = pty.openpty()
    ended = in_a_process(app_url, tmp_path, "quarantine", "replay", "--all", stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert (ended.returncode, ended.stdout) == (0, "20 replayed: pending\n")
    assert "Replaying" in shown
    assert "/20" in shown


async def test_a_replay_of_an_input_that_is_closed_meanwhile_changes_nothing(
    app_url: str, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    database = Database(app_url, pool_size=2)
    intake = Intake(database, IntakeLimits(), Health("database"), forget)
    await intake.take([rejected_by_a_bug(content("b", "t"))])
    (id_,) = ids(conn)
    replay = Replay(database, Operator("me"), IntakeLimits(), DEFAULT_LIMITS)
    with psycopg.connect(database_url) as holder:
        holder.execute("select pg_advisory_xact_lock(hashtextextended('b', 0))")
        replaying = asyncio.create_task(replay.replay(id_))
        waiting = "select exists (select from pg_locks where locktype = 'advisory' and not granted)"
        async with asyncio.timeout(60):
            while conn.execute(waiting).fetchone() != (True,):  # noqa: ASYNC110  the database sends no event
                await asyncio.sleep(0.01)
        conn.execute("update els.quarantine set state = 'discarded', closed_at = now()")
    with pytest.raises(Conflict):
        await replaying
    await database.close()
    assert (states(conn), written(conn), quarantined(conn)[0][0]) == ({}, [], "discarded")


def test_discarded_inputs_stay_discarded_and_are_logged(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    bad = [delivery(CONTENT_PROVISIONED, b"no JSON %d" % number) for number in range(3)]
    pod.take(*bad)
    first, second, third = ids(conn)
    ended = service("quarantine", "discard", str(first), str(third), "--yes", "--why", "a test by the File Service")
    assert (ended.status, ended.out) == (0, "2 inputs discarded.\n")
    pod.take(*bad)
    assert [row[0] for row in quarantined(conn)] == ["discarded", "open", "discarded"]
    assert sorted(row[5]["id"] for row in written(conn)) == [first, third]
    assert {(row[1], row[3], row[4]) for row in written(conn)} == {
        ("quarantine discard", CONTENT_PROVISIONED, "a test by the File Service")
    }
    assert service("quarantine", "discard", str(first), "--yes").failed_with(1, f"input {first} ", "not open")
    assert service("quarantine", "discard", "--older-than", "1h", "--yes").failed_with(
        1, "no open input in the quarantine matches"
    )
    listed = service("quarantine", "list", "--reason", "not_json", "--state", "open", "--json").json
    assert [row["id"] for row in listed] == [second]


def test_the_whole_quarantine_is_never_selected_by_mistake(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.take(delivery(CONTENT_PROVISIONED, b"no JSON"))
    assert service("quarantine", "discard", "--yes").failed_with(2, "--all")
    assert service("quarantine", "replay").failed_with(2, "--all")
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert service("quarantine", "discard", "--all").failed_with(2, "--yes")
    assert (quarantined(conn), written(conn)) == ([("open", "not_json", 1)], [])


def test_resuming_a_topic_is_logged(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    conn.execute("insert into els.topic_refusals values (%s, 1000, now())", [CONTENT_PROVISIONED])
    assert service("quarantine", "resume", CONTENT_PROVISIONED, "--who", "me").status == 0
    assert written(conn) == [("me", "quarantine resume", None, CONTENT_PROVISIONED, "", {})]


# -- batches


def test_batches_are_listed_in_pages_by_state_user_and_age(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    assert service("batches", "list").out == "none\n"
    pod.take(registered("b1", "e1"), registered("b2", "e1"), registered("b3", "e1"), provisioned("b2", "t"))
    conn.execute(
        "update els.batches set user_id = 'another', registered_at = now() - interval '2 days' where batch_id = 'b3'"
    )

    def found(*arguments: str) -> list[str]:
        return [row["batch_id"] for row in service("batches", "list", "--json", *arguments).json]

    assert found() == ["b1", "b2", "b3"]
    assert found("--limit", "2") == ["b1", "b2"]
    assert "--after=b2" in service("batches", "list", "--limit", "2").err
    assert found("--after", "b2") == ["b3"]
    assert found("--state", "ready") == ["b2"]
    assert found("--state", "registered", "--older-than", "1d") == ["b3"]
    assert found("--newer-than", "1d") == ["b1", "b2"]
    assert found("--user", "another") == ["b3"]


def test_a_batch_is_shown_with_its_slots_in_pages(service: CommandLine, pod: Pod) -> None:
    pod.take(registered("b", "e2", "e1", "e3"), provisioned("b", "t"), provisioned("early", "t"))
    shown = service("batches", "show", "b", "--json", "--limit", "2")
    assert (shown.json["state"], shown.json["open"], shown.json["to_be_published"]) == ("registered", 2, 1)
    assert [(slot["essay_id"], slot["text_storage_id"]) for slot in shown.json["slots"]] == [("e2", "t"), ("e1", None)]
    assert "--after=2" in shown.err
    rest = service("batches", "show", "b", "--json", "--limit", "1", "--after", "2")
    assert ([slot["essay_id"] for slot in rest.json["slots"]], rest.err) == (["e3"], "")
    assert "t.txt" in service("batches", "show", "b").out
    assert service("batches", "show", "early").failed_with(1, "early is not registered", "1 content waiting")


def test_the_events_of_a_batch_are_published_again_unchanged_after_all_others(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2", "e3"), provisioned("b", "t1"), failed("b", "u1"), provisioned("b", "t2"))
    outbox = "select event_id, topic, event from ops.outbox_events order by seq"
    before = conn.execute(outbox).fetchall()
    ended = service("batches", "republish", "b", "--why", "BOS lost it")
    assert (ended.status, len(ended.out.splitlines())) == (0, 3)
    assert conn.execute(outbox).fetchall() == before + before[-3:]
    ((_, action, batch_id, _, why, details),) = written(conn)
    assert (action, batch_id, why) == ("batches republish", "b", "BOS lost it")
    assert [each["event_id"] for each in details["events"]] == [str(row[0]) for row in before[-3:]]


def test_a_failed_batch_publishes_its_errors_again_and_no_ready_event(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1"), failed("b", "u1"))
    assert service("batches", "republish", "b").status == 0
    rows = conn.execute(
        "select topic, count(distinct event_id), count(*) from ops.outbox_events group by topic"
    ).fetchall()
    assert rows == [("huleedu.els.batch.validation.errors.v1", 1, 2)]


def test_a_batch_that_is_not_complete_has_nothing_to_publish_again(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2"), provisioned("b", "t"))
    assert service("batches", "republish", "b").failed_with(1, "1 of its 2 slots")
    assert service("batches", "republish", "x").failed_with(1, "batch x is not registered")
    assert conn.execute("select count(*) from ops.outbox_events").fetchone() == (1,)
    assert written(conn) == []


def test_an_input_that_has_killed_a_process_is_replayed_in_another_one(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.take(rejected_by_a_bug(content("b", "t1")), rejected_by_a_bug(content("b", "t2")))
    conn.execute("update els.quarantine set reason = 'killed_the_process'")
    first, second = ids(conn)
    ended = service("quarantine", "replay", str(first), "--why", "it was fixed", "--json", PYTHONPATH=str(ROOT))
    assert (ended.status, ended.json[0]["outcome"]) == (0, "pending")
    monkeypatch.setattr("service.operators.apart.sys.executable", "/bin/false")
    ended = service("quarantine", "replay", str(second), "--json")
    assert (ended.status, ended.json[0]["outcome"]) == (1, "killed_the_process")
    assert conn.execute("select state from els.quarantine order by id").fetchall() == [("replayed",), ("open",)]
    actions = conn.execute("select details ->> 'outcome', why from els.operator_actions order by id").fetchall()
    assert actions == [("pending", "it was fixed"), ("killed_the_process", "")]


def test_a_topic_is_resumed_although_its_next_records_are_bad(
    conn: psycopg.Connection[Any], service: CommandLine
) -> None:
    conn.execute("insert into els.topic_refusals values (%s, 1000, now())", [CONTENT_PROVISIONED])
    assert service("quarantine", "resume", CONTENT_PROVISIONED, "--skip-refused").status == 0
    states = conn.execute("select in_a_row, stopped_at, skips from els.topic_refusals").fetchall()
    assert states == [(0, None, True)]
