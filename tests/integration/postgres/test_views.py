"""The views for operators show what is in the tables, and read few rows."""

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import dict_row

from deploy.servers import databases

VIEWS = Path(__file__).parents[3] / "sql" / "views"
DOCS = VIEWS.parents[1] / "docs"

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
    " well attention level actions notices action_kinds notice_kinds",
    "pods": "pod host release roles started_at seen_at is_alive errors not_ready_since broker_error broker_away_since"
    " partitions lag applied_at",
    "notices": "id kind at detail acknowledged_at",
    "invariant_violations": "invariant batch_id detail",
    "timeline": "batch_id at step what text_storage_id file_upload_id essay_id original_file_name details who"
    " correlation_id trace_id source",
}

READY = "huleedu.els.batch.essays.ready.v1"

# Functions of this session only, so that a test says what it plants and nothing else.
PLANT = """
set check_function_bodies = off;
create function pg_temp.batch(id text, of integer, taken integer, lost integer default 0) returns void
language sql as $$
    insert into els.batches (
        batch_id, expected, assigned, failed, state, essay_set, course_code, user_id, essay_instructions,
        correlation_id, registered_at, changed_at, completed_at
    ) values (
        id, of, taken, lost,
        case when taken + lost < of then 'registered' when taken > 0 then 'ready' else 'failed' end,
        sha256(id::bytea), 'ENG5', 'teacher', '', gen_random_uuid(), now(), now(),
        case when taken + lost = of then now() end
    );
    insert into els.slots (batch_id, essay_id, position)
    select id, 'e' || n, n from generate_series(1, of) as n;
    select pg_temp.fill(id, 'e' || n, 't' || n) from generate_series(1, taken) as n;
    select pg_temp.fail(id, 'e' || n, 'u' || n) from generate_series(taken + 1, taken + lost) as n;
$$;
create function pg_temp.fill(batch text, essay text, content text) returns void language sql as $$
    update els.slots
    set state = 'assigned', text_storage_id = content, file_upload_id = 'up', original_file_name = 'a.txt',
        raw_file_storage_id = 'raw', file_size_bytes = 1, content_md5_hash = 'md5',
        correlation_id = gen_random_uuid(), taken_at = now()
    where batch_id = batch and essay_id = essay;
$$;
create function pg_temp.failure(batch text, upload text, kind text) returns void language sql as $$
    insert into els.validation_failures (
        batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id,
        validation_error_code, error_detail, file_size_bytes, failed_at, correlation_id, stored_at,
        waiting_since, closed_at
    ) values (
        batch, upload, nextval('els.arrivals'), kind, 'bad.txt', 'raw', 'EMPTY_CONTENT',
        '{"message": "nothing in it"}', 0, now(), gen_random_uuid(), now(), now(),
        case when kind = 'expired' then now() end
    );
$$;
create function pg_temp.fail(batch text, essay text, upload text) returns void language sql as $$
    update els.slots
    set state = 'failed', file_upload_id = upload, taken_at = now()
    where batch_id = batch and essay_id = essay;
    select pg_temp.failure(batch, upload, 'slot');
$$;
create function pg_temp.pending(batch text, content text, kind text default 'pending') returns void
language sql as $$
    insert into els.pending_content (
        batch_id, text_storage_id, arrival, state, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, stored_at, waiting_since, closed_at
    ) values (
        batch, content, nextval('els.arrivals'), kind, 'up', 'early.txt', 'raw', 1, 'md5',
        gen_random_uuid(), now(), now(), case when kind <> 'pending' then now() end
    );
$$;
create function pg_temp.excess(batch text, content text) returns void language sql as $$
    insert into els.excess_content (
        batch_id, text_storage_id, reason, file_upload_id, original_file_name, raw_file_storage_id,
        file_size_bytes, content_md5_hash, correlation_id, declared_at
    ) values (
        batch, content, 'BATCH_FULL', 'up', 'late.txt', 'raw', 1, 'md5', gen_random_uuid(), now()
    );
$$;
create function pg_temp.envelope(topic text) returns text language sql as $$
    select format('{"event_id":"%s","event_type":"%s"}', gen_random_uuid(), topic);
$$;
create function pg_temp.event(batch text, topic text) returns void language sql as $$
    insert into els.outbox_pages (batch_id, topics, events)
    values (batch, jsonb_build_object(topic, 1), pg_temp.envelope(topic));
$$;
create function pg_temp.old_event(batch text, topic text, age interval) returns void language sql as $$
    insert into els.outbox_pages (batch_id, topics, events, created_at)
    values (batch, jsonb_build_object(topic, 1), pg_temp.envelope(topic), now() - age);
$$;
create function pg_temp.live() returns void language sql as $$
    insert into els.relays values (gen_random_uuid(), now() + interval '1 minute', true);
    select pg_temp.pod();
$$;
create function pg_temp.pod(
    roles text[] default '{consumer,relay,purge}', seen interval default '1 s', not_ready interval default null,
    error text default null, broker_error text default null, lag bigint default 0, idle interval default '0 s'
) returns void language sql as $$
    insert into els.pods (
        pod, host, release, roles, seen_at, errors, not_ready_since, broker_error, broker_away_since, lag, applied_at
    ) values (
        gen_random_uuid(), 'host', '1', roles, now() - seen, array_remove(array[error], null), now() - not_ready,
        broker_error, '2026-01-02T03:04:05Z'::timestamptz + not_ready - not_ready, lag, now() - idle
    );
$$;
create function pg_temp.lost(topic text) returns void language sql as $$
    insert into els.lost_inputs (topic, partition, first_offset, next_offset, cause) values (topic, 0, 1, 3, 'deleted');
$$;
create function pg_temp.age(by interval) returns void language sql as $$
    update els.pending_content set stored_at = now() - by, waiting_since = now() - by;
$$;
create function pg_temp.rejected(topic text, value bytea) returns void language sql as $$
    insert into els.quarantine (
        topic, fingerprint, "partition", "offset", key, value, reason, error, first_seen_at, last_seen_at
    ) values (topic, sha256(value), 3, 42, 'key', value, 'not_json', 'no JSON', now(), now());
$$;
"""

