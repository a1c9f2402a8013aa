"""Tests the commands on personal data."""

from typing import Any

import orjson
import psycopg

from tests.support.builders.inputs import provisioned, registered
from tests.support.checks.personal import places_of
from tests.support.pods.command_line import CommandLine
from tests.support.pods.operator_stage import ApplyingPod

NAME = "Åsa Öberg"


def test_data_is_shown_and_erased(service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]) -> None:
    pod.take(registered("b", "e1", user_id="u 7"), provisioned("b", "t1", original_file_name=f"{NAME}.docx"))
    erase = ("privacy", "erase", "--file", "åsa", "--why", "case 7")
    asked = service(*erase)
    assert (asked.status, "--yes" in asked.err, f"{NAME}.docx" in asked.out) == (2, True, True)
    shown = service(*erase, "--dry-run")
    assert (shown.status, f"{NAME}.docx" in shown.out, "would be erased" in shown.out) == (0, True, True)
    waiting = service(*erase, "--yes", "--wait", "1")
    assert waiting.status == 1
    assert "not published yet" in waiting.err.splitlines()[-1]
    conn.execute("delete from els.outbox_pages")
    done = service(*erase, "--yes", "--json")
    assert (done.status, done.json["blocked"], len(done.json["batches"])) == (0, [], 1)
    assert places_of(conn, NAME, ("els", "ops")) == set()
    again = service(*erase, "--dry-run")
    assert (again.status, again.out) == (0, "nothing that is stored matches\n")
    assert service("privacy", "erase", "--user", "u 7", "--yes").status == 0
    assert places_of(conn, "u 7") == set()
    assert service("batches", "republish", "b").failed_with(1, "was erased")
    lines = service("privacy", "export").out.splitlines()
    assert {orjson.loads(line)["kind"] for line in lines} >= {"user", "batch", "text", "upload", "mention", "name"}


def test_one_selection_is_needed(service: CommandLine) -> None:
    for wrong in ((), ("--user", "u", "--batch", "b"), ("--text", "b")):
        assert service("privacy", "erase", *wrong, "--yes").status == 2
