"""ops.health says what waits, what needs an action and what has happened."""

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection

from tests.support.builders.rows import MANY_EVENTS, MANY_WAIT, plant, row

DOCS = Path(__file__).parents[3] / "docs"


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
    own_database: Connection[dict[str, Any]], more: int, least: int, most: int
) -> None:
    plant(
        own_database,
        MANY_WAIT.format(batches=100, contents=more),
        MANY_EVENTS.format(events=more),
        "vacuum analyze els.pending_content",
        "vacuum analyze els.outbox_pages",
    )
    found = row(own_database, "select pending, outbox_rows, batches_waiting from ops.health")
    assert least <= found["pending"] <= most
    assert least <= found["outbox_rows"] <= most
    assert found["batches_waiting"] == min(more, 100)
    backlog = row(own_database, "select topic, rows from ops.outbox_backlog")
    assert backlog["topic"] == "topic"
    assert least <= backlog["rows"] <= most


def test_health_shows_operators_the_oldest_transaction_of_all_users(
    own_database: Connection[dict[str, Any]], database_url: str
) -> None:
    oldest = "select oldest_transaction > '0' as shown from ops.health"
    with psycopg.connect(database_url) as other:
        other.execute("select 1")
        own_database.execute("set role els_ops")
        assert row(own_database, oldest) == {"shown": True}
        other.rollback()