MANY_WAIT = (
    "insert into els.pending_content (batch_id, text_storage_id, arrival, file_upload_id, original_file_name,"
    " raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, stored_at, waiting_since)"
    " select 'waits' || n % {batches}, 't' || n, n, 'up', 'a', 'raw', 1, 'md5', gen_random_uuid(), now(), now()"
    " from generate_series(1, {contents}) as n"
)

MANY_EVENTS = (
    "insert into els.outbox_pages (batch_id, topics, events)"
    """ select 'b' || n, '{{"topic": 1}}', '{{}}' from generate_series(1, {events}) as n"""
)


@pytest.fixture
def database(database_url: str) -> Iterator[Connection[dict[str, Any]]]:
    with psycopg.connect(database_url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(PLANT.encode())
        yield connection


def rows(database: Connection[dict[str, Any]], query: str) -> list[dict[str, Any]]:
    return database.execute(query.encode()).fetchall()


def row(database: Connection[dict[str, Any]], query: str) -> dict[str, Any]:
    (only,) = rows(database, query)
    return only


def plant(database: Connection[dict[str, Any]], *calls: str) -> None:
    """Each is one of the functions above with its arguments, or a statement."""
    for call in calls:
        statement = call if " " in call.split("(")[0] else f"select pg_temp.{call}"
        database.execute(statement.encode())


@pytest.mark.parametrize("view", COLUMNS)
def test_a_view_has_the_columns_that_users_depend_on(database: Connection[dict[str, Any]], view: str) -> None:
    found = rows(
        database,
        f"select column_name from information_schema.columns where table_schema = 'ops' and table_name = '{view}'",
    )
    assert set(COLUMNS[view].split()) <= {column["column_name"] for column in found}


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
    found = rows(database, "select file_upload_id, pending, message from ops.validation_failures order by stored_at")
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


def test_health_is_one_row_of_what_waits(database: Connection[dict[str, Any]]) -> None:
    counts = (
        "select pending, batches_waiting, outbox_rows, outbox_blocked, quarantine_open, topics_stopped,"
        " oldest_pending is null as nothing_pending, oldest_outbox_row is null as nothing_to_publish"
        " from ops.health"
    )
    assert tuple(row(database, counts).values()) == (0, 0, 0, 0, 0, 0, True, True)
    plant(
        database,
        "pending('b', 't1')",
        "pending('b', 't2')",
        "failure('c', 'u', 'pending')",
        "event('b', 'one')",
        "insert into els.outbox_blocked values ('b', 1, 'one', 'too large', now(), now())",
        "rejected('topic', 'x')",
        "insert into els.topic_refusals values ('topic', 1000, now()), ('other', 1, null)",
    )
    assert tuple(row(database, counts).values()) == (2, 2, 1, 1, 1, 1, False, False)
    assert row(database, "select topic, refusals from ops.stopped_topics") == {
        "topic": "topic",
        "refusals": 1000,
    }


ATTENTION = {
    "nothing": ("live()", ()),
    "no pod": ("select 1", ("no pod consumes: nothing is applied", "no pod publishes events")),
    "no consumer": (
        "update els.pods set roles = '{relay,purge}'",
        ("no pod consumes: nothing is applied",),
    ),
    "a replay": (
        "update els.pods set roles = '{replay,relay,purge}'",
        ("no pod consumes: nothing is applied",),
    ),
    "a silent pod": (
        "update els.pods set seen_at = now() - interval '31 seconds'",
        ("no pod consumes: nothing is applied",),
    ),
    "no purge": (
        "update els.pods set roles = '{consumer,relay}'",
        ("no pod purges: nothing expires, and no batch is reported late",),
    ),
    "a purge by a timer": (
        (
            "update els.pods set roles = '{consumer,relay}'; insert into els.purge_rounds"
            " values (true, now() - interval '59 minutes')"
        ),
        (),
    ),
    "a purge by a timer that has stopped": (
        (
            "update els.pods set roles = '{consumer,relay}'; insert into els.purge_rounds"
            " values (true, now() - interval '61 minutes')"
        ),
        ("no pod purges: nothing expires, and no batch is reported late",),
    ),
    "pods of the previous release": ("delete from els.pods; update els.outbox_format set pages = false", ()),
    "a pod that is not ready for a moment": ("pod(not_ready => '14 s', error => 'consumer: starting')", ()),
    "a pod that is not ready": (
        "pod(not_ready => '16 s', error => 'relay: a quota')",
        ("1 of 2 pods are not ready since {not_ready} (relay: a quota): ops.pods",),
    ),
    "a broker that is down": (
        "pod(not_ready => '16 s', error => 'relay: away', broker_error => 'away')",
        ("1 of 2 pods cannot reach the broker since 2026-01-02 03:04:05Z (away): ops.pods",),
    ),
    "a pod that died while the broker was down": (
        "pod(not_ready => '16 s', error => 'relay: away', broker_error => 'away', seen => '31 s')",
        (),
    ),
    "lag": ("pod(lag => 5, idle => '59 s')", ()),
    "lag that does not shrink": (
        "pod(lag => 5, idle => '61 s')",
        ("5 records wait (consumer lag), and nothing was applied for more than a minute: ops.pods",),
    ),
    "a paused topic": (
        "insert into els.topic_refusals values ('topic', 1000, now())",
        ("1 input topics are paused: ops.stopped_topics",),
    ),
    "a new event": ("event('b', 'topic')", ()),
    "an old event": (
        "old_event('b', 'topic', '31 seconds')",
        ("events have waited more than 30 seconds to be published: ops.outbox_backlog",),
    ),
    "a blocked batch": (
        "insert into els.outbox_blocked values ('b', 1, 'one', 'too large', now(), now())",
        ("1 batches can not be published (too large): ops.outbox_blocked",),
    ),
    "a rejected input": ("rejected('topic', 'x')", ("1 rejected inputs are open: ops.quarantine",)),
    "an incomplete batch": (
        "insert into els.incomplete_batches (batch_id, announcements) values ('b', '[[], []]')",
        ("1 batches were announced, and their registration is in no topic: ops.incomplete_batches",),
    ),
    "a new content": ("pending('b', 't')", ()),
    "an old content": (
        "with old as (select pg_temp.pending('b', 't')) select pg_temp.age('13 hours') from old",
        ("contents have waited more than half of their time for a registration: ops.pending_batches",),
    ),
}


NOTICES = {
    "a lost input": (
        "lost('t')",
        "lost_inputs",
        "1 times an input topic lost records that may not have been read: ops.lost_inputs",
    ),
    "an expired content": (
        "pending('b', 't', 'expired')",
        "expired_content",
        "1 contents expired: ops.expired_content",
    ),
    "an expired failure": (
        "failure('b', 'u', 'expired')",
        "expired_content",
        "1 validation failures expired: ops.validation_failures",
    ),
    "clocks that agree again": (
        "insert into els.notices (kind, detail) values ('clocks', 'the purge was held')",
        "clocks",
        "the purge was held; that is over: ops.notices",
    ),
    "another server": (
        "insert into els.notices (kind, detail) values ('servers', 'the database moved')",
        "servers",
        "the database moved, and nothing was missing in it: ops.notices",
    ),
}


@pytest.mark.parametrize("what", ATTENTION)
def test_health_says_in_words_what_needs_an_action(database: Connection[dict[str, Any]], what: str) -> None:
    planted, attention = ATTENTION[what]
    if what != "no pod":
        plant(database, "live()")
    plant(database, planted)
    since = "select to_char(max(not_ready_since) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS\"Z\"') as at from els.pods"
    attention = tuple(line.format(not_ready=row(database, since)["at"]) for line in attention)
    found = row(database, "select well, level, attention, actions, action_kinds, notices from ops.health")
    assert found["attention"] == list(attention)
    assert found["well"] == (not attention)
    assert found["level"] == ("action needed" if attention else "fine")
    assert [line.partition(" (docs/")[0] for line in found["actions"]] == list(attention)
    assert len(found["action_kinds"]) == len(attention)
    assert found["notices"] == []


@pytest.mark.parametrize("what", NOTICES)
def test_health_shows_what_has_happened_as_a_notice(database: Connection[dict[str, Any]], what: str) -> None:
    planted, kind, line = NOTICES[what]
    plant(database, "live()", planted)
    found = row(database, "select well, level, attention, actions, notice_kinds, notices from ops.health")
    assert (found["well"], found["level"], found["actions"]) == (True, "notice", [])
    assert (found["attention"], found["notice_kinds"]) == ([line], [kind])
    assert found["notices"][0].startswith(line)
    plant(database, "rejected('topic', 'x')")
    found = row(database, "select well, level, action_kinds, notice_kinds from ops.health")
    assert (found["well"], found["level"]) == (False, "action needed")
    assert (found["action_kinds"], found["notice_kinds"]) == (["quarantine"], [kind])


def test_of_what_expired_health_counts_a_thousand(database: Connection[dict[str, Any]]) -> None:
    plant(database, "live()", MANY_WAIT.format(batches=10, contents=1001))
    plant(database, "update els.pending_content set state = 'expired', closed_at = now()")
    found = row(database, "select attention from ops.health")
    assert found["attention"] == ["more than 1,000 contents expired: ops.expired_content"]


def test_each_line_of_health_names_a_section_of_the_docs(database: Connection[dict[str, Any]]) -> None:
    (view,) = row(database, "select pg_get_viewdef('ops.health') as text").values()
    places = set(re.findall(r"'((?:\w+)\.md#[\w-]+)'", view))
    assert len(places) > 15
    for place in places:
        page, anchor = place.split("#")
        text = (DOCS / page).read_text()
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, place


@pytest.mark.parametrize(("more", "least", "most"), [(50_100, 50_000, 60_000), (10, 10, 10)])
def test_health_counts_a_few_and_estimates_many(
    database: Connection[dict[str, Any]], more: int, least: int, most: int
) -> None:
    plant(
        database,
        MANY_WAIT.format(batches=100, contents=more),
        MANY_EVENTS.format(events=more),
        "vacuum analyze els.pending_content",
        "vacuum analyze els.outbox_pages",
    )
    found = row(database, "select pending, outbox_rows, batches_waiting from ops.health")
    assert least <= found["pending"] <= most
    assert least <= found["outbox_rows"] <= most
    assert found["batches_waiting"] == min(more, 100)
    backlog = row(database, "select topic, rows from ops.outbox_backlog")
    assert backlog["topic"] == "topic"
    assert least <= backlog["rows"] <= most


def test_health_shows_operators_the_oldest_transaction_of_all_users(
    database: Connection[dict[str, Any]], database_url: str
) -> None:
    oldest = "select oldest_transaction > '0' as shown from ops.health"
    with psycopg.connect(database_url) as other:
        other.execute("select 1")
        database.execute("set role els_ops")
        assert row(database, oldest) == {"shown": True}
        other.rollback()


SOUND = (
    "batch('open', 3, 1, 1)",
    "batch('ready', 2, 1, 1)",
    "batch('failed', 1, 0, 1)",
    "batch('full', 1, 1)",
    "excess('full', 'more')",
    "failure('full', 'more', 'surplus')",
    f"event('ready', '{READY}')",
    "pending('unknown', 't')",
    "pending('unknown', 'gone', 'expired')",
    "pending('open', 'taken away', 'removed')",
    "failure('unknown', 'u', 'pending')",
)


def test_no_violation_is_seen_where_there_is_none(database: Connection[dict[str, Any]]) -> None:
    plant(database, *SOUND)
    assert rows(database, "select * from ops.invariant_violations") == []


VIOLATIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a content in a slot and excess": (
        "I1",
        "content t1 is in slot e1 and excess",
        ("excess('full', 't1')",),
    ),
    "a content in a slot and removed": (
        "I1",
        "content t1 is in slot e1 and removed",
        ("pending('full', 't1', 'removed')",),
    ),
    "a content that is excess and removed": (
        "I1",
        "content more is excess and removed",
        ("pending('full', 'more', 'removed')",),
    ),
    "a pending content that is excess, of a batch that is not registered": (
        "I1",
        "content t is excess and pending",
        ("excess('unknown', 't')",),
    ),
    "a content in two slots": (
        "I2",
        "content t1 is in 2 slots",
        (
            "drop index els.slots_content",
            "batch('two', 2, 2)",
            "fill('two', 'e2', 't1')",
        ),
    ),
    "a failure that took two slots": (
        "I2",
        "failure u1 took 2 slots",
        (
            "drop index els.slots_failure",
            "batch('two', 2, 0, 2)",
            "delete from els.validation_failures where batch_id = 'two' and file_upload_id = 'u2'",
            "update els.slots set file_upload_id = 'u1' where batch_id = 'two'",
        ),
    ),
    "a failed slot that holds a content": (
        "I2",
        "slot e1 is failed and holds content t",
        (
            "alter table els.slots drop constraint slots_state_check",
            "update els.slots set text_storage_id = 't' where batch_id = 'failed'",
        ),
    ),
    "excess while a slot is open": (
        "I3",
        "1 of its slots are open and content more is excess",
        ("excess('open', 'more')",),
    ),
    "content that is pending although its batch is registered": (
        "I4",
        "content late is pending",
        ("pending('open', 'late')",),
    ),
    "content that is pending although its batch was registered long ago": (
        "I4",
        "content late is pending",
        ("update els.batches set changed_at = now() - interval '1 day'", "pending('open', 'late')"),
    ),
    "content that expired although its batch is registered": (
        "I4",
        "content late is expired",
        ("pending('open', 'late', 'expired')",),
    ),
    "a failure that waits although its batch is registered": (
        "I4",
        "failure late is pending",
        ("failure('open', 'late', 'pending')",),
    ),
    "a failure that expired although its batch is registered": (
        "I4",
        "failure late is expired",
        ("failure('open', 'late', 'expired')",),
    ),
    "a failure that took a slot and is recorded as surplus": (
        "I5",
        "failure u1 took slot e1 and is surplus",
        ("update els.validation_failures set state = 'surplus' where batch_id = 'failed'",),
    ),
    "a failure that took a slot and is not recorded": (
        "I5",
        "slot e1 was taken by failure u1, which is not recorded",
        ("delete from els.validation_failures where batch_id = 'failed'",),
    ),
    "a failure that took a slot that is not there": (
        "I5",
        "failure more took a slot that is not there",
        ("update els.validation_failures set state = 'slot' where batch_id = 'full' and state = 'surplus'",),
    ),
    "counters that do not fit the slots": (
        "I5",
        "counts 2 assigned, 0 failed and 0 withdrawn of 3, has slots: 1 assigned, 1 failed, 0 withdrawn, 1 open",
        ("update els.batches set assigned = 2, failed = 0 where batch_id = 'open'",),
    ),
    "slots that share a position": (
        "I5",
        "its slots take 2 of 3 positions",
        ("update els.slots set position = 2 where batch_id = 'open' and position = 1",),
    ),
    "a state that does not fit the slots": (
        "I5",
        "is ready with 1 slots assigned, 1 failed, 0 withdrawn, 1 open",
        (
            "alter table els.batches drop constraint batches_state_check",
            "update els.batches set state = 'ready', completed_at = now() where batch_id = 'open'",
        ),
    ),
    "a batch that is announced twice": (
        "I5",
        "is ready and is announced as ready by 2 events",
        (f"event('ready', '{READY}')",),
    ),
    "a batch that is announced and not ready": (
        "I5",
        "is registered and is announced as ready by 1 events",
        (f"event('open', '{READY}')",),
    ),
}


