"""Outdated statistics of a table must not make the planner choose a scan instead of a probe.

Outbox, pending content, and all tables of a fresh or idle service are empty at one moment. Where autovacuum looks then
at a table that has pages, the planner takes it for empty until autovacuum comes again, and a scan of all costs nothing.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

import psycopg
import pytest

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from service.intake.transaction import apply
from service.postgres.pool import Database
from service.postgres.session import APPLICATION_NAME
from service.purge.policy import PurgeReport, RetentionPolicy
from service.purge.purge import count_due, purge_once
from service.store import outbox, relays, search
from service.store.batches import BatchFilter, list_batches
from service.store.outbox import Blocked, OutboxKey
from service.store.pending_content import PendingFilter, remove_pending_content, restore_pending_content
from service.store.quarantine import close_quarantine
from service.store.validation_failures import remove_failures, restore_failures
from tests.support.builders.inputs import content, delivery, failure, registration
from tests.support.selection import partly_in_test_all

# A session plans generically what it has sent often. Of three rows in many pages each costs a good part of an index.
pytestmark = [
    pytest.mark.parametrize("plan", ["force_generic_plan", "force_custom_plan"]),
    pytest.mark.parametrize("kept", partly_in_test_all([0, 3], {3}, "plans for tables with a few rows")),
]

STRANGERS = 10_000
"""Rows of every table that belong to none of the batches here; of batches, and of those that are blocked, a tenth."""
BATCHES = 20
SLOTS = 10
DAY = 24 * 3600

FILL = (
    """
    insert into els.batches (
        batch_id, expected, essay_set, course_code, user_id, essay_instructions, correlation_id,
        registered_at, changed_at
    )
    select %(name)s || '-' || n, 10, sha256('the same for all'), 'ENG5', 'a teacher', '', gen_random_uuid(),
        now(), now()
    from generate_series(1, %(rows)s / 10) as n
    """,
    """
    insert into els.slots (batch_id, essay_id, position)
    select %(name)s || '-' || n, 'essay-' || p, p
    from generate_series(1, %(rows)s / 10) as n cross join generate_series(1, 10) as p
    """,
    """
    insert into els.pending_content (
        batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
        correlation_id, stored_at, waiting_since
    )
    select %(name)s || '-unknown-' || n / 10, 'text-' || n, nextval('els.arrivals'), 'upload', 'file', 'raw', 1,
        gen_random_uuid(), now(), now() + n * interval '1 ms'
    from generate_series(1, %(rows)s) as n
    """,
    """
    insert into els.excess_content (
        batch_id, text_storage_id, reason, file_upload_id, original_file_name, raw_file_storage_id, file_size_bytes,
        correlation_id, declared_at
    )
    select %(name)s || '-' || n / 10, 'text-' || n, 'BATCH_FULL', 'upload', 'file', 'raw', 1, gen_random_uuid(), now()
    from generate_series(1, %(rows)s) as n
    """,
    """
    insert into els.validation_failures (
        batch_id, file_upload_id, arrival, state, original_file_name, raw_file_storage_id, validation_error_code,
        error_detail, file_size_bytes, failed_at, correlation_id, stored_at, waiting_since
    )
    select %(name)s || '-unknown-' || n / 10, 'upload-' || n, nextval('els.arrivals'), 'pending', 'file', 'raw',
        'EMPTY_CONTENT', '{}', 1, now(), gen_random_uuid(), now(), now() + n * interval '1 ms'
    from generate_series(1, %(rows)s) as n
    """,
    """
    insert into els.outbox_pages (batch_id, topics, events)
    select %(name)s || '-' || n / 10, '{"t": 1}', repeat('p', 700)
    from generate_series(1, %(rows)s) as n
    """,
    """
    insert into els.outbox_blocked (batch_id, seq, topic, error, since, retry_at)
    select %(name)s || '-' || n / 10, min(n), 't', 'rejected', now(), now() - interval '1 hour'
    from generate_series(1, %(rows)s) as n
    group by n / 10
    """,
    """
    insert into els.quarantine (
        topic, fingerprint, "partition", "offset", reason, error, first_seen_at, last_seen_at
    )
    select 't', sha256((%(name)s || n)::bytea), 0, n, 'not_json', 'error', now(), now()
    from generate_series(1, %(rows)s) as n
    """,
    """
    insert into els.operator_actions (at, who, action, why)
    select now() + interval '9 days', 'somebody', 'pending remove', 'asked for' from generate_series(1, %(rows)s) as n
    """,
)
TABLES = (
    "batches",
    "slots",
    "pending_content",
    "excess_content",
    "validation_failures",
    "outbox_pages",
    "outbox_blocked",
    "quarantine",
    "operator_actions",
)
BRIN = ("batches_changed", "excess_content_declared", "validation_failures_stored")
CLOSE = (
    "update els.pending_content set state = 'removed', closed_at = now() where batch_id like 'stranger-unknown-1_'",
    "update els.validation_failures set state = 'removed', closed_at = now() where batch_id like 'stranger-unknown-2_'",
    "update els.quarantine set state = 'discarded', closed_at = now() where id % 100 = 0",
    "update els.operator_actions set at = now() - interval '1 day' where id % 100 = 0",
)
"""What operators have closed, and written down, long ago."""
READ = """
    select
        coalesce(sum(pg_stat_get_tuples_returned(oid)), 0)::int, coalesce(sum(pg_stat_get_blocks_fetched(oid)), 0)::int
    from pg_class
    where relnamespace = 'els'::regnamespace and relkind in ('r', 'i')
