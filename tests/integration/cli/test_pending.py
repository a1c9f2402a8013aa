"""Tests the commands on content that waits, and the log of operator actions."""

import os
import pty
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.postgres.statements import STATEMENTS
from tests.support.builders.inputs import failed, provisioned, registered
from tests.support.pods.command_line import CommandLine
from tests.support.pods.operator_stage import (
    ApplyingPod,
    environment,
    expire,
    expire_failures,
    in_a_process,
    states,
    written,
)


def test_pending_content_is_listed_in_pages_the_longest_waiting_first(service: CommandLine, pod: ApplyingPod) -> None:
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
        assert not re.search("Seq Scan on (?!slice)", each)
    assert "pending_content_pkey" in plan(batch_id="b7") or "pending_content_order" in plan(batch_id="b7")


def test_a_content_is_shown_with_all_fields_or_an_error_says_why_not(service: CommandLine, pod: ApplyingPod) -> None:
    pod.take(provisioned("b", "t"), registered("r", "e1"))
    shown = service("pending", "show", "b", "t", "--json").json
    assert (shown["state"], shown["original_file_name"], shown["file_upload_id"]) == ("pending", "t.txt", "upload-t")
    assert "original_file_name: t.txt" in service("pending", "show", "b", "t").out
    assert service("pending", "show", "b", "x").failed_with(1, "no content x")
    assert service("pending", "show", "r", "x").failed_with(1, "batch r is registered")


