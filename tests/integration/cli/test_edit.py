"""Tests the command that corrects a rejected input."""

import json
import stat
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.domain.events import Reason, Rejection
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from tests.support.builders.inputs import content, delivery, provisioned, registered, registration
from tests.support.pods.command_line import ROOT, CommandLine
from tests.support.pods.operator_stage import ApplyingPod, states, written

WRONG = registration("b", ["e1", "e2"], expected_essay_count=3)
RIGHT = registration("b", ["e1", "e2"])
STORED = "select id, state, reason, value, edited_value from ops.quarantine"


def only_id(conn: psycopg.Connection[Any]) -> str:
    ((id_,),) = conn.execute("select id from els.quarantine").fetchall()
    return str(id_)


def editor(folder: Path, script: str) -> dict[str, str]:
    """Returns the settings under which an editor runs this Python with the file at `path`."""
    program = folder / "editor.py"
    program.write_text(f"import sys, pathlib\npath = pathlib.Path(sys.argv[1])\n{script}\n")
    return {"VISUAL": "", "EDITOR": f"python3 {program}"}


def test_a_corrected_registration_is_applied_and_closes_the_original_which_is_kept(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    wrong = delivery(BATCH_REGISTERED, WRONG)
    pod.take(provisioned("b", "t1"), wrong)
    id_, file = only_id(conn), tmp_path / "value.json"
    file.write_bytes(RIGHT)
    ended = service("quarantine", "edit", id_, "--file", str(file), "--who", "me", "--why", "two essays")
    assert (ended.status, ended.out) == (0, f"Input {id_} is replayed as edited: registered.\n")
    assert conn.execute(STORED).fetchall() == [(int(id_), "replayed", "count_mismatch", WRONG, RIGHT)]
    assert conn.execute("select assigned, expected from els.batches").fetchall() == [(1, 2)]
    ((who, action, batch_id, topic, why, details),) = written(conn)
    assert (who, action, batch_id, topic, why) == ("me", "quarantine edit", "b", BATCH_REGISTERED, "two essays")
    assert (details["outcome"], details["value"].encode()) == ("registered", RIGHT)
    pod.take(wrong)
    assert conn.execute(STORED).fetchall() == [(int(id_), "replayed", "count_mismatch", WRONG, RIGHT)]
    assert service("quarantine", "edit", id_, "--file", str(file)).failed_with(1, "is replayed")
    shown = service("quarantine", "show", id_, "--json").json
    assert (shown["value"], shown["edited_value"]) == (WRONG.decode(), RIGHT.decode())


def test_an_edited_value_that_is_rejected_changes_nothing(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    pod.take(registered("b", "e1"), delivery(BATCH_REGISTERED, WRONG))
    before, file = conn.execute("select * from els.quarantine").fetchall(), tmp_path / "value.json"
    for value, reason in (
        (b"no JSON", "not_json"),
        (RIGHT, "conflicting_registration"),
        (content("b", "t"), "wrong_topic"),
        (b"", "not_json"),
    ):
        file.write_bytes(value)
        for arguments in ((), ("--dry-run", "--json")):
            ended = service("quarantine", "edit", only_id(conn), "--file", str(file), *arguments)
            assert (ended.status, reason in ended.err) == (1, True), ended
    assert conn.execute("select * from els.quarantine").fetchall() == before
    assert (written(conn), states(conn)) == ([], {})


def test_a_dry_run_shows_the_difference_and_changes_nothing(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    pod.take(provisioned("b", "t1"), delivery(BATCH_REGISTERED, WRONG))
    before, file = conn.execute("select * from els.quarantine").fetchall(), tmp_path / "value.json"
    file.write_bytes(RIGHT)
    ended = service("quarantine", "edit", only_id(conn), "--file", str(file), "--dry-run")
    assert (ended.status, ended.out.splitlines()[-1]) == (
        0,
        f"Input {only_id(conn)} would be replayed as edited: registered.",
    )
    assert '-    "expected_essay_count": 3,' in ended.out.splitlines()
    assert '+    "expected_essay_count": 2,' in ended.out.splitlines()
    assert conn.execute("select * from els.quarantine").fetchall() == before
    assert (written(conn), states(conn)) == ([], {"t1": "pending"})
    assert ended.logged == []


def test_a_value_is_corrected_in_an_editor_that_sees_it_decoded(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    wrong = content("b", "t", original_file_name="\u00c5sa.txt", file_size_bytes=-1)
    assert b"\\u00c5" in wrong
    pod.take(delivery(CONTENT_PROVISIONED, wrong))
    seen = tmp_path / "seen"
    settings = editor(
        tmp_path,
        f"text = path.read_text(encoding='utf-8')\n"
        f"pathlib.Path({str(seen)!r}).write_text(f'{{path.stat().st_mode}} {{path.parent.stat().st_mode}} {{text}}')\n"
        "path.write_text(text.replace(': -1', ': 7'), encoding='utf-8')",
    )
    ended = service("quarantine", "edit", only_id(conn), **settings)
    assert (ended.status, ended.out.splitlines()[-1].endswith("pending.")) == (0, True), ended
    mode, folder_mode, text = seen.read_text().split(" ", 2)
    assert (stat.S_IMODE(int(mode)), stat.S_IMODE(int(folder_mode))) == (0o600, 0o700)
    assert '\n    "original_file_name": "Åsa.txt",\n' in text
    assert json.loads(text) == json.loads(wrong)
    stored = conn.execute("select original_file_name, file_size_bytes from els.pending_content").fetchall()
    assert stored == [("Åsa.txt", 7)]


@pytest.mark.parametrize(
    ("script", "says"),
    [("", "saved as it was"), ("path.write_text('{}'); sys.exit(3)", "ended with 3")],
)
def test_an_editor_that_changes_nothing_or_fails_changes_nothing(
    service: CommandLine,
    pod: ApplyingPod,
    conn: psycopg.Connection[Any],
    tmp_path: Path,
    script: str,
    says: str,
) -> None:
    pod.take(delivery(CONTENT_PROVISIONED, b"no JSON"))
    ended = service("quarantine", "edit", only_id(conn), **editor(tmp_path, script))
    assert ended.failed_with(1, "nothing was changed", says)
    assert conn.execute(STORED).fetchall() == [(int(only_id(conn)), "open", "not_json", b"no JSON", None)]


def test_a_value_that_is_not_text_and_one_without_an_editor_need_a_file(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    pod.take(delivery(CONTENT_PROVISIONED, b"\xff\x00"))
    assert service("quarantine", "edit", only_id(conn), **editor(tmp_path, "")).failed_with(2, "--file", "not text")
    conn.execute("update els.quarantine set value = 'text'")
    assert service("quarantine", "edit", only_id(conn), VISUAL="", EDITOR="").failed_with(2, "--file", "VISUAL")
    assert service("quarantine", "edit", only_id(conn), "--file", "/nowhere").failed_with(1, "/nowhere")


def test_the_correction_of_an_input_that_has_killed_a_process_is_applied_in_another_one(
    service: CommandLine,
    pod: ApplyingPod,
    conn: psycopg.Connection[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod.take(delivery(CONTENT_PROVISIONED, b"x", event=Rejection(Reason.KILLED_THE_PROCESS, "it crashed")))
    file = tmp_path / "value.json"
    file.write_bytes(content("b", "t"))
    with monkeypatch.context() as patched:
        patched.setattr("service.operators.apart.sys.executable", "/bin/false")
        ended = service("quarantine", "edit", only_id(conn), "--file", str(file))
        assert (ended.status, "killed_the_process" in ended.err) == (1, True)
    ended = service("quarantine", "edit", only_id(conn), "--file", str(file), "--why", "by hand", PYTHONPATH=str(ROOT))
    assert (ended.status, states(conn)) == (0, {"t": "pending"})
    assert [line["action"] for line in ended.logged] == ["quarantine edit"]
    assert written(conn)[0][4] == "by hand"
