"""Tests the actions of operators on a running service, over HTTP."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiohttp import ClientSession

from deploy.servers.brokers import Broker
from deploy.servers.databases import url_as
from deploy.servers.pods import Pod, pods, until
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from tests.support.builders.inputs import content, registration
from tests.support.builders.replay import Record, Replay
from tests.support.checks.audited import check_audit
from tests.support.checks.expected import all_done, first_occurrences, read_back

TOKEN = {"ELS_ADMIN_TOKEN": "a-token-of-operators", "ELS_PURGE_INTERVAL_SECONDS": "1"}


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def contents(batch: str, *texts: str, **data: Any) -> list[Record]:
    return [Record(0, CONTENT_PROVISIONED, text.encode(), content(batch, text, **data)) for text in texts]


def registered(batch: str, slots: int) -> Record:
    essays = [f"e{number}" for number in range(slots)]
    return Record(0, BATCH_REGISTERED, batch.encode(), registration(batch, essays))


async def post(pod: Pod, path: str, token: str = "a-token-of-operators", **body: object) -> tuple[int, Any]:
    port = next(entry["port"] for entry in pod.logged() if entry.get("event") == "started")
    url, headers = f"http://127.0.0.1:{port}/admin/{path}", {"Authorization": f"Bearer {token}"}
    async with ClientSession() as client, client.post(url, json=body, headers=headers) as response:
        return response.status, await response.json(content_type=None)


def found(conn: psycopg.Connection[Any], statement: str) -> list[tuple[Any, ...]]:
    return conn.execute(statement.encode()).fetchall()


async def seen(conn: psycopg.Connection[Any], statement: str, wanted: list[tuple[Any, ...]]) -> None:
    """Wait until the statement returns these rows."""
    await until(lambda: found(conn, statement) == wanted, 90, lambda: f"{statement}: {found(conn, statement)}")


async def test_expired_content_is_restored_and_registered_late_with_one_event_per_step(
    tmp_path: Path,
    settings: dict[str, str],
    group: str,
    database_url: str,
    kafka: Broker,
    conn: psycopg.Connection[Any],
) -> None:
    waits = "select text_storage_id from ops.pending_content order by 1"
    expired = "select text_storage_id from ops.expired_content order by 1"
    with pods(tmp_path, settings, TOKEN) as running:
        (pod,) = running.start(1)
        await running.ready()
        early = Replay(kafka, contents("b", "t1", "t2", "t3"))
        await early.run()
        await seen(conn, waits, [("t1",), ("t2",), ("t3",)])
        # They are in several partitions, so the order of arrival is known only now.
        came = found(conn, "select text_storage_id from els.pending_content order by arrival")
        conn.execute("update els.pending_content set waiting_since = waiting_since - interval '2 days'")
        await seen(conn, expired, [("t1",), ("t2",), ("t3",)])
        assert await post(pod, "pending/restore", batch="b", texts=["t2"], who="me") == (
            200,
            {"contents": 1, "failures": 0, "busy": [], "registered": []},
        )
        assert (found(conn, waits), found(conn, expired)) == ([("t2",)], [("t1",), ("t3",)])
        assert (await post(pod, "pending/remove", token="wrong", batch="b", texts=["t2"]))[0] == 401

        late = Replay(kafka, [*contents("b", "t1", "t2"), registered("b", 3), *contents("b", "t3")])
        await late.run()
        await all_done(database_url, kafka, group, {**early.ends, **late.ends})
        assert (found(conn, waits), found(conn, expired)) == ([], [])
        assert found(conn, "select text_storage_id from ops.slots order by position") == came
        assert (await post(pod, "pending/restore", batch="b"))[0] == 409

        published = first_occurrences(await read_back(kafka))
        counts = {topic: len(events) for topic, events in published.events.items() if events}
        assert counts == {PENDING_EXPIRED: 3, SLOT_ASSIGNED: 3, BATCH_COMPLETED: 1, BATCH_READY: 1}
        assert published.repeats == 0
        assert found(conn, "select who, action from ops.operator_actions") == [("me", "pending restore")]
        assert found(conn, "table ops.invariant_violations") == []
        assert await running.stop() == [0]


async def test_inputs_that_a_bug_rejected_are_replayed_after_the_fix(
    tmp_path: Path,
    settings: dict[str, str],
    group: str,
    database_url: str,
    kafka: Broker,
    conn: psycopg.Connection[Any],
) -> None:
    """The bug is a constraint that rejects some names; one name violates a second constraint, too."""
    for bug in ("1", "2"):
        conn.execute(
            f"alter table els.slots add constraint bug_{bug} check (original_file_name !~ 'bug.*{bug}')".encode()
        )
    good = contents("b", *(f"t{number}" for number in range(20)))
    bad = contents("b", *(f"u{number}" for number in range(19)), original_file_name="bug 1")
    worse = contents("b", "u19", original_file_name="bug 1 and 2")
    is_open = "select count(*) from ops.quarantine where state = 'open' and reason = 'data_error'"
    with pods(tmp_path, settings, TOKEN) as running:
        (pod,) = running.start(1)
        await running.ready()
        known = Replay(kafka, [registered("b", 40)])
        await known.run()
        await all_done(database_url, kafka, group, known.ends)
        come = Replay(kafka, [*good, *bad, *worse])
        await come.run()
        await all_done(database_url, kafka, group, come.ends)
        assert found(conn, is_open) == [(20,)]
        assert found(conn, "select state, assigned, open from ops.batches") == [("registered", 20, 20)]

        conn.execute("alter table els.slots drop constraint bug_1")
        status, first = await post(pod, "quarantine/replay", reason="data_error", who="me", why="fixed in 1.2")
        outcomes = Counter(each["outcome"] for each in first["outcomes"])
        assert (status, outcomes, first["failed"]) == (200, {"assigned": 19, "data_error": 1}, 1)
        ((error,),) = found(conn, "select error from ops.quarantine where state = 'open'")
        assert "bug_2" in error

        conn.execute("alter table els.slots drop constraint bug_2")
        assert (await post(pod, "quarantine/replay", all=True))[1]["failed"] == 0
        await all_done(database_url, kafka, group, come.ends)
        assert found(conn, "select state, assigned, open from ops.batches") == [("ready", 40, 0)]
        published = first_occurrences(await read_back(kafka))
        counts = {topic: len(events) for topic, events in published.events.items() if events}
        assert counts == {SLOT_ASSIGNED: 40, BATCH_COMPLETED: 1, BATCH_READY: 1}
        assert found(conn, "table ops.invariant_violations") == []
        await check_audit(database_url, kafka, group)
        assert await running.stop() == [0]


async def test_a_transaction_left_open_on_a_view_blocks_nothing_and_is_ended(
    tmp_path: Path,
    settings: dict[str, str],
    group: str,
    database_url: str,
    kafka: Broker,
    conn: psycopg.Connection[Any],
) -> None:
    """The timeouts of the role are set here like those of its login, but shorter."""
    with pods(tmp_path, settings) as running:
        running.start(1)
        await running.ready()
        with closing(psycopg.connect(url_as(database_url, "els_ops"))) as operator:
            operator.execute("set idle_in_transaction_session_timeout = '3s'")
            operator.commit()
            views = [name for (name,) in found(conn, "select viewname from pg_views where schemaname = 'ops'")]
            for view in views:
                operator.execute(f"select * from ops.{view} limit 1".encode())
            come = Replay(kafka, [registered("b", 5), *contents("b", *(f"t{number}" for number in range(5)))])
            await come.run()
            await all_done(database_url, kafka, group, come.ends)
            assert found(conn, "select state from ops.batches") == [("ready",)]
            left = f"select count(*) from pg_stat_activity where pid = {operator.info.backend_pid}"
            await seen(conn, left, [(0,)])
        assert await running.stop() == [0]


async def test_batches_are_closed_and_cancelled_and_their_events_are_published_again(
    tmp_path: Path,
    settings: dict[str, str],
    group: str,
    database_url: str,
    kafka: Broker,
    conn: psycopg.Connection[Any],
) -> None:
    with pods(tmp_path, settings, TOKEN) as running:
        (pod,) = running.start(1)
        await running.ready()
        known = [registered(batch, 3) for batch in "abc"]
        come = Replay(kafka, [*known, *contents("a", "t1", "t2"), *contents("b", "t3")])
        await come.run()
        await all_done(database_url, kafka, group, come.ends)
        status, ended = await post(pod, "batches/close", batch="a", who="me", why="one was not written")
        assert (status, ended["state"], ended["withdrawn"]) == (200, "ready", 1)
        assert (await post(pod, "batches/cancel", batch="b", reason="WRONG_REGISTRATION"))[1]["state"] == "cancelled"
        assert (await post(pod, "batches/close", batch="c"))[1]["state"] == "failed"
        assert (await post(pod, "batches/cancel", batch="a", reason="OTHER"))[0] == 409

        late = Replay(kafka, [*known, *(record for batch in "abc" for record in contents(batch, f"late-{batch}"))])
        await late.run()
        await all_done(database_url, kafka, group, late.ends)
        assert found(conn, "select batch_id, reason from ops.excess_content order by 1") == [
            (batch, "BATCH_FULL") for batch in "abc"
        ]
        await check_audit(database_url, kafka, group)

        published = first_occurrences(await read_back(kafka))
        counts = {topic: len(events) for topic, events in published.events.items() if events}
        assert counts == {
            SLOT_ASSIGNED: 3,
            BATCH_COMPLETED: 1,
            BATCH_READY: 1,
            VALIDATION_ERRORS: 1,
            BATCH_CANCELLED: 1,
            EXCESS_CONTENT: 3,
        }
        assert published.repeats == 0
        for batch in "abc":
            status, again = await post(pod, "batches/republish", batch=batch, slots=True, excess=True)
            assert (status, again["excess"], again["left_out"]) == (200, 1, 0)
        await all_done(database_url, kafka, group, late.ends)
        repeated = first_occurrences(await read_back(kafka), republished=True)  # which compares the bytes
        assert repeated.repeats == sum(counts.values())
        assert {topic: len(events) for topic, events in repeated.events.items() if events} == counts
        await check_audit(database_url, kafka, group)
        assert found(conn, "table ops.invariant_violations") == []
        assert await running.stop() == [0]
