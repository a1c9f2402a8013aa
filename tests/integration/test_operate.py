"""What operators do to what waits, to the quarantine and to batches: safely, once, and written down."""

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deploy.local.processes import plain_environment
from service.database import Database
from service.health import Health
from service.intake import Intake
from service.poll import Delivery, Limits
from tests.support.command_line import NOBODY, ROOT, CommandLine
from tests.support.inputs import provisioned, registered


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
        """As the consumer would; the command line has an event loop of its own, so this has one too."""
        asyncio.run(self._take(deliveries))

    async def _take(self, deliveries: tuple[Delivery, ...]) -> None:
        database = Database(self._url, pool_size=1)
        outcome = await Intake(database, Limits(), Health("database"), lambda _: None).take(deliveries)
        assert (outcome.aside, outcome.left) == ([], [])
        await database.close()


@pytest.fixture
def pod(app_url: str) -> Pod:
    return Pod(app_url)


def expire(conn: psycopg.Connection[Any], *texts: str) -> None:
    """What the purge does to the rows."""
    conn.execute(
        "update els.pending_content set state = 'expired', closed_at = now(), waiting_since = now() - interval '2 days'"
        " where text_storage_id = any(%s)",
        [list(texts)],
    )


def states(conn: psycopg.Connection[Any]) -> dict[str, str]:
    rows = conn.execute("select text_storage_id, state from els.pending_content order by arrival").fetchall()
    return dict(rows)


def written(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("select who, action, batch_id, topic, why, details from ops.operator_actions").fetchall()


# -- pending


def test_what_waits_is_listed_in_pages_the_longest_waiting_first(service: CommandLine, pod: Pod) -> None:
    assert service("pending", "list").out == "none\n"
    for content in (provisioned("b2", "t1"), provisioned("b1", "t2"), provisioned("b2", "t3")):
        pod.take(content)
    listed = service("pending", "list", "--json", "--limit", "2")
    assert [(row["batch_id"], row["text_storage_id"]) for row in listed.json] == [("b2", "t1"), ("b1", "t2")]
    after = listed.err.split("--after ")[1].strip()
    assert after == f"{listed.json[1]['waiting_since']}/{listed.json[1]['arrival']}"
    rest = service("pending", "list", "--json", "--limit", "2", "--after", after)
    assert ([row["text_storage_id"] for row in rest.json], rest.err) == (["t3"], "")
    assert "t3.txt" in service("pending", "list").out


def test_what_waits_is_found_by_batch_age_file_name_and_state(
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


def test_one_content_is_shown_whole_or_it_is_said_why_not(service: CommandLine, pod: Pod) -> None:
    pod.take(provisioned("b", "t"), registered("r", "e1"))
    shown = service("pending", "show", "b", "t", "--json").json
    assert (shown["state"], shown["original_file_name"], shown["file_upload_id"]) == ("pending", "t.txt", "upload-t")
    assert "original_file_name: t.txt" in service("pending", "show", "b", "t").out
    assert service("pending", "show", "b", "x").failed_with(1, "no content x")
    assert service("pending", "show", "r", "x").failed_with(1, "batch r is registered")


def test_what_is_removed_stays_closed_whatever_is_delivered_and_is_written_down(
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
    pod.take(registered("b", "e1", "e2"), *contents)
    assert conn.execute("select text_storage_id from els.slots order by position").fetchall() == [("t3",), (None,)]
    assert states(conn) == {"t1": "removed", "t2": "removed"}


def test_removing_what_is_not_there_says_so_and_writes_nothing(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t"))
    assert service("pending", "remove", "b", "x", "--yes").failed_with(1, "nothing such waits for batch b")
    assert service("pending", "clear", "b", "--older-than", "1h", "--yes").failed_with(1, "nothing such")
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


def test_clear_takes_all_that_waits_for_a_batch_the_expired_too_and_no_other(
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


def test_nothing_is_removed_without_a_terminal_to_ask_at(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.take(provisioned("b", "t"))
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        for command in (["remove", "b", "t"], ["clear", "b"]):
            assert service("pending", *command).failed_with(2, "--yes")
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


@pytest.mark.parametrize(("answer", "status", "state"), [("n", 1, "pending"), ("", 1, "pending"), ("y", 0, "removed")])
def test_at_a_terminal_it_is_asked_first(
    pod: Pod, conn: psycopg.Connection[Any], app_url: str, tmp_path: Path, answer: str, status: int, state: str
) -> None:
    pod.take(provisioned("b", "t"))
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    ended = subprocess.run(
        [sys.executable, "-m", "service", "pending", "clear", "b"],
        env={
            **plain_environment(),
            "PYTHONPATH": str(ROOT),
            "ELS_DATABASE_URL": app_url,
            "ELS_KAFKA_BOOTSTRAP_SERVERS": NOBODY,
        },
        cwd=tmp_path,
        stdin=theirs,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert ended.stderr.startswith("Remove 1 content of batch b? [y/N] ")
    assert (ended.returncode, states(conn)) == (status, {"t": state})


def test_a_registered_batch_has_nothing_to_remove_or_to_restore(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t"), registered("b", "e1"))
    for command in (["remove", "b", "t", "--yes"], ["clear", "b", "--yes"], ["restore", "b"]):
        assert service("pending", *command).failed_with(1, "batch b is registered")
    assert written(conn) == []


def test_what_is_removed_meets_a_registration_at_the_batches_lock(
    service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]
) -> None:
    """A registration that is under way has the batch alone: nobody removes what it is about to give a slot."""
    pod.take(provisioned("b", "t"))
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('b', 0))")
        assert service("pending", "clear", "b", "--yes").failed_with(1, "somebody is at work", "try again")
    assert (states(conn), written(conn)) == ({"t": "pending"}, [])


def test_restored_content_waits_anew_in_its_old_place(
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
    assert service("pending", "restore", "b").failed_with(1, "nothing such of batch b is expired")
    pod.take(registered("b", "e1", "e2", "e3", "e4"))
    assert conn.execute("select text_storage_id from els.slots order by position").fetchall() == [
        ("t1",), ("t2",), ("t3",), ("t4",)
    ]  # fmt: skip
    assert [(row[1], row[4], row[5]["contents"]) for row in written(conn)] == [
        ("pending restore", "late", 1),
        ("pending restore", "", 2),
    ]


def test_what_was_removed_is_not_restored(service: CommandLine, pod: Pod, conn: psycopg.Connection[Any]) -> None:
    pod.take(provisioned("b", "t"))
    assert service("pending", "clear", "b", "--yes").status == 0
    assert service("pending", "restore", "b").failed_with(1, "nothing such")
    assert states(conn) == {"t": "removed"}
