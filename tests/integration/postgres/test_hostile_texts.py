"""Every view shows texts from outside without what a terminal obeys; ids are shown as they were sent."""

import re
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from service.domain.topics import CONTENT_PROVISIONED
from service.postgres.statements import STATEMENTS
from tests.support.builders.inputs import content, delivery, failed, provisioned, registered
from tests.support.pods.applier import ApplyFixture, apply_fixture

HOSTILE = "=cmd|'\x1b[31m\x9b2J\u202e\u2066x\x7f\rÅ"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ONE_LINE = re.compile("[\n\t]")
SEVERAL_LINES = {
    "details", "error", "errors", "broker_error", "message", "why", "detail", "key_text", "value_text",
    "value_decoded", "edited_value_text", "attention", "actions",
}  # fmt: skip
"""Columns whose texts may have several lines."""
IDS = {
    "batch_id",
    "essay_id",
    "text_storage_id",
    "file_upload_id",
    "raw_file_storage_id",
    "user_id",
    "class_id",
    "org_id",
}
"""Shown as they are: a search for one finds it, by the index, and its result can be given to a command."""
TEXTS = ("text", "text[]", "json", "jsonb")


@pytest.fixture
async def filled(app_url: str, database_url: str) -> AsyncIterator[ApplyFixture]:
    """Rows in all tables that the views read, with hostile texts wherever texts come from outside."""
    async with apply_fixture(database_url) as fixture:
        await fill(fixture, app_url)
        yield fixture


async def fill(fixture: ApplyFixture, app_url: str) -> None:
    ids = {"raw_file_storage_id": HOSTILE, "original_file_name": HOSTILE, "content_md5_hash": HOSTILE}
    detail = {"message": f"{HOSTILE}\nmore", "details": {HOSTILE: HOSTILE}}
    failure: dict[str, Any] = {
        "raw_file_storage_id": HOSTILE,
        "original_file_name": HOSTILE,
        "validation_error_code": HOSTILE,
        "validation_error_detail": detail,
    }
    names = {"user_id": HOSTILE, "essay_instructions": HOSTILE, "org_id": HOSTILE, "student_prompt_ref": {"a": HOSTILE}}
    await fixture.once(registered(HOSTILE, f"e1{HOSTILE}", f"e2{HOSTILE}", **names))
    await fixture.once(provisioned(HOSTILE, f"t1{HOSTILE}", **ids), failed(HOSTILE, f"u2{HOSTILE}", **failure))
    await fixture.once(provisioned(HOSTILE, f"t3{HOSTILE}", **ids), failed(HOSTILE, f"u4{HOSTILE}", **failure))
    for kind in ("waits", "expired", "removed"):
        name = kind + HOSTILE
        await fixture.once(provisioned(name, f"t5{HOSTILE}", **ids), failed(name, f"u6{HOSTILE}", **failure))
        for table in ("pending_content", "validation_failures"):
            if kind != "waits":
                fixture.conn.execute(
                    f"update els.{table} set state = %s, closed_at = '2026-01-01Z' where batch_id = %s".encode(),
                    [kind, name],
                )
    rejected = content(HOSTILE, f"t7{HOSTILE}", original_file_name=HOSTILE, file_size_bytes=-1)
    await fixture.once(
        delivery(CONTENT_PROVISIONED, rejected, headers=[(HOSTILE, HOSTILE.encode())], key="\u202ekey".encode())
    )
    execute = fixture.conn.execute
    execute(
        "update els.quarantine set error = error || %s, edited_value = value, state = 'replayed', closed_at = now()",
        [HOSTILE],
    )
    for action in ("pending remove", "batches cancel"):
        execute(
            "insert into els.operator_actions (who, action, batch_id, why, details, at)"
            " values (%s, %s, %s, %s, %s, '2026-01-01Z')",
            [HOSTILE, action, f"removed{HOSTILE}", HOSTILE, Jsonb({"text": HOSTILE})],
        )
    execute("insert into els.notices (kind, detail) values ('clocks', %s)", [HOSTILE])
    execute("insert into els.incomplete_batches (batch_id, announcements) values (%s, '[]')", [f"b{HOSTILE}"])
    execute(
        "insert into els.outbox_blocked (batch_id, seq, topic, error, since, retry_at)"
        " values (%s, 1, 'topic', %s, now(), now())",
        [HOSTILE, HOSTILE],
    )
    execute(
        "insert into els.pods (pod, host, release, roles, errors, not_ready_since, broker_error, broker_away_since)"
        " values (gen_random_uuid(), %s, %s, '{consumer}', array[%s], now() - interval '1 hour', %s, now())",
        [HOSTILE] * 4,
    )