def test_removed_content_stays_removed_after_redelivery_and_is_logged(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t"))
    assert service("pending", "remove", "b", "x", "--yes").failed_with(1, "no such content waits for batch b")
    assert service("pending", "clear", "b", "--older-than", "1h", "--yes").failed_with(1, "no such content")
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


def test_of_named_contents_all_are_changed_or_none(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"))
    assert service("pending", "remove", "b", "t1", "x", "--yes").failed_with(1, "no such content waits for batch b: x")
    expire(conn, "t1")
    assert service("pending", "restore", "b", "t1", "t2").failed_with(1, "no such content of batch b is expired: t2")
    assert (states(conn), written(conn)) == ({"t1": "expired", "t2": "pending"}, [])


def test_clear_removes_all_pending_and_expired_content_of_one_batch(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"), provisioned("other", "t3"))
    expire(conn, "t2")
    would_be = service("pending", "clear", "b", "--file", "T1", "--dry-run")
    assert (would_be.status, would_be.out) == (0, "1 content of batch b would be removed.\n")
    assert service("pending", "clear", "b", "--file", "T1", "--yes").out == "1 content of batch b removed.\n"
    assert service("pending", "clear", "b", "--yes").out == "1 content of batch b removed.\n"
    assert states(conn) == {"t1": "removed", "t2": "removed", "t3": "pending"}
    assert [row[5] for row in written(conn)] == [
        {"contents": 1, "text_storage_ids": ["t1"], "contains": "T1"},
        {"contents": 1, "text_storage_ids": ["t2"]},
    ]


def test_nothing_is_removed_without_a_terminal_for_the_confirmation(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.take(provisioned("b", "t"))
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        for command in (["remove", "b", "t"], ["clear", "b"]):
            assert service("pending", *command).failed_with(2, "--yes")
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


@pytest.mark.parametrize(("answer", "status", "state"), [("n", 1, "pending"), ("", 1, "pending"), ("y", 0, "removed")])
def test_at_a_terminal_the_command_asks_for_confirmation(
    pod: ApplyingPod, conn: psycopg.Connection[Any], app_url: str, tmp_path: Path, answer: str, status: int, state: str
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
    pod: ApplyingPod, conn: psycopg.Connection[Any], app_url: str, tmp_path: Path
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t"), failed("b", "u"), registered("b", "e1", "e2"))
    for command in (
        ["remove", "b", "t", "--yes"],
        ["remove", "b", "u", "--yes"],
        ["clear", "b", "--yes"],
        ["restore", "b"],
    ):
        assert service("pending", *command).failed_with(1, "batch b is registered")
    assert written(conn) == []


def test_content_cannot_be_removed_while_its_batch_is_being_registered(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    """A running registration holds the lock of the batch: nobody removes what it may assign."""
    pod.take(provisioned("b", "t"), failed("b", "u"))
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('b', 0))")
        for command in (["clear", "b"], ["remove", "b", "u"]):
            assert service("pending", *command, "--yes").failed_with(
                1, "another transaction is working on this", "try again"
            )
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])
    assert conn.execute("select state from els.validation_failures").fetchall() == [("pending",)]


def test_restored_content_keeps_its_place_in_the_order(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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


def test_failures_are_restored_by_their_uploads(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(*(failed("b", upload) for upload in ("u1", "u2", "both")), provisioned("b", "both"), provisioned("b", "t"))
    expire(conn, "both", "t")
    expire_failures(conn)
    expired = "select file_upload_id from els.validation_failures where state = 'expired' order by 1"
    assert service("pending", "restore", "b", "u1", "x").failed_with(1, "no such content of batch b is expired: x")
    assert len(conn.execute(expired).fetchall()) == 3
    dry = service("pending", "restore", "b", "u1", "both", "--dry-run")
    assert dry.out == "1 content and 2 validation failures of batch b would be restored.\n"
    done = service("pending", "restore", "b", "u1", "both", "--why", "late")
    assert done.out == "1 content and 2 validation failures of batch b restored.\n"
    assert states(conn) == {"both": "pending", "t": "expired"}
    assert conn.execute(expired).fetchall() == [("u2",)]
    ((*_, details),) = written(conn)
    assert (details["contents"], details["text_storage_ids"], sorted(details["file_upload_ids"])) == (
        1, ["both"], ["both", "u1"],
    )  # fmt: skip
    pod.take(registered("b", "e1", "e2"))
    assert service("pending", "restore", "b", "u2").failed_with(1, "batch b is registered")


def test_removed_content_is_not_restored(service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]) -> None:
    pod.take(provisioned("b", "t"))
    assert service("pending", "clear", "b", "--yes").status == 0
    assert service("pending", "restore", "b").failed_with(1, "no such content")
    assert states(conn) == {"t": "removed"}


def test_removed_failures_stay_removed_after_redelivery_and_take_no_slot(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    """A text and an upload that have the same id are both meant. What expired is removed too."""
    arrived = [failed("b", "u1"), failed("b", "u2", original_file_name="Ada.txt"), failed("b", "u3")]
    arrived += [provisioned("b", "t1"), provisioned("b", "u1")]
    pod.take(*arrived, failed("other", "u1"))
    expire_failures(conn, "u2")
    assert service("pending", "remove", "b", "u1", "x", "--yes").failed_with(1, "no such content waits for batch b: x")
    ended = service("pending", "remove", "b", "u1", "u2", "--yes", "--who", "Åsa", "--why", "wrong class")
    assert ended.out == "1 content and 2 validation failures of batch b removed.\n"
    details = {"contents": 1, "text_storage_ids": ["u1"], "failures": 2, "file_upload_ids": ["u1", "u2"]}
    assert written(conn) == [("Åsa", "pending remove", "b", None, "wrong class", details)]
    removed = "select file_upload_id, removed_at = (select at from ops.operator_actions), expired_at, pending"
    rows = conn.execute(f"{removed} from ops.validation_failures where state = 'removed' order by 1".encode())
    assert rows.fetchall() == [("u1", True, None, False), ("u2", True, None, False)]
    last = "select what, details, who from ops.timeline where file_upload_id = 'u2' order by at, step"
    assert conn.execute(last.encode()).fetchall()[-1] == ("failed, removed", "wrong class", "Åsa")
    listed = service("pending", "list", "--failures", "--state", "removed", "--json").json
    assert [row["file_upload_id"] for row in listed] == ["u1", "u2"]
    shown = service("batches", "show", "b", "--json").json
    assert (shown["removed_contents"], shown["removed_failures"], shown["waiting_failures"]) == (1, 2, 1)
    assert [(row["kind"], row["state"]) for row in service("find", "ada", "--json").json] == [("failure", "removed")]
    assert service("pending", "restore", "b").failed_with(1, "no such content of batch b is expired")
    state = conn.execute("select * from els.validation_failures order by batch_id, file_upload_id").fetchall()
    pod.take(*arrived)
    assert conn.execute("select * from els.validation_failures order by batch_id, file_upload_id").fetchall() == state
    pod.take(registered("b", "e1", "e2", "e3"), *arrived)
    pod.take(*arrived)
    slots = conn.execute("select text_storage_id, file_upload_id, state from els.slots order by position").fetchall()
    assert [row[2] for row in slots] == ["assigned", "failed", "open"]
    assert [slots[0][0], slots[1][1]] == ["t1", "u3"]
    found = conn.execute("select file_upload_id, state from els.validation_failures where batch_id = 'b' order by 1")
    assert found.fetchall() == [("u1", "removed"), ("u2", "removed"), ("u3", "slot")]
    assert conn.execute("table ops.invariant_violations").fetchall() == []


def test_clear_removes_the_failures_that_match(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(failed("b", "u1", original_file_name="A.txt"), failed("b", "u2"), provisioned("b", "t"), failed("c", "u3"))
    expire_failures(conn, "u2")
    ended = service("pending", "clear", "b", "--file", "a.TXT", "--yes")
    assert ended.out == "0 contents and 1 validation failure of batch b removed.\n"
    assert service("pending", "clear", "b", "--newer-than", "1h", "--yes").status == 0
    states_ = conn.execute("select file_upload_id, state from els.validation_failures order by 1").fetchall()
    assert states_ == [("u1", "removed"), ("u2", "removed"), ("u3", "pending")]
    assert [(row[5]["contents"], row[5]["failures"], row[5]["file_upload_ids"]) for row in written(conn)] == [
        (0, 1, ["u1"]),
        (1, 1, ["u2"]),
    ]


def test_a_restore_needs_a_batch_a_filter_or_all(service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    assert service("pending", "restore").failed_with(2, "--all")
    assert service("pending", "restore", "--dry-run").failed_with(2, "--all")
    assert service("pending", "restore", "b", "t", "--file", "x").failed_with(2, "cannot be combined with a filter")
    assert service("pending", "restore", "--all").failed_with(1, "no such content is expired")
    assert written(conn) == []


def test_what_expired_is_restored_in_pages_and_keeps_its_place_for_the_registration(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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


def test_expired_failures_are_restored_too(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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


def test_waiting_failures_are_listed_and_shown(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(failed("b1", "u1", original_file_name="Åsa.docx"), failed("b2", "u2"), provisioned("b1", "t1"))

    def found(*arguments: str) -> list[str]:
        listed = service("pending", "list", "--failures", "--json", *arguments).json
        return [row["file_upload_id"] for row in listed]

    assert found() == ["u1", "u2"]
    assert found("--batch", "b2") == ["u2"]
    assert found("--file", "A\u030aSA") == ["u1"]
    assert found("--older-than", "1h") == []
    first = service("pending", "list", "--failures", "--limit", "1")
    assert "EMPTY_CONTENT" in first.out
    assert found("--after", first.err.split("--after=")[1].strip().strip("'")) == ["u2"]
    shown = service("pending", "show", "b1", "u1", "--json").json
    assert (shown["state"], shown["validation_error_code"]) == ("pending", "EMPTY_CONTENT")
    expire_failures(conn)
    assert found() == []
    assert found("--state", "expired") == ["u1", "u2"]
    assert service("pending", "show", "b1", "u3").failed_with(1, "there is no content u3")