"""
SESSIONS = (
    f"select from pg_stat_activity where application_name = '{APPLICATION_NAME}' and datname = current_database()"
)


class Reads(NamedTuple):
    """Rows and entries of indexes, and pages."""

    rows: int
    pages: int

    def __sub__(self, before: "Reads") -> "Reads":
        return Reads(self.rows - before.rows, self.pages - before.pages)


class Misled:
    """A database whose tables are full while the planner believes that `kept` rows of many are left in each."""

    def __init__(self, superuser: str, app_url: str, kept: int) -> None:
        self.conn = psycopg.connect(superuser, autocommit=True)
        self._app_url = app_url
        for table in TABLES:
            self.conn.execute(f"alter table els.{table} set (autovacuum_enabled = false)".encode())
        for index in BRIN:  # autovacuum would read their tables meanwhile
            self.conn.execute(f"alter index els.{index} set (autosummarize = off)".encode())
        self._fill("gone")
        for table in TABLES:
            left = f"select ctid from els.{table} limit {kept}"
            self.conn.execute(f"delete from els.{table} where ctid <> all(array({left}))".encode())
        self.conn.execute("vacuum (analyze, truncate off)")
        self._fill("stranger")

    def _fill(self, name: str) -> None:
        for statement in FILL:
            self.conn.execute(statement.encode(), {"rows": STRANGERS, "name": name})

    @asynccontextmanager
    async def reads(self, at_most: float, pages: float = math.inf) -> AsyncIterator[Database]:
        """Rows, and entries of indexes, that the sessions of a database read meanwhile; and pages that they touch."""
        self.conn.execute("select pg_stat_force_next_flush()")
        before = self._read()
        database = Database(self._app_url, pool_size=1)
        try:
            yield database
        finally:
            await database.close()
        while self.conn.execute(SESSIONS).fetchone() is not None:  # noqa: ASYNC110  it reports its reads when it ends
            await asyncio.sleep(0.01)
        read, touched = self._read() - before
        assert read <= at_most
        assert touched <= pages

    def _read(self) -> "Reads":
        return Reads(*self.conn.execute(READ).fetchall()[0])

    async def indexed(self) -> None:
        """The search knows all batches, so that it reads what changes from now on."""
        indexed: Sequence[str] = ["first"]
        async with self.reads(math.inf) as database:
            while indexed:
                async with database.transaction() as conn:
                    indexed = await search.index_changes(conn)
        self.conn.execute("update els.search_progress set known_until = transaction_timestamp()")
        for index in BRIN:
            self.conn.execute(f"select brin_summarize_new_values('els.{index}')".encode())

    async def poll(self, deliveries: list[Delivery], at_most: float) -> None:
        """Apply them; `at_most` is for each."""
        async with self.reads(int(at_most * len(deliveries))) as database, database.transaction() as conn:
            outcome = await apply(conn, deliveries, IntakeLimits())
        assert not outcome.deferred


@pytest.fixture
def misled(plan: str, kept: int, app_url: str, database_url: str) -> Iterator[Misled]:
    between = "&" if "?" in app_url else "?"
    misled = Misled(database_url, f"{app_url}{between}options=-c%20plan_cache_mode%3D{plan}", kept)
    yield misled
    misled.conn.close()


def contents(name: str, batches: Iterable[int] = range(BATCHES), each: int = SLOTS) -> list[Delivery]:
    return [
        delivery(CONTENT_PROVISIONED, content(f"batch-{number}", f"{name}-{text}"))
        for number in batches
        for text in range(each)
    ]


def failures(name: str) -> list[Delivery]:
    return [delivery(VALIDATION_FAILED, failure(f"batch-{number}", name)) for number in range(BATCHES)]


def registrations(*essays: str) -> list[Delivery]:
    return [delivery(BATCH_REGISTERED, registration(f"batch-{number}", essays)) for number in range(BATCHES)]


ESSAYS = [f"essay-{number}" for number in range(SLOTS)]


async def test_polls_read_only_the_rows_of_their_batches(misled: Misled) -> None:
    early = contents("early", each=SLOTS // 2)
    await misled.poll(early, 1)
    await misled.poll(failures("early"), 1)
    await misled.poll(registrations(*ESSAYS), 35)
    await misled.poll(early, 2)
    rest = contents("rest", each=SLOTS // 2)
    await misled.poll(rest, 9)
    await misled.poll(rest, 2)
    await misled.poll(contents("excess", each=2), 2)
    await misled.poll(failures("early"), 3)
    await misled.poll(failures("surplus"), 3)
    await misled.poll(registrations(*ESSAYS), 25)
    await misled.poll(registrations("another"), 16)  # the error states the difference to the ids of the first
    rejected = [delivery(CONTENT_PROVISIONED, f"{{{number}".encode()) for number in range(100)]
    await misled.poll(rejected, 1)
    await misled.poll(rejected, 2)
    essays = [f"essay-{number}" for number in range(200)]
    await misled.poll([delivery(BATCH_REGISTERED, registration("failing", essays))], 5)
    failing = [delivery(VALIDATION_FAILED, failure("failing", f"upload-{number}")) for number in range(200)]
    await misled.poll(failing, 9)


async def test_the_relay_reads_only_the_rows_that_it_publishes(misled: Misled) -> None:
    shards, limits = list(range(relays.SHARDS)), outbox.FetchLimits(rows=500)
    relay = uuid4()
    await misled.poll(registrations(*ESSAYS), 1)
    await misled.poll(contents("some"), 7)
    misled.conn.execute("delete from els.outbox_blocked where batch_id not like '%1'")
    async with misled.reads(limits.rows * 3) as database, database.transaction() as conn:
        await relays.prepare_relay(conn)
        await relays.renew_relay(conn, relay, 60)
        assert len((await relays.share_shards(conn, relay)).taken) == relays.SHARDS
        rows = await (await outbox.fetch_outbox(conn, relay, shards, 0, limits))
    assert len(rows) == limits.rows
    async with misled.reads(limits.rows * 2, limits.rows * 8) as database, database.transaction() as conn:
        await relays.prepare_relay(conn)
        await (await outbox.delete_outbox(conn, [OutboxKey(row.batch_id, row.seq, row.is_page) for row in rows]))
    stuck = [Blocked(f"stranger-{number}".encode(), number, 0, b"t", "rejected") for number in range(100)]
    async with misled.reads(len(stuck) * 20) as database, database.transaction() as conn:
        await relays.prepare_relay(conn)
        await outbox.block_batch(conn, stuck)
        await outbox.forget_blocked(conn, shards)
        await outbox.unblock_batch(conn, relay, [each.batch_id for each in stuck])
    blocked = misled.conn.execute("select count(*) from els.outbox_blocked").fetchone() or (0,)
    async with misled.reads(int(blocked[0]) * 3 + 500 * 3) as database, database.transaction() as conn:
        await relays.prepare_relay(conn)
        assert len(await (await outbox.fetch_blocked(conn, relay, shards, limits))) == limits.rows


async def test_the_purge_reads_only_the_rows_that_it_changes(misled: Misled, kept: int) -> None:
    await misled.poll(registrations(*ESSAYS), 1)
    await misled.poll(contents("some"), 7)
    misled.conn.execute("delete from els.outbox_pages where batch_id like 'batch-%'")
    await misled.indexed()
    policy = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=10 * DAY)
    later = datetime.now(UTC) + timedelta(days=2)
    ended = BATCHES * (SLOTS + 1)
    async with misled.reads(1_000) as database:
        due = await count_due(database, replace(policy, pending_ttl=10 * DAY, batch_retention=DAY), later)
    assert due == PurgeReport(deleted_batches=BATCHES)
    async with misled.reads(ended * 7) as database:
        report = await purge_once(database, replace(policy, pending_ttl=10 * DAY, batch_retention=DAY), now=later)
    assert report == PurgeReport(deleted_batches=BATCHES)
    closed = [misled.conn.execute(statement.encode()).rowcount for statement in CLOSE]
    async with misled.reads(sum(closed) * 5) as database:
        months = replace(policy, pending_ttl=10 * DAY, closed_retention=DAY, actions_retention=DAY)
        report = await purge_once(database, months, now=later)
    assert [
        report.deleted_removed, report.deleted_removed_failures, report.deleted_quarantine, report.deleted_actions
    ] == closed  # fmt: skip
    async with misled.reads(2 * STRANGERS * 5) as database:
        report = await purge_once(database, policy, now=later)
    assert (report.expired_content, report.expired_failures) == (
        STRANGERS + kept - closed[0],
        STRANGERS + kept - closed[1],
    )
    later += timedelta(days=2)
    async with misled.reads(2 * STRANGERS * 12) as database:
        report = await purge_once(database, policy, now=later)
    assert (report.deleted_content, report.deleted_failures) == (
        STRANGERS + kept - closed[0],
        STRANGERS + kept - closed[1],
    )


async def test_closing_restoring_and_removing_reads_only_the_rows_that_change(misled: Misled) -> None:
    ids = [row[0] for row in misled.conn.execute("select id from els.quarantine order by id desc limit 50")]
    async with misled.reads(len(ids) * 4) as database, database.transaction() as conn:
        assert len(await close_quarantine(conn, ids, "discarded")) == len(ids)
    misled.conn.execute("update els.pending_content set state = 'expired', closed_at = now()")
    async with misled.reads(30) as database, database.transaction() as conn:
        assert len(await restore_pending_content(conn, "stranger-unknown-1", None)) == 10
    misled.conn.execute("update els.validation_failures set state = 'expired', closed_at = now()")
    async with misled.reads(30) as database, database.transaction() as conn:
        assert len(await restore_failures(conn, "stranger-unknown-1", None)) == 10
    for remove in (remove_pending_content, remove_failures):
        async with misled.reads(40) as database, database.transaction() as conn:
            assert len(await remove(conn, PendingFilter("stranger-unknown-1"))) == 10


async def test_the_history_of_a_batch_reads_only_its_rows(misled: Misled) -> None:
    await misled.poll(registrations(*ESSAYS), 1)
    await misled.poll(contents("some"), 7)
    await misled.poll(failures("surplus"), 3)
    misled.conn.execute("update els.quarantine set batch_id = 'stranger' where id % 2 = 0")
    misled.conn.execute("update els.quarantine set batch_id = 'batch-7' where id % 1000 = 0")
    async with misled.reads(200) as database, database.transaction() as conn:
        rows = await search.read_timeline(conn, "batch-7", 1000)
    assert len(rows) > SLOTS


async def test_the_search_reads_only_what_changed(misled: Misled) -> None:
    await misled.poll(registrations(*ESSAYS), 1)
    await misled.indexed()
    await misled.poll(contents("some"), 7)
    misled.conn.execute("vacuum (analyze, truncate off) els.batches, els.excess_content, els.validation_failures")
    async with misled.reads(20_000) as database, database.transaction() as conn:
        assert set(await search.index_changes(conn)) >= {f"batch-{number}" for number in range(BATCHES)}
    (found,) = misled.conn.execute("select count(*) from els.search where names like '%some-1.txt%'").fetchall()
    assert found == (BATCHES,)


async def test_the_newest_batches_are_read_from_an_index(misled: Misled) -> None:
    await misled.poll(registrations(*ESSAYS), 1)
    for condition in (BatchFilter(), BatchFilter("registered"), BatchFilter("failed")):
        async with misled.reads(1_500) as database, database.transaction() as conn:
            assert len(await list_batches(conn, condition, 50)) in (0, 50)