def texts_of(conn: psycopg.Connection[Any], view: str) -> list[tuple[str, str]]:
    """All texts that a view shows, each with its column."""
    columns = conn.execute(
        "select attname::text from pg_attribute where attrelid = %s::regclass and attnum > 0"
        " and format_type(atttypid, null) = any (%s)",
        [f"ops.{view}", list(TEXTS)],
    ).fetchall()
    found = []
    for (column,) in columns:
        rows = conn.execute(f'select "{column}"::text from ops.{view} where "{column}" is not null'.encode())
        found += [(column, text) for (text,) in rows]
    return found


def test_no_view_shows_what_a_terminal_obeys(filled: ApplyFixture) -> None:
    hostile, silent = set(), set()
    for (view,) in filled.rows("select viewname::text from pg_views where schemaname = 'ops' order by 1"):
        texts = texts_of(filled.conn, view)
        if not any("\ufffd" in text or r"\u202e" in text or column in IDS for column, text in texts):
            silent.add(view)
        for column, text in texts:
            if UNSAFE.search(text) and column not in IDS:
                hostile.add(f"{view}.{column}")
            if ONE_LINE.search(text) and column not in IDS | SEVERAL_LINES:
                hostile.add(f"{view}.{column} has several lines")
            if text.startswith("=") and column not in IDS:
                hostile.add(f"{view}.{column} is a formula")
    assert hostile == set()
    # Views without texts from outside, and two without a row here: confirmations and cell have ids only.
    assert silent == {
        "cell", "confirmations", "erasures", "invariant_violations", "lost_inputs", "outbox_backlog", "output_topics",
        "progress", "stopped_topics",
    }  # fmt: skip


def test_a_hostile_id_is_found_as_it_was_sent(filled: ApplyFixture) -> None:
    found = filled.conn.execute("select batch_id from ops.batches where batch_id = %s", [HOSTILE]).fetchall()
    assert found == [(HOSTILE,)]


def test_an_audit_reads_events_as_they_are_published(filled: ApplyFixture) -> None:
    """It compares their bytes with those in the topics."""
    events = [row[2] for row in filled.rows(STATEMENTS["audit_outbox"])]
    assert any("\u202e" in event for event in events)
    assert any("\u202e" in line for (line,) in filled.rows("select events from els.unpublished"))
    assert "\n".join(sorted(events)) == "\n".join(
        sorted(line for (lines,) in filled.rows("select events from els.unpublished") for line in lines.split("\n"))
    )


@pytest.mark.parametrize(
    ("function", "given", "shown"),
    [
        ("shown_lines", "two\r\nlines\tÅ", "two\nlines\tÅ"),
        ("shown_lines", "one\rline", "one\ufffdline"),
        ("shown_lines", "-1\x1b", "'-1\ufffd"),
        ("safe_json", '{"a": "\u202eÅ\x7f\x9b"}', '{"a": "\\u202eÅ\\u007f\\u009b"}'),
        ("safe_json", '{"a": "Å"}', '{"a": "Å"}'),
    ],
)
def test_texts_are_shown_without_what_a_terminal_obeys(
    database_url: str, function: str, given: str, shown: str
) -> None:
    with psycopg.connect(database_url) as conn:
        assert conn.execute(f"select els.{function}(%s)".encode(), [given]).fetchone() == (shown,)


def test_json_is_shown_without_what_a_terminal_obeys(database_url: str) -> None:
    with psycopg.connect(database_url) as conn:
        given = Jsonb({"a\u202e": ["\x1b", "\x9b", "\\u001b", 1]})
        (text,) = conn.execute("select els.shown_json(%s)::text", [given]).fetchone() or ("",)
    assert text == r'{"a' + "\ufffd" + r'": ["\u001b", "' + "\ufffd" + r'", "\\u001b", 1]}'
