"""The queries of operators read few rows of a database with a history."""

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.rows import dict_row

from deploy.servers import databases
from deploy.servers.pods import ROOT
from tests.support.builders.rows import MANY_EVENTS, MANY_WAIT, PLANT, plant, rows


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
        assert f" on {table}" not in re.sub("using batches_(unconfirmed|late_reported) on batches", "", found)


STEP = re.compile(r"(Index|Seq|CTE|Subquery) Scan.*?(?: using| on) (\w+)|(Nested Loop|Hash Join|Merge Join|Append)")


def steps(database: Connection[dict[str, Any]], query: str) -> list[str]:
    """What a plan reads, by which index, and how it joins, without the look at els.slice."""
    text = plan(database, query).replace("Index Only", "Index")
    return [step for found in STEP.finditer(text) if (step := " ".join(filter(None, found.groups()))) != "Seq slice"]


def test_views_are_planned_like_their_tables_while_there_is_nothing_to_trim(
    history: Connection[dict[str, Any]],
) -> None:
    with history.transaction(force_rollback=True):
        history.execute("create schema bare")
        for file in (ROOT / "sql" / "views").glob("*.sql"):
            history.execute(file.read_text().replace("els.own_", "els.").replace("ops.", "bare.").encode())
        of_batch = (
            "select table_name from information_schema.columns where table_schema = 'ops' and column_name = 'batch_id'"
        )
        views = [each["table_name"] for each in rows(history, of_batch)]
        queries = [*views, "health", "outbox_backlog", *(f"{view} where batch_id = 'b7'" for view in views)]
        found = {
            query: [steps(history, f"select * from {schema}.{query}") for schema in ("ops", "bare")]
            for query in queries
        }
    assert len(found) > 30
    assert {query: plans for query, plans in found.items() if plans[0] != plans[1]} == {}
