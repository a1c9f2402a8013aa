"""Tests that ops.timeline has one row for each thing that happened to a batch, in order."""

import re
from typing import Any

import psycopg

from service.domain.events import Reason, Rejection
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from tests.support.builders.inputs import (
    confirmed,
    content,
    delivery,
    failed,
    provisioned,
    registered,
    registration,
)
from tests.support.pods.command_line import CommandLine
from tests.support.pods.operator_stage import ApplyingPod, expire, expire_failures


def timeline(conn: psycopg.Connection[Any], batch_id: str = "b") -> list[tuple[str, str | None]]:
    """What happened, to which content, upload or essay."""
    return conn.execute(
        "select what, coalesce(text_storage_id, file_upload_id, essay_id) from ops.timeline where batch_id = %s"
        " order by at, step, essay_id, text_storage_id",
        [batch_id],
    ).fetchall()


def test_a_batch_has_its_whole_history_in_order(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    rejected = Rejection(Reason.INVALID_FIELD, "said the bug")
    pod.take(delivery(CONTENT_PROVISIONED, content("b", "t0"), event=rejected))
    pod.take(failed("b", "early"))
    pod.take(registered("b", "e1", "e2", "e3", class_id="class"))
    pod.take(provisioned("b", "t1"))
    pod.take(provisioned("b", "t2"), provisioned("b", "t3"))
    pod.take(failed("b", "u9"))
    pod.take(confirmed("b", "class"))
    conn.execute("update els.batches set timed_out_at = now() where batch_id = 'b'")
    conn.execute("insert into els.outbox_blocked values ('b', 1, 'topic', 'too large', now(), now())")
    assert service("batches", "republish", "b", "--who", "me", "--why", "they lost it").status == 0
    assert service("quarantine", "discard", "--all", "--yes").status == 0
    assert timeline(conn) == [
        ("rejected", None),
        ("failed, pending", "early"),
        ("registered", None),
        ("failed", "early"),
        ("assigned", "t1"),
        ("assigned", "t2"),
        ("excess", "t3"),
        ("completed", None),
        ("failed, surplus", "u9"),
        ("confirmed", None),
        ("announced", None),
        ("timed out", None),
        ("blocked", None),
        ("batches republish", None),
        ("quarantine discard", None),
        ("discarded", None),
    ]
    (failure,) = conn.execute(
        "select file_upload_id, essay_id, original_file_name, details, correlation_id is not null, source"
        " from ops.timeline where what = 'failed'"
    ).fetchall()
    assert failure[:2] == ("early", "e1")
    assert failure[3].startswith("slot 1: ")
    assert failure[4:] == (True, "slots")
    assert conn.execute(
        "select who, details from ops.timeline where source = 'operator_actions' order by at"
    ).fetchone() == (
        "me",
        conn.execute("select 'they lost it ' || (details::text) from els.operator_actions order by id").fetchall()[0][
            0
        ],
    )


def test_a_batch_that_is_not_registered_has_a_history_too(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"), provisioned("b", "t3"), failed("b", "u1"))
    expire(conn, "t2", "t3")
    expire_failures(conn)
    assert service("pending", "restore", "b", "t3").status == 0
    assert service("pending", "remove", "b", "t1", "--yes", "--who", "me", "--why", "by mistake").status == 0
    pod.take(
        delivery(BATCH_REGISTERED, registration("b", []), key=b"b"), delivery(BATCH_REGISTERED, b"no JSON", key=b"b")
    )
    assert sorted(timeline(conn), key=str) == sorted(
        [
            *(("pending", text) for text in ("t1", "t2", "t3")),
            ("failed, pending", "u1"),
            ("expired", "t2"),
            ("expired", "t3"),
            ("failed, expired", "u1"),
            ("restored", "t3"),
            ("removed", "t1"),
            ("pending restore", None),
            ("pending remove", None),
            ("rejected", None),
            ("rejected", None),
        ],
        key=str,
    )
    assert conn.execute("select who, details from ops.timeline where what = 'removed'").fetchall() == [
        ("me", "by mistake")
    ]


def waits(conn: psycopg.Connection[Any], upload: str) -> list[str]:
    """What happened to one upload, in order."""
    return [
        what
        for (what,) in conn.execute(
            "select what from ops.timeline where %s in (text_storage_id, file_upload_id) order by at, step", [upload]
        ).fetchall()
    ]


def test_what_waited_keeps_its_history_when_it_gets_a_slot_or_none(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), provisioned("b", "t2"), provisioned("b", "t3"), failed("b", "u1"))
    stored = conn.execute("select min(stored_at) from els.pending_content").fetchone()
    expire(conn, "t1", "t3")
    expire_failures(conn)
    assert service("pending", "restore", "b").status == 0
    pod.take(failed("b", "u2"))
    expire(conn, "t1")
    expire_failures(conn, "u1")
    pod.take(registered("b", "e1", "e2"), provisioned("b", "t4"))
    pod.take(provisioned("b", "t5"))
    again = ["expired", "restored"]
    assert waits(conn, "t1") == ["pending", *again, "expired", "assigned"]
    assert waits(conn, "t2") == ["pending", "assigned"]
    assert waits(conn, "t3") == ["pending", *again, "excess"]
    assert waits(conn, "t4") == waits(conn, "t5") == ["excess"]
    failures = ["failed, expired", "failed, restored"]
    assert waits(conn, "u1") == ["failed, pending", *failures, "failed, expired", "failed, surplus"]
    assert waits(conn, "u2") == ["failed, pending", "failed, surplus"]
    assert conn.execute("select at from ops.timeline where what = 'pending' and text_storage_id = 't2'").fetchone() == (
        stored
    )
    shown = {row["text_storage_id"]: row for row in service("batches", "show", "b", "--json").json["slots"]}
    assert shown["t1"]["pending_at"] == shown["t2"]["pending_at"]
    details = {row["text_storage_id"]: row["details"] for row in service("find", "t1.txt", "--json").json}
    assert re.fullmatch(r"slot 1, had waited since \S+Z and had expired", details["t1"])
    (excess,) = service("find", "t3.txt", "--json").json
    assert excess["details"].startswith("NO_AVAILABLE_SLOT, had waited since ")
    assert conn.execute(
        "select text_storage_id, pending_at is not null from ops.slots union all"
        " select text_storage_id, pending_at is not null from ops.excess_content order by 1"
    ).fetchall() == [("t1", True), ("t2", True), ("t3", True), ("t4", False), ("t5", False)]


def test_an_upload_that_takes_its_slot_at_once_was_never_pending(
    pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(registered("b", "e1", "e2"), provisioned("b", "t1"))
    pod.take(failed("b", "u1"))
    assert waits(conn, "t1") == ["assigned"]
    assert waits(conn, "u1") == ["failed"]
    assert conn.execute("select distinct pending_at, history from els.slots").fetchall() == [(None, None)]


def test_a_failure_that_waited_and_took_a_slot_keeps_its_history(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(failed("b", "u1"))
    expire_failures(conn)
    assert service("pending", "restore", "b").status == 0
    pod.take(registered("b", "e1", "e2"))
    assert waits(conn, "u1") == ["failed, pending", "failed, expired", "failed, restored", "failed"]


def test_content_that_expired_and_was_then_removed_has_both(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(provisioned("b", "t1"), failed("b", "u1"))
    expire(conn, "t1")
    expire_failures(conn)
    assert service("pending", "clear", "b", "--yes", "--why", "by mistake").status == 0
    pod.take(registered("b", "e1"))
    assert waits(conn, "t1") == ["pending", "expired", "removed"]
    assert waits(conn, "u1") == ["failed, pending", "failed, expired", "failed, removed"]


def test_what_an_earlier_release_restored_is_shown(pod: ApplyingPod, conn: psycopg.Connection[Any]) -> None:
    pod.take(provisioned("b", "t1"))
    conn.execute("update els.pending_content set waiting_since = now()")  # as the restore of release 0.1 does
    assert waits(conn, "t1") == ["pending", "restored"]
