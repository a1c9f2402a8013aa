"""Tests the commands on registered batches."""

from typing import Any

import psycopg

from tests.support.builders.inputs import failed, provisioned, registered
from tests.support.pods.command_line import CommandLine
from tests.support.pods.operator_stage import ApplyingPod, written


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

    assert found() == ["b1", "b2", "b3"]
    assert found("--limit", "2") == ["b1", "b2"]
    assert "--after=b2" in service("batches", "list", "--limit", "2").err
    assert found("--after", "b2") == ["b3"]
    assert found("--state", "ready") == ["b2"]
    assert found("--state", "registered", "--older-than", "1d") == ["b3"]
    assert found("--newer-than", "1d") == ["b1", "b2"]
    assert found("--user", "another") == ["b3"]


def test_a_batch_is_shown_with_its_slots_in_pages(service: CommandLine, pod: ApplyingPod) -> None:
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
    closed = service("batches", "close", "b", "--why", "one essay was not written")
    assert closed.out == would_be.out.replace("would be", "is")
    assert "1 assigned, 0 failed and 1 withdrawn of 2 slots" in closed.out
    cancelled = service("batches", "cancel", "c", "--reason", "DUPLICATE", "--json")
    assert (cancelled.json["state"], len(cancelled.json["events"])) == ("cancelled", 1)
    shown = service("batches", "show", "c", "--json").json
    assert (shown["open"], shown["withdrawn"], shown["cancel_reason"]) == (0, 1, "DUPLICATE")
    assert [row["batch_id"] for row in service("batches", "list", "--json", "--state", "cancelled").json] == ["c"]
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
    assert service("batches", "close", "b").status == service("batches", "close", "d").status == 0
    assert service("batches", "cancel", "c", "--reason", "OTHER").status == 0
    outbox = "select event_id, topic, event from ops.outbox_events order by seq"
    before = conn.execute(outbox).fetchall()
    assert len(before) == 3
    for batch_id in ("b", "d", "c"):
        assert service("batches", "republish", batch_id).status == 0
    assert conn.execute(outbox).fetchall() == before * 2
