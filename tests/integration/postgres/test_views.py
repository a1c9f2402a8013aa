"""The views for operators show what is in the tables."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import Connection

from tests.support.builders.rows import plant, row, rows

VIEWS = Path(__file__).parents[3] / "sql" / "views"

# The columns that users depend on; a view may have more.
COLUMNS = {
    "batches": "batch_id state expected assigned failed open registered_at ready_at age course_code user_id"
    " correlation_id",
    "slots": "batch_id essay_id position state text_storage_id original_file_name assigned_at",
    "pending_content": "batch_id text_storage_id original_file_name stored_at age expires_in correlation_id",
    "pending_batches": "batch_id items failures oldest newest",
    "excess_content": "batch_id text_storage_id original_file_name reason",
    "expired_content": "batch_id text_storage_id original_file_name expired_at",
    "validation_failures": "batch_id file_upload_id original_file_name validation_error_code pending",
    "outbox_backlog": "topic rows oldest age",
    "outbox_blocked": "batch_id topic rows error since",
    "quarantine": "id state topic partition offset key value reason error first_seen_at deliveries",
    "removed_content": "batch_id text_storage_id original_file_name removed_at who why",
    "operator_actions": "id at who action batch_id topic why details",
    "health": "pending oldest_pending batches_waiting outbox_rows oldest_outbox_row quarantine_open oldest_transaction"
    " well attention level actions notices action_kinds notice_kinds cell cells",
    "cell": "cell cells since",
    "pods": "pod host release roles started_at seen_at is_alive errors not_ready_since broker_error broker_away_since"
    " partitions lag applied_at",
    "notices": "id kind at detail acknowledged_at",
    "invariant_violations": "invariant batch_id detail",
    "timeline": "batch_id at step what text_storage_id file_upload_id essay_id original_file_name details who"
    " correlation_id trace_id source",
}


def test_a_view_has_the_columns_that_users_depend_on(database: Connection[dict[str, Any]]) -> None:
    columns = "select table_name, column_name from information_schema.columns where table_schema = 'ops'"
    found = {(column["table_name"], column["column_name"]) for column in rows(database, columns)}
    assert {(view, column) for view, names in COLUMNS.items() for column in names.split()} <= found


def test_every_view_has_a_file_of_its_name(database: Connection[dict[str, Any]]) -> None:
    found = rows(database, "select viewname::text as name from pg_views where schemaname = 'ops'")
    assert {view["name"] for view in found} == {file.stem for file in VIEWS.glob("*.sql")}


def test_every_view_and_column_is_commented(database: Connection[dict[str, Any]]) -> None:
    assert not rows(
        database,
        """
        select attrelid::regclass, attname
        from pg_attribute
        join pg_class on pg_class.oid = attrelid
        where relnamespace = 'ops'::regnamespace
        and attnum >= 0
        and col_description(attrelid, attnum) is null
        union all
        select oid::regclass, ''
        from pg_class
        where relnamespace = 'ops'::regnamespace
        and obj_description(oid, 'pg_class') is null
        """,
    )


def test_batches_show_their_counters_and_when_they_were_ready(database: Connection[dict[str, Any]]) -> None:
    plant(database, "batch('waits', 3, 1, 1)", "batch('ready', 2, 1, 1)", "batch('failed', 1, 0, 1)")
    found = rows(
        database,
        "select state, expected, assigned, failed, open, ready_at is not null as was_ready,"
        " age >= '0' as aged from ops.batches order by batch_id",
    )
    assert [tuple(batch.values()) for batch in found] == [
        ("failed", 1, 0, 1, 0, False, True),
        ("ready", 2, 1, 1, 0, True, True),
        ("registered", 3, 1, 1, 1, False, True),
    ]


def test_slots_show_what_took_them(database: Connection[dict[str, Any]]) -> None:
    plant(database, "batch('b', 3, 1, 1)")
    found = rows(
        database,
        "select essay_id, position, state, text_storage_id, assigned_at is not null as assigned,"
        " failed_at is not null as failed from ops.slots where batch_id = 'b' order by position",
    )
    assert [tuple(slot.values()) for slot in found] == [
        ("e1", 1, "assigned", "t1", True, False),
        ("e2", 2, "failed", None, False, True),
        ("e3", 3, "open", None, False, False),
    ]


def test_pending_content_counts_down_from_the_policy(database: Connection[dict[str, Any]]) -> None:
    plant(
        database,
        "pending('b', 't')",
        "pending('b', 'gone', 'expired')",
        "pending('b', 'taken away', 'removed')",
        "update els.policy set seconds = 3600 where name = 'pending_ttl'",
        "update els.pending_content set stored_at = now() - interval '2 hours',"
        " waiting_since = now() - interval '10 minutes'",
    )
    found = row(database, "select text_storage_id, age, expires_in from ops.pending_content")
    assert found["text_storage_id"] == "t"
    assert timedelta(hours=2) <= found["age"] < timedelta(hours=3)
    assert timedelta(minutes=40) < found["expires_in"] <= timedelta(minutes=50)
    assert row(database, "select text_storage_id, expired_at is not null as shown from ops.expired_content") == {
        "text_storage_id": "gone",
        "shown": True,
    }


def test_pending_batches_count_contents_and_failures(database: Connection[dict[str, Any]]) -> None:
    plant(
        database,
        "pending('both', 't1')",
        "pending('both', 't2')",
        "failure('both', 'u', 'pending')",
        "failure('failures', 'u', 'pending')",
        "pending('expired', 't', 'expired')",
    )
    found = rows(database, "select batch_id, items, failures from ops.pending_batches order by batch_id")
    assert [tuple(batch.values()) for batch in found] == [("both", 2, 1), ("failures", 0, 1)]


def test_excess_content_and_failures_show_their_reason_and_state(database: Connection[dict[str, Any]]) -> None:
    plant(
        database,
        "excess('b', 't')",
        "failure('b', 'waits', 'pending')",
        "failure('b', 'took', 'slot')",
    )
    assert row(database, "select batch_id, text_storage_id, original_file_name, reason from ops.excess_content") == {
        "batch_id": "b",
        "text_storage_id": "t",
        "original_file_name": "late.txt",
        "reason": "BATCH_FULL",
    }
    found = rows(database, "select file_upload_id, pending, message from ops.validation_failures order by pending desc")
    assert [tuple(failure.values()) for failure in found] == [
        ("waits", True, "nothing in it"),
        ("took", False, "nothing in it"),
    ]


def test_the_outbox_is_shown_by_topic_and_blocked_events_by_batch(
    database: Connection[dict[str, Any]],
) -> None:
    plant(
        database,
        "event('b', 'one')",
        "event('b', 'two')",
        "event('other', 'two')",
        "insert into els.outbox_blocked values ('b', 1, 'one', 'too large', now(), now())",
    )
    found = rows(database, "select topic, rows, age >= '0' as aged from ops.outbox_backlog order by topic")
    assert [tuple(topic.values()) for topic in found] == [("one", 1, True), ("two", 2, True)]
    assert row(database, "select batch_id, topic, rows, error from ops.outbox_blocked") == {
        "batch_id": "b",
        "topic": "one",
        "rows": 2,
        "error": "too large",
    }


def test_a_row_of_the_outbox_that_is_no_event_is_shown_with_the_others(database: Connection[dict[str, Any]]) -> None:
    plant(
        database, "insert into els.outbox_pages (batch_id, topics, events) values ('b', '{}', 'x')", "event('b', 't')"
    )
    found = rows(database, "select * from ops.outbox_events where batch_id = 'b' order by seq")
    assert [(each["topic"], each["event"] == "x") for each in found] == [("", True), ("t", False)]


@pytest.mark.parametrize("topics", ["[1]", "7", "null", '{"one": "many", "two": null}'])
def test_no_view_fails_because_of_a_row_of_the_outbox_that_was_changed_by_hand(
    database: Connection[dict[str, Any]], topics: str
) -> None:
    plant(
        database,
        f"insert into els.outbox_pages (batch_id, topics, events) values ('b', '{topics}', 'x')",
        "insert into els.outbox_blocked values ('b', 1, '', 'no event', now(), now())",
        "event('other', 'two')",
    )
    backlog = {each["topic"]: each["rows"] for each in rows(database, "select topic, rows from ops.outbox_backlog")}
    assert backlog == ({"one": 1, "two": 2} if "one" in topics else {"?": 1, "two": 1})
    assert row(database, "select batch_id from ops.outbox_blocked") == {"batch_id": "b"}
    assert row(database, "select outbox_rows, outbox_blocked from ops.health") == {
        "outbox_rows": sum(backlog.values()),
        "outbox_blocked": 1,
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (r"\x7b22c3a5223a317d", '{"å":1}'),
        (r"\x410a0942", "A\n\tB"),
        (r"\x", ""),
        (r"\xff00", None),
        (r"\x4100", None),
        (r"\xeda080", None),
        (r"\x1b5b324a", None),
        (r"\xc285", None),
    ],
)
def test_quarantine_shows_as_text_only_what_is_text(
    database: Connection[dict[str, Any]], value: str, shown: str | None
) -> None:
    plant(database, f"rejected('topic', '{value}')")
    found = row(database, 'select state, "partition", "offset", key_text, value, value_text from ops.quarantine')
    assert found == {
        "state": "open",
        "partition": 3,
        "offset": 42,
        "key_text": "key",
        "value": bytes.fromhex(value[2:]),
        "value_text": shown,
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Åsa's essay.docx", "Åsa's essay.docx"),
        ("\x1b[31mred", "\ufffd[31mred"),
        ("a\u202efdp.exe", "a\ufffdfdp.exe"),
        ("c1\x9b31m", "c1\ufffd31m"),
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("two\nlines", "two\ufffdlines"),
    ],
)
def test_names_of_files_are_shown_without_what_a_terminal_or_a_spreadsheet_obeys(
    database: Connection[dict[str, Any]], name: str, shown: str
) -> None:
    assert database.execute("select els.shown(%s) as shown", [name]).fetchone() == {"shown": shown}
