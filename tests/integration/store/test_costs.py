"""What a poll costs, in numbers that no machine changes: statements, rows, pages, log, calls and bytes of memory.

A bound stands a little above what was measured when it was written; a change that makes a poll dearer fails here.
One that makes it cheaper should lower the bound with it.
"""

import asyncio
import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from types import FrameType
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, AsyncCursor

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.incoming import decode
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.intake.transaction import apply
from service.postgres.pool import Database
from service.postgres.session import APPLICATION_NAME
from service.purge.policy import PurgeReport, RetentionPolicy
from service.purge.purge import purge_once
from tests.support.builders.inputs import content, delivery, registration

BATCHES = 40
SLOTS = 30
POLL = BATCHES * SLOTS // 2
"""Half of all uploads: the first poll completes no batch, the second completes all."""

# Millions of rows are for benchmarks; among so many no scan can hide.
OLD = """
    with made as (
        insert into els.batches (
            batch_id, expected, assigned, essay_set, course_code, user_id, essay_instructions, correlation_id,
            state, registered_at, completed_at, changed_at
        )
        select md5('old batch ' || n)::uuid::text, 30, 30, sha256('the same for all'), 'ENG5', 'a teacher', '',
            gen_random_uuid(), 'ready', now(), now(), now()
        from generate_series(1, 600) as n
        returning batch_id
    )
    insert into els.slots (
        batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name,
        raw_file_storage_id, file_size_bytes, correlation_id, taken_at
    )
    select batch_id, 'essay-' || n, n, 'assigned', 'text-' || n, 'upload-' || n, 'An essay.docx', 'raw-' || n, 18244,
        gen_random_uuid(), now()
    from made cross join generate_series(1, 30) as n
"""


class Count(AsyncCursor[Any]):
    """Counts the statements."""

    statements = 0

    async def execute(self, *arguments: Any, **more: Any) -> Any:
        Count.statements += 1
        return await super().execute(*arguments, **more)


