"""Measures the database step alone, and as its ceiling the same rows written by bulk statements without logic.

Both write the same number of slots and outbox rows with the same durability, in turn, to different batches.
"""

import argparse
import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import uvloop

from benchmarks import load, servers
from benchmarks.report import Report
from service.application import collect_rarely
from service.domain import outgoing
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.enveloped import Origin
from service.domain.events import ContentProvisioned
from service.domain.incoming import decode
from service.domain.topics import CONTENT_PROVISIONED, SLOT_ASSIGNED
from service.intake.transaction import apply
from service.postgres.arrays import Integers, Texts, Uuids, register
from service.postgres.pool import Database

SLOTS = 30
CHUNK = 500

FILL = """
    update els.slots
    set state = 'assigned', text_storage_id = f.text, file_upload_id = f.upload, original_file_name = f.name,
        raw_file_storage_id = f.raw, file_size_bytes = f.size, content_md5_hash = f.md5,
        correlation_id = f.correlation, traceparent = f.trace, taken_at = transaction_timestamp()
    from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[],
        %s::uuid[], %s::text[]) as f (batch, essay, text, upload, name, raw, size, md5, correlation, trace)
    where slots.batch_id = f.batch and slots.essay_id = f.essay
"""
COPY = """
    copy els.outbox_pages (batch_id, topics, events) from stdin
"""


def measure(server: servers.Server, options: argparse.Namespace) -> Report:
    report = Report("database")
    collect_rarely()  # garbage collection as in a pod
    with server.database() as url:
        rounds = uvloop.run(_rounds(url, options.repeat, options.batches, options.poll))
    ours, ceiling, alone = zip(*rounds, strict=True)
    report.add(f"polls of {options.poll}", "1/s", ours)
    report.add("reference: ceiling, bulk UPDATE + COPY, chunks of 500", "1/s", ceiling)
    shares = [mine / bulk * 100 for mine, bulk in zip(ours, ceiling, strict=True)]
    report.add("share of the ceiling", "%", shares, watermark=60, goal=80)
    report.add("one record per transaction", "1/s", alone)
    return report


async def _rounds(url: str, repeat: int, batches: int, poll: int) -> list[tuple[float, float, float]]:
    """Returns (the service, ceiling, one record per transaction) in events per second. A first round warms up."""
    database = Database(url, pool_size=4)
    rounds = []
    with psycopg.connect(url, autocommit=True) as admin:
        register(admin)
        for number in range(repeat + 1):
            first = number * (2 * batches + 10)
            load.register(admin, 2 * batches + 10, SLOTS, first)
            servers.analyzed(admin)
            ours = await _timed_polls(database, first, batches, poll)
            bulk = await asyncio.to_thread(_ceiling, url, first + batches, batches)
            alone = await _timed_polls(database, first + 2 * batches, 10, 1)
            admin.execute("delete from els.outbox_pages")
            rounds.append((ours, bulk, alone))
    await database.close()
    return rounds[1:]


def deliveries(ids: Sequence[str]) -> list[Delivery]:
    """Returns decoded uploads, one for each batch id."""
    made = []
    for offset, batch in enumerate(ids):
        event = decode(CONTENT_PROVISIONED, load.content(batch), max_bytes=1_000_000)
        made.append(Delivery(CONTENT_PROVISIONED, 0, offset, b"key", b"", [], event))
    return made


async def _timed_polls(database: Database, first: int, batches: int, poll: int) -> float:
    arrived = deliveries(list(load.mixed(first, batches, SLOTS)))
    return len(arrived) / await seconds_of(database, arrived, poll)


async def seconds_of(database: Database, arrived: Sequence[Delivery], poll: int) -> float:
    """Returns the seconds that the uploads take, in consecutive polls of `poll` records."""
    begun = time.perf_counter()
    for start in range(0, len(arrived), poll):
        async with database.transaction(pipelined=True) as conn:
            outcome = await apply(conn, arrived[start : start + poll], IntakeLimits())
        assert not outcome.deferred
        assert not outcome.next_transaction
    return time.perf_counter() - begun


def _ceiling(url: str, first: int, batches: int) -> float:
    """Returns the events per second of bulk statements, one transaction per chunk; slots and payloads are prepared."""
    assigned = []
    for number in range(first, first + batches):
        batch = load.batch_id(number)
        assigned += [(batch, load.essay_id(batch, position)) for position in range(1, SLOTS + 1)]
    chunks = []
    for start in range(0, len(assigned), CHUNK):
        some = assigned[start : start + CHUNK]
        random.shuffle(some)
        chunks.append(_prepared(some))
    with psycopg.connect(url) as conn:
        register(conn)
        begun = time.perf_counter()
        for columns, rows in chunks:
            conn.execute(FILL, columns)
            with conn.cursor().copy(COPY) as copy:
                for row in rows:
                    copy.write_row(row)
            conn.commit()
        return len(assigned) / (time.perf_counter() - begun)


def _prepared(
    assigned: Sequence[tuple[str, str]],
) -> tuple[list[Any], list[tuple[str, str, str]]]:
    """Returns the parameters of one chunk: the columns of its slots, and its outbox rows."""
    contents = [each.event for each in deliveries([batch for batch, _ in assigned])]
    now = datetime.now(UTC)
    columns: list[Any] = [
        Texts([batch for batch, _ in assigned]),
        Texts([essay for _, essay in assigned]),
        *(
            Texts([getattr(each, name) for each in contents])
            for name in ("text_storage_id", "file_upload_id", "original_file_name", "raw_file_storage_id")
        ),
        Integers([18_244] * len(assigned)),
        Texts(["9e107d9d372bb6826bd81d3542a419d6"] * len(assigned)),
        Uuids([uuid4() for _ in assigned]),
        Texts([load.TRACE] * len(assigned)),
    ]
    events: defaultdict[str, list[str]] = defaultdict(list)
    for (batch, essay), each in zip(assigned, contents, strict=True):
        assert isinstance(each, ContentProvisioned)
        event = outgoing.slot_assigned(
            batch,
            essay,
            each.text_storage_id,
            each.file_upload_id,
            each.original_file_name,
            Origin(each.correlation_id, each.traceparent, None),
            now,
            max_bytes=1_000_000,
        )
        events[batch].append(event.payload.decode())
    rows = [(batch, f'{{"{SLOT_ASSIGNED}": {len(lines)}}}', "\n".join(lines)) for batch, lines in events.items()]
    return columns, rows
