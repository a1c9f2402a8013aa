"""Tests that one search finds a batch and its uploads by every id, in every state, however the search is kept."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from service.domain.delivery import Delivery
from service.domain.events import Reason, Rejection
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.store.search import may_begin
from tests.support.builders.inputs import confirmed, content, delivery, failed, provisioned, registered, registration
from tests.support.pods.command_line import CommandLine
from tests.support.pods.operator_stage import ApplyingPod, expire, expire_failures

HOSTILE = "%_\\ '\"; drop table [1] (x)*.docx"


def named(delivered: Delivery, correlation: int) -> Delivery:
    """The same record with a correlation id of its own."""
    envelope = json.loads(delivered.value or b"")
    envelope["correlation_id"] = correlation_id(correlation)
    rejection = delivered.event if isinstance(delivered.event, Rejection) else None
    return delivery(delivered.topic, json.dumps(envelope).encode(), event=rejection)


def correlation_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


def arrivals() -> Iterable[Delivery]:
    """Content, failures, registrations and a confirmation, one for each state."""
    bug = Rejection(Reason.INVALID_FIELD, "said the bug")
    yield registered("full", "essay-full", user_id="user-one", class_id="class-one", org_id="org-one")
    yield registered("part", "essay-part-1", "essay-part-2", "essay-part-3", user_id="user-two")
    yield provisioned("full", "text-slot", original_file_name="Åsa in a slot.docx")
    yield provisioned("full", "text-excess", original_file_name="Åsa in excess.docx")
    yield provisioned("part", "text-hostile", original_file_name=HOSTILE)
    yield failed("part", "upload-failed", original_file_name="Åsa failed.docx")
    yield failed("full", "upload-surplus", original_file_name="Åsa surplus.docx")
    yield provisioned("none", "text-pending", original_file_name="Åsa pending.docx")
    yield provisioned("none", "text-expired", original_file_name="Åsa expired.docx")
    yield provisioned("none", "text-removed", original_file_name="Åsa removed.docx")
    yield failed("none", "upload-waiting", original_file_name="Åsa waiting.docx")
    yield confirmed("none", "class-two")
    rejected = content("none", "text-rejected", original_file_name="Åsa rejected.docx")
    yield delivery(CONTENT_PROVISIONED, rejected, event=bug)


FOUND = [
    ("full", "batch"),
    ("user-one", "batch"),
    ("class-one", "batch"),
    ("org-one", "batch"),
    ("part", "batch"),
    ("user-two", "batch"),
    ("essay-full", "slot"),
    ("essay-part-2", "slot"),
    ("essay-part-3", "slot"),
    ("text-slot", "slot"),
    ("upload-text-slot", "slot"),
    ("text-excess", "excess"),
    ("upload-text-excess", "excess"),
    ("upload-failed", "failure"),
    ("upload-surplus", "failure"),
    ("text-pending", "content"),
    ("upload-text-pending", "content"),
    ("text-expired", "content"),
    ("text-removed", "content"),
    ("upload-waiting", "failure"),
    ("class-two", "confirmation"),
    ("text-rejected", "rejected"),
    ("upload-text-rejected", "rejected"),
    (HOSTILE, "slot"),
    ("a SLOT.doc", "slot"),
    ("in excess", "excess"),
    ("åsa failed", "failure"),
    ("a\u030asa surplus", "failure"),
    ("PENDING.docx", "content"),
    ("expired.docx", "content"),
    ("removed.docx", "content"),
    ("A\u030aSA WAITING", "failure"),
    ("Åsa rejected", "rejected"),
    *(
        (correlation_id(number), kind)
        for number, kind in enumerate(
            (
                *("batch", "batch", "slot", "excess", "slot", "failure", "failure", "content", "content", "content"),
                *("failure", "confirmation", "rejected"),
            )
        )
    ),
]


@pytest.fixture
def stage(service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]) -> None:
    for number, each in enumerate(arrivals()):
        pod.take(named(each, number))
    expire(conn, "text-expired")
    assert service("pending", "remove", "none", "text-removed", "--yes").status == 0


@pytest.fixture(params=["not indexed", "indexed", "changed since"])
def kept(request: pytest.FixtureRequest, stage: None, service: CommandLine, conn: psycopg.Connection[Any]) -> None:
    """How the search is kept: not at all, up to now, or up to a time before all changes."""
    if request.param != "not indexed":
        assert service("purge").status == 0
    if request.param == "changed since":
        conn.execute("truncate els.search")
        conn.execute("update els.search_progress set known_until = now() - interval '1 hour'")


@pytest.mark.usefixtures("kept")
def test_everything_is_found_by_every_id_and_by_its_file_name(service: CommandLine) -> None:
    missed = []
    for text, kind in FOUND:
        ended = service("find", text, "--json")
        if ended.status or not any(row["kind"] == kind for row in ended.json):
            missed.append((text, kind, ended))
    assert missed == []
    everywhere = service("find", "åSA ", "--json").json
    assert len(everywhere) == 9
    assert [row["at"] for row in everywhere] == sorted((row["at"] for row in everywhere), reverse=True)
    assert len(service("find", "Åsa ", "--json", "--limit", "3").json) == 3
    assert "more rows" in service("find", "Åsa ", "--limit", "3").err
    assert service("find", "åsa ", "--older-than", "1h").failed_with(1, "nothing has the id 'åsa '")
    assert len(service("find", "åsa ", "--newer-than", "1h", "--json").json) == 9


@pytest.mark.usefixtures("kept")
def test_what_is_not_there_is_not_found(service: CommandLine) -> None:
    for text in (
        "nobody.docx",
        "essay",
        "text-slott",
        "text-sl",
        "user-one ",
        "drop table%",
        correlation_id(99),
        "full\npart",
        "💥💥💥",
    ):
        found = service("find", text, "--json")
        kinds = [row["matched"] for row in found.json] if found.status == 0 else []
        assert set(kinds) <= {"content"}, text
    assert service("find", "nobody.docx").failed_with(1, "nothing has the id 'nobody.docx'")
    assert service("find", "ab").failed_with(2, "at least 3 characters")


BEGINNINGS = [
    ("essay-fu", "essay id", "slot"),
    ("essay-part", "essay id", "slot"),
    ("text-slo", "text storage id", "slot"),
    ("text-exces", "text storage id", "excess"),
    ("upload-text-exc", "upload id", "excess"),
    ("upload-fai", "upload id", "failure"),
    ("upload-surp", "upload id", "failure"),
    ("text-pend", "text storage id", "content"),
    ("text-expi", "text storage id", "content"),
    ("text-remo", "text storage id", "content"),
    ("upload-wai", "upload id", "failure"),
    ("user-tw", None, None),
    ("class-tw", "class id", "confirmation"),
]


@pytest.mark.usefixtures("kept")
def test_the_beginning_of_an_id_finds_it_where_nothing_has_the_whole(service: CommandLine) -> None:
    for text, matched, kind in BEGINNINGS:
        ended = service("find", text, "--json")
        if matched is None:
            assert ended.failed_with(1, "nothing has the id"), text
        else:
            assert {(row["matched"], row["kind"]) for row in ended.json} == {(f"beginning of {matched}", kind)}, text
    assert len(service("find", "essay-part", "--json").json) == 3
    # The value of the rejected input contains it, but that is no id of its row.
    by_correlation = service("find", correlation_id(0)[:-2], "--json").json
    assert {row["matched"] for row in by_correlation} == {"beginning of correlation id"}
    assert len(by_correlation) == 13
    assert {row["kind"] for row in by_correlation} == {
        *("batch", "slot", "excess", "failure", "content", "confirmation", "rejected")
    }
    assert {row["matched"] for row in service("find", "upload-text-slot", "--json").json} == {"upload id"}


@pytest.mark.parametrize(
    ("text", "may"),
    [("12345678", True), ("1234567", False), ("user.berg", True), ("Åsa 1234", False), ("uppsats.DOCX", False)],
)
def test_a_text_that_is_rather_a_name_is_not_sought_as_the_beginning_of_an_id(text: str, may: bool) -> None:
    assert may_begin(text) == may


@pytest.mark.parametrize(
    ("value", "text", "is_found"),
    [
        (b"Uppsats 1", "UPPSATS", True),
        (b"Uppsats 1", "uppsats 2", False),
        ("A\u030asa".encode(), "åsa", True),
        ("A\u030asa".encode(), "asa", False),
        ("\u212aarin".encode(), "karin", True),
        (b'{"name": "\\u00c5sa"}', "åsa", True),
        (b'{"name": "\\u0041sa"}', "asa", True),
        (b"asa \x01", "asa", False),  # no text
        (b"\xff asa", "asa", False),
        (b"\x00", "asa", False),
        (None, "key-1", True),
        (None, "an error", True),
    ],
)
def test_a_text_is_found_in_a_rejected_input_whatever_its_letters(
    conn: psycopg.Connection[Any], value: bytes | None, text: str, is_found: bool
) -> None:
    statement = "select els.mentions('key-1', %b::bytea, 'An error', %s)"
    assert conn.execute(statement, [value, text]).fetchone() == (is_found,)
    assert conn.execute("select els.mentions('\\xff', %b::bytea, %s, '')", [value, text]).fetchone() == (True,)


def test_a_whole_id_is_not_lost_among_those_that_begin_with_it(service: CommandLine, pod: ApplyingPod) -> None:
    pod.take(*(registered(f"batch-id-{number}", f"essay-{number}") for number in (1, 10, 11, 12)))
    assert service("purge").status == 0
    assert [row["batch_id"] for row in service("find", "batch-id-1", "--json").json] == ["batch-id-1"]
    found = service("find", "batch-id-", "--json").json
    assert sorted(row["batch_id"] for row in found) == ["batch-id-1", "batch-id-10", "batch-id-11", "batch-id-12"]


@pytest.mark.parametrize("indexed", [True, False])
def test_what_still_waits_is_found_on_each_day_since(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], indexed: bool
) -> None:
    def begins(days: int) -> str:
        return (datetime.now(UTC) - timedelta(days=days)).strftime("%Y-%m-%d")

    pod.take(provisioned("none", "text"), registered("open", "e1"), registered("failed", "e1"))
    pod.take(failed("failed", "u1"))
    conn.execute("update els.pending_content set stored_at = now() - interval '6 days'")
    conn.execute("update els.batches set registered_at = now() - interval '6 days'")
    conn.execute("update els.batches set changed_at = registered_at where batch_id = 'open'")
    conn.execute("update els.batches set changed_at = now() - interval '3 days' where batch_id = 'failed'")
    conn.execute("update els.validation_failures set stored_at = now() - interval '3 days'")
    if indexed:
        conn.execute("truncate els.search_progress")
        assert service("purge").status == 0
    for text, days, status in (("text", 0, 0), ("open", 0, 0), ("failed", 3, 0), ("failed", 2, 1)):
        ended = service("find", text, "--since", begins(days), "--json")
        assert (text, days, ended.status) == (text, days, status)


@pytest.mark.parametrize("indexed", [True, False])
def test_an_essay_is_found_by_the_day_on_which_it_was_uploaded_or_reached_its_state(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any], indexed: bool
) -> None:
    def day(before: int, clock: str = "") -> str:
        return (datetime.now(UTC) - timedelta(days=before)).strftime("%Y-%m-%d") + clock

    def days(since: str, until: str) -> tuple[str, ...]:
        return "--since", since, "--until", until

    pod.take(provisioned("b", "t1", original_file_name="Åsa.docx"))
    conn.execute("update els.pending_content set stored_at = %s", [day(6, "T09:00Z")])
    pod.take(provisioned("c", "t2", original_file_name="Åsa again.docx"))
    pod.take(registered("b", "e1"))
    for table, column in (("slots", "taken_at"), ("batches", "registered_at"), ("batches", "changed_at")):
        conn.execute(f"update els.{table} set {column} = %s".encode(), [day(4, "T09:00Z")])
    if indexed:
        conn.execute("truncate els.search_progress")
        assert service("purge").status == 0
    for times in (
        days(day(6), day(6)),
        days(day(6, "T10:00+01:00"), day(6, "T09:00:01")),
        days(day(5), day(5)),
        days(day(4), day(4)),
        (*days(day(6), day(6)), "--newer-than", "36500d"),
    ):
        found = service("find", "åsa", *times, "--json")
        assert found.status == 0, times
        assert [row["text_storage_id"] for row in found.json] == ["t1"], times
    for times in (
        days(day(3), day(2)),
        ("--until", day(7)),
        ("--until", day(6, "T08:59")),
        days(day(4, "T09:00:01"), day(3)),
    ):
        assert service("find", "åsa", *times).failed_with(1, "nothing has the id"), times
    assert len(service("find", "åsa", "--since", day(6), "--json").json) == 2
    for wrong in ("tuesday", "2026-13-01", "1800-01-01", "9999-12-31", ""):
        ended = service("find", "åsa", "--until", wrong)
        assert (ended.status, "must be a date or a time" in ended.err) == (2, True), wrong


def test_the_search_knows_what_changed_since_a_purge_and_forgets_what_is_deleted(
    stage: None, service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    assert service("purge").status == 0
    pod.take(provisioned("part", "text-new", original_file_name="New one.docx"))
    pod.take(provisioned("full", "text-late", original_file_name="Late one.docx"))
    for text in ("new one", "late one", "text-new", "text-late"):
        assert service("find", text).status == 0
    assert service("purge").status == 0
    conn.execute("update els.search_progress set known_until = '2100-01-01'")
    for text in ("new one", "late one", "text-new", "text-late"):
        assert service("find", text).status == 0
    pod.take(confirmed("full", "class-one"))
    conn.execute("delete from els.outbox_pages")
    conn.execute(
        "update els.batches set changed_at = now() - interval '9 days', completed_at = now() - interval '9 days'"
        " where batch_id = 'full'"
    )
    conn.execute("update els.excess_content set declared_at = now() - interval '9 days'")
    conn.execute("update els.validation_failures set stored_at = now() - interval '9 days'")
    conn.execute("update els.confirmations set stored_at = now() - interval '9 days'")
    assert service("purge", ELS_BATCH_RETENTION_SECONDS="86400").status == 0
    assert conn.execute("select batch_id from els.search").fetchall() == [("part",)]


def test_a_crash_of_the_server_empties_the_search_and_the_purge_fills_it_again(
    stage: None, service: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    unlogged = "select count(*) from pg_class where relname in ('search', 'search_progress') and relpersistence = 'u'"
    assert conn.execute(unlogged).fetchone() == (2,)
    assert service("purge").status == 0
    conn.execute("truncate els.search, els.search_progress")
    assert service("find", "in a slot").status == 0
    assert service("purge").status == 0
    assert conn.execute("select count(*) from els.search").fetchone() == (2,)


def test_unregistered_batches_and_rejected_registrations_are_found(
    service: CommandLine, pod: ApplyingPod, conn: psycopg.Connection[Any]
) -> None:
    pod.take(failed("lost", "u"), delivery(BATCH_REGISTERED, registration("lost", []), key=b"lost"))
    expire_failures(conn)
    found = service("find", "lost", "--json").json
    assert {(row["kind"], row["state"]) for row in found} == {("failure", "expired"), ("rejected", "open")}
    assert any("no_essays" in row["details"] for row in found)


def test_an_erased_name_is_not_found_and_its_ids_are(
    stage: None, service: CommandLine, conn: psycopg.Connection[Any]
) -> None:
    assert service("purge").status == 0
    conn.execute("delete from els.outbox_pages")
    assert service("privacy", "erase", "--batch", "full", "--yes", "--why", "asked for").status == 0
    for _ in ("at once", "after a purge"):
        assert service("find", "in a slot").failed_with(1, "nothing has the id")
        assert service("find", "user-one").status == 1
        assert service("find", "text-slot", "--json").json[0]["original_file_name"] == "[erased]"
        assert conn.execute("select count(*) from els.search where names like '%in a slot%'").fetchone() == (0,)
        assert service("purge").status == 0