@pytest.mark.parametrize("kind", VIOLATIONS)
def test_a_violation_is_seen(database: Connection[dict[str, Any]], kind: str) -> None:
    invariant, detail, planted = VIOLATIONS[kind]
    plant(database, *SOUND, *planted)
    found = row(database, "select invariant, detail from ops.invariant_violations")
    assert found["invariant"] == invariant
    assert found["detail"].startswith(detail)


def plan(database: Connection[dict[str, Any]], query: str) -> str:
    return "\n".join(line["QUERY PLAN"] for line in rows(database, f"explain {query}"))


@pytest.fixture(scope="module")
def history(server_url: str, template: str) -> Iterator[Connection[dict[str, Any]]]:
    """Enough batches, of long ago but for the last few, that reading all of them would be the slow way."""
    with (
        databases.cloned(server_url, template) as url,
        psycopg.connect(url, autocommit=True, row_factory=dict_row) as database,
    ):
        database.execute(PLANT.encode())
        plant_history(database)
        yield database


def plant_history(database: Connection[dict[str, Any]]) -> None:
    plant(
        database,
        """
        insert into els.batches (
            batch_id, expected, essay_set, course_code, user_id, essay_instructions, correlation_id,
            registered_at, changed_at
        )
        select 'b' || n, 10, sha256('x'), 'ENG5', 'teacher', '', gen_random_uuid(), changed_at, changed_at
        from generate_series(1, 5000) as n
        cross join lateral (select now() - make_interval(mins => 5000 - n) as changed_at) as changed
        """,
        """
        insert into els.slots (batch_id, essay_id, position)
        select 'b' || n, 'e' || position, position
        from generate_series(1, 5000) as n
        cross join generate_series(1, 10) as position
        """,
        MANY_WAIT.format(batches=100, contents=5000),
        "update els.pending_content set state = 'expired', closed_at = now() where arrival % 2 = 0",
        MANY_EVENTS.format(events=20000),
        "select pg_temp.rejected('topic', int4send(n)) from generate_series(1, 5000) as n",
        "vacuum analyze els.outbox_pages",
        "vacuum analyze els.quarantine",
        "vacuum analyze els.batches",
        "vacuum analyze els.slots",
        "vacuum analyze els.pending_content",
    )


