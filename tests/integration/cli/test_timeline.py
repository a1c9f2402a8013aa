"""Tests that ops.timeline has one row for each thing that happened to a batch, in order."""

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
