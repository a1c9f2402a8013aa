"""Tests that each notice is shown until it is acknowledged, and that only what happens later shows again."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from service.operators.errors import Conflict, NotFound
from service.operators.notices import NOTICE_KINDS, NoticeActions
from service.postgres.pool import Database
from service.purge.policy import RetentionPolicy
from service.purge.purge import purge_once
from service.store.operator_actions import Operator
from tests.support.builders.alive import ALIVE

ME = Operator("me", "seen")
EXPIRED = (
    "insert into els.pending_content (batch_id, text_storage_id, arrival, file_upload_id, original_file_name,"
    " raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, stored_at, waiting_since, state,"
    " closed_at)"
    " select 'b', 't' || n, n, 'up', 'a', 'raw', 1, 'md5', gen_random_uuid(), clock_timestamp(), clock_timestamp(),"
    " 'expired', clock_timestamp() from (select count(*) + 1 as n from els.pending_content) as next"
)
LATE = (
    "insert into els.batches (batch_id, expected, essay_set, course_code, user_id, essay_instructions, correlation_id,"
    " registered_at, changed_at, timed_out_at)"
    " select 'late' || n, 1, sha256('b'), 'ENG5', 'u', '', gen_random_uuid(), now(), now(), clock_timestamp()"
    " from (select count(*) as n from els.batches) as next"
)
HAPPENS = {
    "lost_inputs": "insert into els.lost_inputs (topic, partition, first_offset, next_offset, cause)"
    " values ('t', 0, 1, 3, 'deleted')",
    "expired_content": EXPIRED,
    "late_batches": LATE,
    "clocks": "insert into els.notices (kind, detail) values ('clocks', 'held')",
    "servers": "insert into els.notices (kind, detail) values ('servers', 'moved')",
}


@pytest.fixture
async def actions(app_url: str) -> AsyncIterator[NoticeActions]:
    database = Database(app_url)
    yield NoticeActions(database)
    await database.close()


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(ALIVE)
        yield conn


async def shown(actions: NoticeActions) -> list[str]:
    return [each.kind for each in (await actions.verdict()).conditions]


@pytest.mark.parametrize("kind", NOTICE_KINDS)
@pytest.mark.parametrize("named", [True, False])
async def test_a_notice_is_shown_until_it_is_acknowledged_and_again_when_it_happens_again(
    actions: NoticeActions, conn: psycopg.Connection[Any], kind: str, named: bool
) -> None:
    for number in (1, 2):
        conn.execute(HAPPENS[kind])
        assert ((await actions.verdict()).level, await shown(actions)) == ("notice", [kind])
        assert len(await actions.acknowledge(ME, dry_run=True)) == 1
        assert await shown(actions) == [kind]
        assert len(await actions.acknowledge(ME, [kind] if named else [])) == 1
        assert (await actions.verdict()).level == "fine"
        with pytest.raises(NotFound):
            await actions.acknowledge(ME, [kind] if named else [])
        assert conn.execute("select count(*), min(why) from ops.operator_actions").fetchone() == (number, "seen")


async def test_only_the_notices_that_are_named_are_marked(
    actions: NoticeActions, conn: psycopg.Connection[Any]
) -> None:
    for statement in HAPPENS.values():
        conn.execute(statement)
    assert await shown(actions) == list(NOTICE_KINDS)
    await actions.acknowledge(ME, ["expired_content", "clocks"])
    assert await shown(actions) == ["lost_inputs", "late_batches", "servers"]
    await actions.acknowledge(ME, (), [1])
    assert await shown(actions) == ["late_batches", "servers"]
    await actions.acknowledge(ME, ["late_batches"])
    assert await shown(actions) == ["servers"]


@pytest.mark.parametrize("kind", ["expired_content", "late_batches"])
async def test_what_happens_while_it_is_acknowledged_shows_afterwards(
    actions: NoticeActions, conn: psycopg.Connection[Any], database_url: str, kind: str
) -> None:
    conn.execute(HAPPENS[kind])
    with psycopg.connect(database_url) as purge:
        purge.execute(HAPPENS[kind].replace("'late'", "'later'"))
        await actions.acknowledge(ME)
    assert await shown(actions) == [kind]


@pytest.mark.parametrize(
    "ended",
    [
        "state = 'ready', assigned = 1, completed_at = now(), ready_announced_at = now()",
        "state = 'failed', withdrawn = 1, completed_at = now()",
    ],
)
async def test_a_late_batch_that_waits_for_nothing_any_more_is_no_notice(
    actions: NoticeActions, conn: psycopg.Connection[Any], ended: str
) -> None:
    conn.execute(LATE)
    assert await shown(actions) == ["late_batches"]
    conn.execute(f"update els.batches set {ended}")
    assert (await actions.verdict()).level == "fine"
    with pytest.raises(NotFound):
        await actions.acknowledge(ME, ["late_batches"])


async def test_a_batch_that_is_reported_by_the_purge_is_a_notice(
    actions: NoticeActions, conn: psycopg.Connection[Any], app_url: str
) -> None:
    conn.execute(LATE.replace(", timed_out_at)", ")").replace(", clock_timestamp()", ""))
    assert await shown(actions) == []
    database = Database(app_url)
    later = datetime.now(UTC) + timedelta(hours=2)
    report = await purge_once(database, RetentionPolicy(3600, 3600, 3600), now=later)
    await database.close()
    assert report.timed_out_batches == 1
    assert await shown(actions) == ["late_batches"]


async def test_a_kind_that_needs_an_action_is_a_conflict_and_the_rest_is_not_marked(
    actions: NoticeActions, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(EXPIRED)
    conn.execute("delete from els.relays")
    with pytest.raises(Conflict, match="no pod publishes events"):
        await actions.acknowledge(ME, ["expired_content", "relays"])
    assert await shown(actions) == ["relays", "expired_content"]
    await actions.acknowledge(ME)
    with pytest.raises(Conflict, match="no pod publishes events"):
        await actions.acknowledge(ME)
    assert await shown(actions) == ["relays"]


async def test_expired_failures_are_acknowledged_with_expired_content(
    actions: NoticeActions, conn: psycopg.Connection[Any]
) -> None:
    conn.execute(
        "insert into els.validation_failures (batch_id, file_upload_id, arrival, state, original_file_name,"
        " raw_file_storage_id, validation_error_code, error_detail, file_size_bytes, failed_at, correlation_id,"
        " stored_at, waiting_since, closed_at) values ('b', 'u', 1, 'expired', 'a', 'raw', 'EMPTY_CONTENT', '{}', 0,"
        " now(), gen_random_uuid(), now(), now(), now())"
    )
    assert await shown(actions) == ["expired_content"]
    (seen,) = await actions.acknowledge(ME, ["expired_content"])
    assert "1 validation failures" in seen
    assert await shown(actions) == []
