"""Tests the commands on registered batches."""

from typing import Any

import psycopg

from service.domain.events import Reason, Rejection
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.postgres.statements import STATEMENTS
from tests.support.builders.inputs import confirmed, content, delivery, failed, provisioned, registered
from tests.support.pods.command_line import CommandLine
from tests.support.pods.operator_stage import ApplyingPod, expire, written


def test_batches_are_listed_in_pages_by_state_user_and_age(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    assert service("batches", "list").out == "none\n"
    pod.take(registered("b1", "e1"), registered("b2", "e1"), registered("b3", "e1"), provisioned("b2", "t"))
    conn.execute(
        "update els.batches set user_id = 'another', registered_at = now() - interval '2 days' where batch_id = 'b3'"
    )

    def found(*arguments: str) -> list[str]:
        return [row["batch_id"] for row in service("batches", "list", "--json", *arguments).json]

    conn.execute("update els.batches set class_id = 'c', org_id = 'o', timed_out_at = now() where batch_id = 'b1'")
    assert found() == ["b2", "b1", "b3"]
    first = service("batches", "list", "--limit", "2", "--json")
    assert [row["batch_id"] for row in first.json] == ["b2", "b1"]
    cursor = first.err.split("--after=")[1].strip().strip("'")
    assert found("--after", cursor) == ["b3"]
    assert found("--limit", "1", "--user", "another", "--after", cursor) == ["b3"]
    assert service("batches", "list", "--after", "b2").status == 2
    assert found("--state", "ready") == ["b2"]
    assert found("--state", "registered", "--older-than", "1d") == ["b3"]
    assert found("--newer-than", "1d") == ["b2", "b1"]
    assert found("--late") == ["b1"]
    for _ in ("without the search", "with it"):
        assert found("--user", "another") == ["b3"]
        assert found("--class", "c", "--org", "o") == ["b1"]
        assert found("--class", "c", "--state", "ready") == found("--user", "nobody") == []
        assert service("purge").status == 0


def test_a_batch_is_shown_with_its_slots_in_pages(service: CommandLine, pod: ApplyingPod) -> None:
    pod.take(registered("b", "e2", "e1", "e3"), provisioned("b", "t"), provisioned("early", "t"))
    shown = service("batches", "show", "b", "--json", "--limit", "2")
    assert (shown.json["state"], shown.json["open"], shown.json["to_be_published"]) == ("registered", 2, 1)
    assert [(slot["essay_id"], slot["text_storage_id"]) for slot in shown.json["slots"]] == [("e2", "t"), ("e1", None)]
    assert "--after=2" in shown.err
    rest = service("batches", "show", "b", "--json", "--limit", "1", "--after", "2")
    assert ([slot["essay_id"] for slot in rest.json["slots"]], rest.err) == (["e3"], "")
    assert "t.txt" in service("batches", "show", "b").out
    assert service("batches", "show", "nobody").failed_with(1, "nothing is known of batch nobody")


def shown(service: CommandLine, batch_id: str = "b") -> tuple[str, str, Any]:
    """How a batch stands, what to do next, and everything else."""
    found = service("batches", "show", batch_id, "--json").json
    assert service("batches", "show", batch_id).out.splitlines()[1:3] == [
        f"summary: {found['summary']}",
        f"to_do: {found['to_do']}",
    ]
    return found["summary"], found["to_do"], found


def test_a_batch_that_is_not_registered_is_shown_with_what_waits_and_what_was_rejected(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(*(provisioned("b", text) for text in ("t1", "t2", "t3")), failed("b", "u1"))
    expire(conn, "t2", "t3")
    assert service("pending", "remove", "b", "t3", "--yes").status == 0
    said, to_do, found = shown(service)
    assert said == (
        "it is not registered; 1 content and 1 validation failure wait, 1 content and 0 validation failures expired,"
        " 1 content and 0 validation failures were removed"
    )
    assert "ask the Batch Orchestrator" in to_do
    assert (found["state"], found["waiting_contents"], found["waiting_failures"]) == ("unknown", 1, 1)
    assert [row["what"] for row in found["history"]][-2:] == ["pending remove", "removed"]
    # A registration that cannot be read is found by the key of its record.
    pod.take(delivery(BATCH_REGISTERED, b"no JSON", key=b"b"))
    conn.execute("update els.quarantine set batch_id = null")
    said, to_do, found = shown(service)
    assert said == "its registration was rejected; 1 content and 1 validation failure wait"
    (rejected,) = found["rejected"]
    assert to_do == f"els quarantine show {rejected['id']}"
    assert (rejected["reason"], rejected["state"]) == ("not_json", "open")
    pod.take(registered("b", "e1", "e2", "e3", "e4"))
    assert shown(service)[2]["state"] == "registered"


def test_what_expired_completely_can_be_restored(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("it's", "t1"))
    expire(conn, "t1")
    said, to_do, _ = shown(service, "it's")
    assert said.endswith("1 content and 0 validation failures expired")
    assert to_do.startswith("ask the Batch Orchestrator for the registration, which takes what expired as well")
    (found,) = (row for row in service("find", "it's", "--json").json if row["kind"] == "content")
    assert (found["state"], found["details"]) == (
        "expired",
        "the registration did not come in time, and takes it if it comes",
    )
    assert """els pending restore 'it'"'"'s' --why""" in to_do


def test_another_registration_that_was_rejected_is_decided_before_the_batch_is_ended(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2"), registered("b", "another", course_code="SV1"))
    said, to_do, found = shown(service)
    (rejected,) = found["rejected"]
    assert said.endswith("2 wait for uploads; another registration of it was rejected (conflicting_registration)")
    assert "els batches cancel b --reason WRONG_REGISTRATION" in to_do
    assert f"els quarantine discard {rejected['id']}" in to_do
    assert "close" not in to_do
    conn.execute("update els.quarantine set value = null, error = '[erased]', erased_at = now()")
    assert shown(service)[1].endswith(f"cannot be replayed: els quarantine discard {rejected['id']} --why '…'")


def test_a_registered_batch_is_shown_with_why_slots_failed_and_what_to_do(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2", "e3", class_id="class"))
    pod.take(provisioned("b", "t1"), failed("b", "u1", original_file_name="Empty.docx"))
    said, to_do, found = shown(service)
    assert said == "1 of 3 slots are assigned, 1 failed; 1 wait for uploads"
    assert "incomplete: no\n" in service("batches", "show", "b").out
    assert to_do.endswith("els batches close b --why '…'")
    failure = found["slots"][1]
    assert (failure["original_file_name"], bool(failure["message"])) == ("Empty.docx", True)
    assert failure["validation_error_code"] == "EMPTY_CONTENT"
    rejection = Rejection(Reason.INVALID_FIELD, "said the bug")
    pod.take(delivery(CONTENT_PROVISIONED, content("b", "t2"), event=rejection))
    said, to_do, found = shown(service)
    assert said.endswith("an input of it was rejected")
    assert to_do == f"els quarantine show {found['rejected'][0]['id']}"
    assert service("quarantine", "replay", "--batch", "b").status == 0
    conn.execute("delete from els.outbox_pages")
    said, to_do, _ = shown(service)
    assert said.endswith("it waits for the confirmation of its class")
    assert to_do == "ask Class Management to confirm class class"
    pod.take(confirmed("b", "class"), provisioned("b", "t3"), failed("b", "u2"))
    said, to_do, found = shown(service)
    assert said.endswith("it is ready; 2 events wait to be published")
    assert (found["excess"], found["surplus_failures"], found["to_be_published"]) == (1, 1, 2)
    assert [row["state"] for row in found["confirmations"]] == ["applied"]
    conn.execute("insert into els.outbox_blocked values ('b', 1, 'a topic', 'too large', now(), now())")
    said, to_do, found = shown(service)
    assert "cannot be published: too large" in said
    assert "mend that on a topic" in to_do
    conn.execute("update els.outbox_blocked set topic = '', seq = 18")
    assert "row 18 of the outbox is no event" in shown(service)[1]
    assert '"seq":18' in service("batches", "show", "b").out
    conn.execute("delete from els.outbox_pages")
    conn.execute("delete from els.outbox_blocked")
    assert shown(service)[:2] == (
        "2 of 3 slots are assigned, 1 failed; it is ready",
        "nothing; if its consumer lost the event: els batches republish b --why '…'",
    )
    out = service("batches", "show", "b").out
    assert all(f"\n{name}:\n" in out for name in ("confirmations", "rejected", "history", "slots"))


def test_batches_that_failed_or_were_cancelled_say_so(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("failed", "e1"), failed("failed", "u1"), registered("cancelled", "e1"))
    assert service("batches", "cancel", "cancelled", "--reason", "DUPLICATE", "--yes").status == 0
    conn.execute("delete from els.outbox_pages")
    assert "BatchEssaysReady is not" in shown(service, "failed")[0]
    assert shown(service, "cancelled")[0].endswith("an operator cancelled it (DUPLICATE)")
    assert [row["what"] for row in shown(service, "cancelled")[2]["history"]] == [
        "registered",
        "batches cancel",
        "cancelled",
    ]


def test_the_events_of_a_batch_are_published_again_unchanged_after_all_others(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
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
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1"), failed("b", "u1"))
    assert service("batches", "republish", "b").status == 0
    rows = conn.execute(
        "select topic, count(distinct event_id), count(*) from ops.outbox_events group by topic"
    ).fetchall()
    assert rows == [("huleedu.els.batch.validation.errors.v1", 1, 2)]


def test_a_batch_that_is_not_complete_has_nothing_to_publish_again(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2"), provisioned("b", "t"))
    assert service("batches", "republish", "b").failed_with(1, "1 of its 2 slots")
    assert service("batches", "republish", "x").failed_with(1, "batch x is not registered")
    assert conn.execute("select count(*) from ops.outbox_events").fetchone() == (1,)
    assert written(conn) == []


def test_a_batch_is_closed_and_another_is_cancelled(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2"), provisioned("b", "t"), registered("c", "e1"))
    would_be = service("batches", "close", "b", "--dry-run")
    assert (would_be.status, "would be ready, and was registered" in would_be.out) == (0, True)
    assert service("batches", "list", "--state", "ready").out == "none\n"
    assert service("batches", "close", "b").failed_with(2, "--yes")
    assert service("batches", "cancel", "c", "--reason", "DUPLICATE").failed_with(2, "--yes")
    assert written(conn) == []
    closed = service("batches", "close", "b", "--why", "one essay was not written", "--yes")
    assert closed.out == would_be.out.replace("would be published", "will be published").replace("would be", "is")
    assert "1 assigned, 0 failed and 1 withdrawn of 2 slots" in closed.out
    cancelled = service("batches", "cancel", "c", "--reason", "DUPLICATE", "--json", "--yes")
    assert (cancelled.json["state"], len(cancelled.json["events"])) == ("cancelled", 1)
    shown = service("batches", "show", "c", "--json").json
    assert (shown["open"], shown["withdrawn"], shown["cancel_reason"]) == (0, 1, "DUPLICATE")
    assert [row["batch_id"] for row in service("batches", "list", "--json", "--state", "cancelled").json] == ["c"]
    conn.execute("update els.batches set completed_at = '2026-01-01', cancelled_at = '2026-01-02' where batch_id = 'c'")
    latest = conn.execute(STATEMENTS["watch_events"], {"page": 9}).fetchall()
    assert [at.day for at, what, *_ in latest if what == "batch cancelled"] == [2]
    assert [(action, batch_id, why) for _, action, batch_id, _, why, _ in written(conn)] == [
        ("batches close", "b", "one essay was not written"),
        ("batches cancel", "c", ""),
    ]


def test_a_batch_that_has_ended_or_is_unknown_is_not_ended(service: CommandLine, pod: ApplyingPod) -> None:
    pod.take(registered("b", "e1"), provisioned("b", "t"))
    assert service("batches", "close", "b").failed_with(1, "b is ready: only a registered batch can be closed")
    assert service("batches", "cancel", "b", "--reason", "OTHER").failed_with(1, "b is ready")
    assert service("batches", "close", "x").failed_with(1, "batch x is not registered")
    assert service("batches", "cancel", "b").status == 2
    assert service("batches", "cancel", "b", "--reason", "BECAUSE").status == 2


def test_a_batch_that_was_ended_is_published_again_unchanged(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2"), failed("b", "u1"), registered("c", "e1"), registered("d", "e1"))
    assert service("batches", "close", "b", "--yes").status == service("batches", "close", "d", "--yes").status == 0
    assert service("batches", "cancel", "c", "--reason", "OTHER", "--yes").status == 0
    outbox = "select event_id, topic, event from ops.outbox_events order by seq"
    before = conn.execute(outbox).fetchall()
    assert len(before) == 3
    for batch_id in ("b", "d", "c"):
        assert service("batches", "republish", batch_id).status == 0
    assert conn.execute(outbox).fetchall() == before * 2


def test_the_events_of_slots_and_excess_are_published_again_unchanged(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"))
    pod.take(registered("b", "e1", "e2", "e3"))
    pod.take(provisioned("b", "t3"))
    pod.take(provisioned("b", "t4"), provisioned("b", "t5"))
    outbox = "select topic, event_id, event from ops.outbox_events order by seq"
    before = conn.execute(outbox).fetchall()
    assert len(before) == 7
    would_be = service("batches", "republish", "b", "--slots", "--excess", "--dry-run")
    assert (would_be.status, conn.execute(outbox).fetchall()) == (0, before)
    ended = service("batches", "republish", "b", "--slots", "--excess")
    assert ended.out == would_be.out.replace("would be published", "will be published").replace("would be", "is")
    assert "slot.assigned.v1 of batch b will be published again for 3 texts" in ended.out
    assert "BatchReadinessTimeout and PendingContentExpired are never" in ended.err
    again = conn.execute(outbox).fetchall()[len(before) :]
    assert sorted(again) == sorted(before)
    assert [topic for topic, *_ in again] == sorted((topic for topic, *_ in before), key=_place)
    ((*_, details),) = written(conn)
    assert (details["slots"], details["excess"], details["left_out"]) == (3, 2, 0)


def _place(topic: str) -> int:
    return next(place for place, word in enumerate(("slot", "excess", "completed", "ready")) if word in topic)


def test_what_a_recovery_knows_only_in_part_is_left_out(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2"), provisioned("b", "t1"))
    pod.take(provisioned("b", "t2"), provisioned("b", "t3"))
    conn.execute("update els.slots set origin = 'output' where essay_id = 'e1'")
    conn.execute("update els.excess_content set origin = 'output'")
    ended = service("batches", "republish", "b", "--slots", "--excess")
    assert "2 events of texts are left out" in ended.err
    assert "for 1 texts" in ended.out