def test_violations_are_found_without_reading_all_slots_or_batches(
    history: Connection[dict[str, Any]],
) -> None:
    found = plan(history, "select * from ops.invariant_violations")
    assert "Seq Scan on slots" not in found
    assert "Index Scan on batches_changed" in found


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("select * from ops.batches where batch_id = 'b7'", "batches_pkey"),
        ("select * from ops.slots where batch_id = 'b7'", "slots_pkey"),
        ("select * from ops.pending_content where batch_id = 'waits7'", "pending_content"),
        ("select * from ops.pending_batches where batch_id = 'waits7'", "pending_content"),
        ("select * from ops.pending_content order by waiting_since limit 20", "pending_content_due"),
        ("select * from ops.expired_content order by expired_at desc limit 20", "pending_content_expired"),
        (
            "select * from ops.batches where state = 'registered' and timed_out_at is null order by registered_at",
            "batches_late",
        ),
        ("select * from ops.quarantine where state = 'open' order by id desc limit 20", "quarantine_"),
        ("select * from ops.outbox_backlog", "outbox_pages_pkey"),
        ("select * from ops.health", "outbox_pages_pkey"),
        ("select * from ops.health", "pending_content_due"),
    ],
)
def test_the_queries_of_operators_use_an_index(history: Connection[dict[str, Any]], query: str, index: str) -> None:
    found = plan(history, query)
    assert index in found
    for table in ("batches", "slots", "pending_content", "outbox_pages", "outbox", "quarantine"):
        assert not re.search(rf"Seq Scan on {table}\b(?!_)", found), found


def test_health_reads_nothing_that_has_a_history(history: Connection[dict[str, Any]]) -> None:
    found = plan(history, "select * from ops.health")
    for table in ("slots", "batches", "excess_content"):
        assert f" on {table}" not in found.replace("using batches_unconfirmed on batches", "")


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
