"""Tests the commands on rejected inputs, and the log of operator actions."""

import asyncio
import os
import pty
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service import __version__
from service.domain.delivery import Delivery, IntakeLimits, fingerprint
from service.domain.events import Reason, Rejection
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.intake.intake import Intake
from service.operators.errors import Conflict
from service.operators.replay import Replay
from service.postgres.pool import Database
from service.runtime.health import Health
from service.store.operator_actions import Operator
from tests.support.builders.inputs import content, delivery, failed, provisioned, registered
from tests.support.pods.applier import forget
from tests.support.pods.command_line import ROOT, CommandLine
from tests.support.pods.operator_stage import ApplyingPod, in_a_process, states, written


def rejected_by_a_bug(value: bytes, topic: str = CONTENT_PROVISIONED) -> Delivery:
    """A record that was rejected when it arrived; the present code accepts it."""
    return delivery(topic, value, event=Rejection(Reason.INVALID_FIELD, "said the bug"))


def quarantined(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("select state, reason, deliveries from els.quarantine order by id").fetchall()


def ids(conn: psycopg.Connection[Any]) -> list[int]:
    return [id_ for (id_,) in conn.execute("select id from els.quarantine order by id")]


def test_an_input_that_a_bug_rejected_is_replayed_after_the_fix(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    rejected = rejected_by_a_bug(content("b", "t"))
    pod.take(rejected)
    (id_,) = ids(conn)
    ended = service("quarantine", "replay", str(id_), "--json", "--who", "me", "--why", "fixed in 1.2")
    assert (ended.status, ended.err) == (0, "")
    assert ended.json == [{"id": id_, "topic": CONTENT_PROVISIONED, "outcome": "pending", "error": ""}]
    assert states(conn) == {"t": "pending"}
    details = {"id": id_, "outcome": "pending", "reason": "invalid_field", "fingerprint": fingerprint(rejected).hex()}
    assert written(conn) == [("me", "quarantine replay", None, CONTENT_PROVISIONED, "fixed in 1.2", details)]
    # Delivered again, to a pod with the fix and to one without: it stays closed, and nothing is applied twice.
    pod.take(provisioned("b", "t"), rejected)
    assert quarantined(conn) == [("replayed", "invalid_field", 2)]
    assert states(conn) == {"t": "pending"}
    assert service("quarantine", "replay", str(id_)).failed_with(1, "not open")


def test_each_kind_of_input_can_be_replayed_and_its_outcome_is_reported(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    texts = [f"t{number}" for number in range(20)]
    pod.take(*(rejected_by_a_bug(content("b", text)) for text in texts))
    assert service("quarantine", "replay", "--all").status == 0
    arrived = conn.execute("select text_storage_id from els.pending_content order by arrival").fetchall()
    assert [text for (text,) in arrived] == texts


def test_progress_is_shown_only_at_a_terminal(
    pod: ApplyingPod, conn: psycopg.Connection[Any], app_url: str, tmp_path: Path
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


def test_each_operator_action_is_a_line_of_the_log_that_can_be_repeated(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t"), delivery(CONTENT_PROVISIONED, b"no JSON"))
    ended = [
        service("pending", "remove", "b", "t", "--yes", "--why", "a wrong file", "--who", "me"),
        service("quarantine", "discard", "--all", "--yes", "--who", "me"),
        service("quarantine", "discard", "--all", "--yes", "--who", "me"),  # refused
    ]
    assert [each.status for each in ended] == [0, 0, 1]
    names = ("who", "action", "batch_id", "topic", "why", "details")
    logged = [line for each in ended for line in each.logged]
    assert [tuple(line[name] for name in names) for line in logged] == written(conn)
    assert {line["event"] for line in logged} == {"operator_action"}
    at = conn.execute("select at from ops.operator_actions order by id").fetchall()
    assert [datetime.fromisoformat(line["at"]) for line in logged] == [at for (at,) in at]


def test_the_line_of_the_log_is_not_printed_on_a_terminal(
    service: CommandLine, pod: ApplyingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod.take(provisioned("b", "t"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    ended = service("pending", "remove", "b", "t", "--yes")
    assert (ended.out, ended.stderr) == ("1 content of batch b removed.\n", "")


def test_discarded_inputs_stay_discarded_and_are_logged(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
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


def test_an_input_that_has_killed_a_process_is_replayed_in_another_one(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
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


def test_rejected_inputs_are_found_by_what_they_are_about(service: CommandLine, pod: ApplyingPod) -> None:
    name = "A\u030asa O\u0308berg.docx"  # letters and their marks apart, as some producers send them
    pod.take(
        rejected_by_a_bug(content("b1", "t1", original_file_name="Åsa Öberg.docx")),
        rejected_by_a_bug(content("b1", "t2", original_file_name=name)),
        rejected_by_a_bug(content("b2", "t3")),
        rejected_by_a_bug(b"{", BATCH_REGISTERED),
    )

    def found(*arguments: str) -> list[str | None]:
        return [row["original_file_name"] for row in service("quarantine", "list", "--json", *arguments).json]

    assert found("--batch", "b1") == [name, "Åsa Öberg.docx"]
    assert found("--file", "ÅSA ö") == [name, "Åsa Öberg.docx"]
    assert found("--contains", "åsa öberg") == [name, "Åsa Öberg.docx"]
    assert found("--contains", "upload-T3") == ["t3.txt"]
    assert found("--contains", "said the bug") == [None, "t3.txt", name, "Åsa Öberg.docx"]
    assert found("--contains", "nobody") == []
    (newest, *_) = service("quarantine", "list", "--json", "--batch", "b1").json
    shown = service("quarantine", "show", str(newest["id"]), "--json").json
    assert (shown["batch_id"], shown["original_file_name"], len(shown["correlation_id"])) == ("b1", name, 36)
    assert name in shown["decoded"]
    assert service("quarantine", "discard", "--batch", "b1", "--yes").out == "2 inputs discarded.\n"


def test_rejected_inputs_are_selected_by_the_release_that_rejected_them_last_and_by_a_time(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(*(delivery(CONTENT_PROVISIONED, b"no JSON %d" % number) for number in range(4)))
    first, second, third, _ = ids(conn)
    conn.execute("update els.quarantine set release = '0.1.9' where id in (%s, %s)", [first, second])
    conn.execute("update els.quarantine set release = null, first_seen_at = '2026-01-01T00:30Z' where id = %s", [third])

    def listed(*options: str) -> list[int]:
        return [row["id"] for row in service("quarantine", "list", "--json", *options).json][::-1]

    assert listed("--release", "0.1.9") == [first, second]
    assert listed("--release", "unknown") == [third]
    assert listed("--newer-than", "2026-01-01", "--older-than", "2026-01-01T01:00+00:00") == [third]
    assert listed("--release", "0.1.9", "--older-than", "2026-01-02") == []
    pod.take(delivery(CONTENT_PROVISIONED, b"no JSON 0", offset=77))  # a repeat is no new rejection
    ended = service("quarantine", "replay", "--release", "0.1.9", "--json")
    assert [row["id"] for row in ended.json] == [first, second]
    assert listed("--release", __version__) == [first, second, ids(conn)[3]]  # this release has rejected them again
    assert conn.execute("select release from ops.quarantine where id = %s", [third]).fetchone() == (None,)
    assert service("quarantine", "discard", "--release", "unknown", "--yes").out == "1 input discarded.\n"


def test_any_value_can_be_searched(service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]) -> None:
    values = [
        None,
        b"",
        b"\xff\\u00c5",
        b'{"a": "\\u0000 \\u00c5sa"}',
        b'{"a": "\\ud800 plain"}',
        b"[" * 100_000 + b"\\u00c5",
        b'"\\u00c5sa" trailing',
    ]
    pod.take(*(delivery(CONTENT_PROVISIONED, value) for value in values))
    assert len(service("quarantine", "list", "--contains", "plain", "--json").json) == 1
    assert service("quarantine", "list", "--contains", "åsa", "--json").json == []
    # Where JSON can not be decoded, its bytes are searched as they are.
    assert len(service("quarantine", "list", "--contains", "\\u00c5sa", "--json").json) == 2
    decoded = conn.execute("select value_decoded from ops.quarantine where value = %s", [values[6]]).fetchone()
    assert decoded == ('"\\u00c5sa" trailing',)
