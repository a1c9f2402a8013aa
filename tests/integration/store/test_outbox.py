"""Tests what a transaction writes to the outbox, what a relay reads of it, and how the previous release is replaced."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from service.domain.enveloped import Origin, Outgoing
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS
from service.store import outbox, relays
from service.store.outbox import EVENTS_PER_ROW, ROW_BYTES, FetchLimits, OutboxKey, OutboxRow, OutboxWriter
from service.store.relays import SHARDS
from tests.support.builders.outbox import CORRELATION_ID, event

FIRST, SECOND = "first.topic", "second.topic"
ROWS = "select batch_id, topics, events from els.outbox_pages order by seq"
PREVIOUS_RELAY = "insert into els.relays (relay, expires_at) values (gen_random_uuid(), now() + interval '1 hour')"
REFUSED = "of a release that cannot read the outbox"


@pytest.fixture
async def database(app_url: str) -> AsyncIterator[Database]:
    database = Database(app_url)
    yield database
    await database.close()


@pytest.fixture
def admin(database_url: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield conn


async def write(database: Database, *calls: Sequence[Outgoing]) -> None:
    """Write the events in one transaction, those of each call together."""
    async with database.transaction() as conn:
        writer = OutboxWriter(conn)
        for events in calls:
            await writer.add(events)
        await writer.flush()


async def fetch(database: Database, relay: UUID, shards: Sequence[int] = range(SHARDS)) -> list[OutboxRow]:
    async with database.transaction() as conn:
        return await (await outbox.fetch_outbox(conn, relay, shards, 0, FetchLimits()))


async def renewed(database: Database, relay: UUID) -> None:
    async with database.transaction() as conn:
        await relays.renew_relay(conn, relay, 60)
        await relays.end_previous_format(conn)
        await relays.share_shards(conn, relay)


def lines(*events: Outgoing) -> str:
    return "\n".join(each.payload.decode() for each in events)


# -- rows


async def test_the_events_of_a_batch_and_transaction_are_one_row_in_their_order(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    b, c = [[event(batch_id, topic) for topic in (FIRST, FIRST, SECOND)] for batch_id in "bc"]
    await write(database, [b[0], c[0], b[1]], [c[1]], [c[2], b[2]])
    topics = {FIRST: 2, SECOND: 1}
    assert admin.execute(ROWS).fetchall() == [("b", topics, lines(*b)), ("c", topics, lines(*c))]


async def test_a_row_has_at_most_a_megabyte_and_a_large_event_has_a_row_of_its_own(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    sizes = [400_000] * 4 + [10, 3_000_000, 10]
    events = [event("b", FIRST, "x" * size) for size in sizes]
    await write(database, events)
    rows = [row[2] for row in admin.execute(ROWS).fetchall()]
    assert "\n".join(rows) == lines(*events)
    assert [row.count("\n") + 1 for row in rows] == [2, 3, 1, 1]
    assert all(len(row) <= ROW_BYTES or "\n" not in row for row in rows)


async def test_a_row_has_at_most_a_thousand_events_which_are_numbered_within_it(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    await write(database, [event("b", FIRST) for _ in range(EVENTS_PER_ROW + 1)])
    counts = [row[2].count("\n") + 1 for row in admin.execute(ROWS).fetchall()]
    assert counts == [EVENTS_PER_ROW, 1]


async def test_a_relay_reads_rows_only_of_shards_that_it_holds(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    relay = uuid4()
    await renewed(database, relay)
    await write(database, [event(f"b-{number}", FIRST) for number in range(200)])
    all_rows = await fetch(database, relay)
    assert len(all_rows) == 200
    admin.execute("update els.relay_shards set relay = %s where shard >= 32", [uuid4()])
    held = await fetch(database, relay)
    assert {row.batch_id for row in held} == {row.batch_id for row in all_rows if row.shard < 32}
    assert {row.shard for row in await fetch(database, relay, [3, 4])} == {3, 4}


async def test_a_row_with_the_number_of_a_published_one_and_another_batch_is_kept(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    """After a failover that lost commits, a number may be drawn again."""
    await write(database, [event("b", FIRST)], [event("c", FIRST)])
    seqs = [seq for (seq,) in admin.execute("select seq from els.outbox_pages order by seq")]
    async with database.transaction() as conn:
        keys = [OutboxKey(b"another", seqs[0], True), OutboxKey(b"c", seqs[1], True)]
        await (await outbox.delete_outbox(conn, keys))
    assert admin.execute("select batch_id from els.outbox_pages").fetchall() == [("b",)]


# -- the previous release


async def test_while_a_relay_of_the_previous_release_lives_events_are_rows_that_it_reads(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    admin.execute("update els.outbox_format set pages = false")
    admin.execute(PREVIOUS_RELAY)
    await renewed(database, uuid4())
    written = [event("b", FIRST), event("b", SECOND, "å", Origin(CORRELATION_ID, "00-a-b-01", "x=1"))]
    await write(database, written)
    assert admin.execute("select from els.outbox_pages").fetchall() == []
    columns = "select id, aggregateid, type, payload, correlation_id, traceparent, tracestate from els.outbox"
    assert admin.execute(f"{columns} order by seq").fetchall() == [
        (each.event_id, "b", each.topic, each.payload.decode(), CORRELATION_ID, each.traceparent, each.tracestate)
        for each in written
    ]


async def test_without_such_a_relay_rows_become_pages_and_both_are_read_in_one_order(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    admin.execute("update els.outbox_format set pages = false")
    before, after = [event("b", FIRST), event("b", SECOND)], [event("b", FIRST), event("b", SECOND)]
    await write(database, before)
    relay = uuid4()
    await renewed(database, relay)
    await write(database, after)
    rows = await fetch(database, relay)
    assert [row.events.decode() for row in rows] == [lines(before[0]), lines(before[1]), lines(*after)]
    assert [row.is_page for row in rows] == [False, False, True]
    async with database.transaction() as conn:
        await (await outbox.delete_outbox(conn, [OutboxKey(row.batch_id, row.seq, row.is_page) for row in rows]))
    assert admin.execute("select from els.unpublished").fetchall() == []


async def test_a_shard_that_a_previous_relay_still_holds_keeps_the_previous_rows(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    """Its lease is over, but a fetch that it has sent may still come."""
    admin.execute("update els.outbox_format set pages = false")
    admin.execute("update els.relay_shards set relay = gen_random_uuid() where shard = 0")
    async with database.transaction() as conn:
        await relays.end_previous_format(conn)
    assert admin.execute("select pages from els.outbox_format").fetchone() == (False,)
    await renewed(database, uuid4())
    await renewed(database, uuid4())
    assert admin.execute("select pages from els.outbox_format").fetchone() == (True,)


async def test_the_previous_release_can_not_publish_once_pages_are_written(
    database: Database, admin: psycopg.Connection[Any]
) -> None:
    with pytest.raises(psycopg.errors.RaiseException, match=REFUSED):
        admin.execute(PREVIOUS_RELAY)
    await renewed(database, relay := uuid4())
    with pytest.raises(psycopg.errors.RaiseException, match=REFUSED):
        admin.execute("update els.relays set reads_pages = false where relay = %s", [relay])


def test_the_change_waits_for_a_previous_relay_that_renews_its_lease(database_url: str) -> None:
    """Its trigger locks the format row until it commits, so the change waits for it."""
    with psycopg.connect(database_url, autocommit=True) as admin, psycopg.connect(database_url) as previous:
        admin.execute("update els.outbox_format set pages = false")
        previous.execute(PREVIOUS_RELAY)
        admin.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            admin.execute(STATEMENTS["lock_format"])
        previous.commit()
