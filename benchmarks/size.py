"""Measures the cost of an event (time, buffers) with many slots in the tables, compared with few."""

import argparse
import time

import psycopg
import uvloop

from benchmarks import load, servers
from benchmarks.database import SLOTS, deliveries, seconds_of
from benchmarks.report import Report
from service.postgres.pool import Database

GROW = """
    with made as (
        insert into els.batches (
            batch_id, expected, assigned, essay_set, course_code, user_id, essay_instructions, correlation_id,
            state, registered_at, completed_at, changed_at
        )
        select md5('old batch ' || n)::uuid::text, 30, 30, sha256('the same for all'), 'ENG5', 'a teacher',
            'Write about a book.', gen_random_uuid(), 'ready', now(), now(), now()
        from generate_series(%(first)s::int, %(last)s::int) as n
        returning batch_id
    )
    insert into els.slots (
        batch_id, essay_id, position, state, text_storage_id, file_upload_id, original_file_name,
        raw_file_storage_id, file_size_bytes, content_md5_hash, correlation_id, traceparent, taken_at
    )
    select batch_id, md5(batch_id || ' ' || n)::uuid::text, n, 'assigned', 'text-' || gen_random_uuid(),
        gen_random_uuid()::text, 'An essay.docx', 'raw-' || gen_random_uuid(), 18244,
        '9e107d9d372bb6826bd81d3542a419d6', gen_random_uuid(),
        '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01', now()
    from made cross join generate_series(1, 30) as n
"""
POLL = 500


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    """Uses two databases of one server. Each pair of runs registers new batches in both and applies their uploads."""
    report = Report("size")
    with server.database() as few, server.database() as many:
        _grow(few, 10_000)
        begun = time.monotonic()
        _grow(many, options.slots)
        report.notes.append(f"{options.slots} slots against 10,000; grown in {time.monotonic() - begun:.0f} s")
        pairs = uvloop.run(_pairs(few, many, options.repeat, options.batches))
    times, buffers = zip(*pairs, strict=True)
    report.add("few slots: an event", "µs", [pair[0] * 1e6 for pair in times], better="less")
    report.add("many slots: an event", "µs", [pair[1] * 1e6 for pair in times], better="less")
    report.add("time, many against few", "×", [many / few for few, many in times], better="less", watermark=1.2)
    report.add("few slots: buffers of an event", "pages", [pair[0] for pair in buffers], better="less")
    report.add("many slots: buffers of an event", "pages", [pair[1] for pair in buffers], better="less")
    ratios = [many / few for few, many in buffers]
    report.add("buffers, many against few", "×", ratios, better="less", watermark=1.2, goal=1.1)
    return report


def _grow(url: str, slots: int) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("set synchronous_commit = off")
        for first in range(0, slots // 30, 20_000):
            conn.execute(GROW, {"first": first, "last": min(first + 20_000, slots // 30) - 1})
        servers.analyzed(conn)


async def _pairs(
    few: str, many: str, repeat: int, batches: int
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Returns for each pair the seconds and buffers per event in both. Two pairs before them warm up."""
    databases = [(url, Database(url, pool_size=4)) for url in (few, many)]
    pairs = []
    for number in range(repeat + 2):
        measured = []
        for url, database in databases if number % 2 else databases[::-1]:
            measured.append((url, *await _cost(url, database, number * batches, batches)))
        found = {url: (seconds, buffers) for url, seconds, buffers in measured}
        pairs.append(((found[few][0], found[many][0]), (found[few][1], found[many][1])))
    for _, database in databases:
        await database.close()
    return pairs[2:]


async def _cost(url: str, database: Database, first: int, batches: int) -> tuple[float, float]:
    with psycopg.connect(url, autocommit=True) as conn:
        load.register(conn, batches, SLOTS, first)
        conn.execute("checkpoint")
    arrived = deliveries(list(load.mixed(first, batches, SLOTS)))
    async with database.transaction() as conn:
        before = await _buffers(conn)
    seconds = await seconds_of(database, arrived, POLL)
    async with database.transaction() as conn:
        touched = await _buffers(conn) - before
        await conn.execute("delete from els.outbox_pages")
    return seconds / len(arrived), touched / len(arrived)


async def _buffers(conn: psycopg.AsyncConnection) -> int:
    """Returns the pages that this session has touched; the pool returns the session that was used last."""
    await conn.execute("select pg_stat_force_next_flush()")
    await conn.commit()
    cursor = await conn.execute(
        "select sum(hits + reads) from pg_stat_get_backend_io(pg_backend_pid()) where context = 'normal'"
    )
    row = await cursor.fetchone()
    assert row is not None
    return int(row[0])