class Costs:
    """A database whose polls are measured."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def poll(self, deliveries: Sequence[Delivery]) -> Counter[str]:
        """Apply them as one poll; what that took, on the server and in statements."""
        async with self.database.transaction() as conn:
            conn.cursor_factory = AsyncCursor
            before = await self._counters(conn)
        async with self.database.transaction() as conn:
            conn.cursor_factory, Count.statements = Count, 0
            outcome = await apply(conn, deliveries, IntakeLimits())
            statements = Count.statements
            conn.cursor_factory = AsyncCursor
            rows = await self._rows(conn)
        assert not outcome.deferred
        assert not outcome.next_transaction
        async with self.database.transaction() as conn:
            after = await self._counters(conn)
        return Counter({"statements": statements, **rows}) + (after - before)

    @staticmethod
    async def _counters(conn: AsyncConnection[Any]) -> Counter[str]:
        """Pages and bytes of log of this session so far; the pool gives the session that was used last."""
        await conn.execute("select pg_stat_force_next_flush()")
        await conn.commit()
        cursor = await conn.execute(
            "select sum(hits + reads) from pg_stat_get_backend_io(pg_backend_pid()) where context = 'normal'"
        )
        (pages,) = await cursor.fetchone() or (0,)
        cursor = await conn.execute("select wal_bytes - wal_fpi * 8192 from pg_stat_get_backend_wal(pg_backend_pid())")
        (log,) = await cursor.fetchone() or (0,)
        return Counter({"pages": int(pages), "log": int(log)})

    @staticmethod
    async def _rows(conn: AsyncConnection[Any]) -> dict[str, int]:
        """Rows of this transaction: written, and read, with the entries of indexes that led to them."""
        cursor = await conn.execute(
            "select sum(n_tup_ins + n_tup_upd + n_tup_del)::int"
            " from pg_stat_xact_user_tables where schemaname = 'els' and relname not in ('topic_refusals')"
        )
        (written,) = await cursor.fetchone() or (0,)
        cursor = await conn.execute(
            "select sum(pg_stat_get_xact_tuples_returned(oid))::int"
            " from pg_class where relnamespace = 'els'::regnamespace and relkind in ('r', 'i')"
        )
        (read,) = await cursor.fetchone() or (0,)
        return {"written": written, "read": read}


@pytest.fixture
async def costs(database_url: str) -> AsyncIterator[Costs]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        if conn.info.server_version < 180000:
            pytest.skip("PostgreSQL counts the pages and the log of one session since version 18")
        conn.execute(OLD)
        conn.execute("vacuum (analyze, freeze)")
    database = Database(database_url)
    yield Costs(database)
    await database.close()


def registrations(first: int = 0) -> list[Delivery]:
    essays = [f"essay-{number}" for number in range(SLOTS)]
    return [
        delivery(BATCH_REGISTERED, registration(f"batch-{number}", essays))
        for number in range(first, first + BATCHES)
    ]  # fmt: skip


def uploads(first: int = 0) -> list[Delivery]:
    """Of all batches, mixed: each of the halves brings every batch half of its uploads."""
    halves = []
    for texts in (range(SLOTS // 2), range(SLOTS // 2, SLOTS)):
        half = [(number, text) for number in range(first, first + BATCHES) for text in texts]
        Random(7).shuffle(half)
        halves += half
    return [
        delivery(CONTENT_PROVISIONED, content(f"batch-{number}", f"text-{number}-{text}")) for number, text in halves
    ]


async def warmed(costs: Costs) -> None:
    """Run polls, so that statements are prepared and catalogs read."""
    for number in range(1, 3):
        await costs.poll(registrations(number * 1000))
        arrived = uploads(number * 1000)
        await costs.poll(arrived[:POLL])
        await costs.poll(arrived[POLL:])


async def test_a_poll_of_uploads_keeps_to_its_statements_rows_pages_and_log(costs: Costs) -> None:
    await warmed(costs)
    registered = await costs.poll(registrations())
    arrived = uploads()
    some = await costs.poll(arrived[:POLL])
    rest = await costs.poll(arrived[POLL:])
    again = await costs.poll(arrived)

    assert some["statements"] <= 7
    assert rest["statements"] <= 9
    assert again["statements"] <= 3
    # A slot; for each batch its counter, and an outbox row with all its events.
    assert some["written"] == POLL + 2 * BATCHES
    assert rest["written"] == POLL + 2 * BATCHES
    assert again["written"] == 0
    # What is known, a slot that is claimed and filled; and of what is complete all of its slots.
    assert registered["read"] == 0
    assert some["read"] / POLL <= 2.5
    assert rest["read"] / POLL <= 7.5
    assert again["read"] / (2 * POLL) <= 1.2
    # Four of them are of indexes of tables that are empty here: they are probed all the same (docs/decisions/0003).
    assert some["pages"] / POLL <= 27
    assert again["pages"] / (2 * POLL) <= 5
    assert some["log"] / POLL <= 1_400


async def test_pending_content_and_its_registration_keep_to_theirs(costs: Costs) -> None:
    await warmed(costs)
    arrived = uploads()
    waiting = await costs.poll(arrived)
    reconciled = await costs.poll(registrations())
    assert waiting["statements"] <= 5
    assert waiting["written"] == 2 * POLL
    assert reconciled["statements"] <= 19  # three for each page of a thousand
    assert reconciled["written"] == 2 * POLL * 2 + 3 * BATCHES
    assert waiting["read"] == 0
    # Each pending row is read twice: for its event, and when it is copied into its slot, with since when it waited.
    assert reconciled["read"] / (2 * POLL) <= 5.5


async def test_a_purge_keeps_to_its_statements_and_rows(
    app_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.postgres.pool.Cursor", Count)
    scanned = (
        "select coalesce(sum(seq_tup_read), 0)::int from pg_stat_user_tables"
        " where schemaname = 'els' and relname <> 'slice'"  # which has one row
    )
    with psycopg.connect(database_url, autocommit=True) as conn:
        if conn.info.server_version < 180000:
            pytest.skip("PostgreSQL counts the pages and the log of one session since version 18")
        conn.execute(OLD)
        conn.execute("vacuum (analyze, freeze)")
        conn.execute("select pg_stat_force_next_flush()")
        before = conn.execute(scanned).fetchone()
        database, Count.statements = Database(app_url), 0
        day = 24 * 3600
        policy = RetentionPolicy(pending_ttl=day, expired_retention=day, batch_timeout=day, batch_retention=day)
        report = await purge_once(database, policy, now=datetime.now(UTC) + timedelta(days=2))
        await database.close()
        # A session counts what it has scanned when it ends.
        sessions = "select from pg_stat_activity where application_name = %s and datname = current_database()"
        while conn.execute(sessions, [APPLICATION_NAME]).fetchone() is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        after = conn.execute(scanned).fetchone()
    assert report == PurgeReport(deleted_batches=600)
    # Begin, the right to purge, what is due, and the commit; for fifty batches their locks, their rows, their end.
    # And the search, which finds nothing left, the erasures, what a split has left, and the note of the round.
    assert Count.statements <= 12 * 7 + 15 * 4 + 7
    assert before == after


async def test_a_record_takes_few_calls_and_little_memory(costs: Costs) -> None:
    await warmed(costs)
    await costs.poll(registrations())
    arrived = uploads()[:POLL]
    values = [each.value for each in arrived]

    decoding = calls(lambda: [decode(CONTENT_PROVISIONED, value, max_bytes=1_000_000) for value in values])
    calling = Calls()
    tracemalloc.start()
    async with costs.database.transaction() as conn:
        sys.setprofile(calling)
        before, _ = tracemalloc.get_traced_memory()
        await apply(conn, arrived, IntakeLimits())
        _, peak = tracemalloc.get_traced_memory()
        sys.setprofile(None)
    tracemalloc.stop()

    assert decoding / POLL <= 20
    assert calling.number / POLL <= 142
    assert (peak - before) / POLL <= 6_500


class Calls:
    """Counts calls, of Python and of C, as `sys.setprofile` reports them."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:  # noqa: ARG002
        self.number += event in ("call", "c_call")


def calls(work: Callable[[], object]) -> int:
    counting = Calls()
    gc.disable()  # other libraries of the tests run code at each collection
    sys.setprofile(counting)
    work()
    sys.setprofile(None)
    gc.enable()
    return counting.number
