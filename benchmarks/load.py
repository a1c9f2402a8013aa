"""Sends events as the producers do, from a separate process: all before the measurement, or at a fixed rate.

    python -m benchmarks.load '{"do": "contents", …}'

Batch and essay ids are derived from numbers, here and in SQL (`register`), so they need not be passed on.
"""

import asyncio
import hashlib
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any
from uuid import UUID

import orjson
import psycopg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from service.domain.cells import cell_of
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, SLOT_ASSIGNED

AT_A_TIME = 100
"""The number of batches whose uploads are mixed."""

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

_ENVELOPE = (
    '{"event_id":"%s","event_type":"%s","event_timestamp":"2026-01-15T09:30:00.125000Z","source_service":"bench",'
    '"schema_version":1,"correlation_id":"%s","data_schema_uri":null,"data":%s,"metadata":{"traceparent":"'
    + TRACE
    + '"}}'
)
_CONTENT = (
    '{"event":"essay.content.provisioned","batch_id":"%s","file_upload_id":"%s","original_file_name":"An essay.docx",'
    '"raw_file_storage_id":"raw-%s","text_storage_id":"%s","file_size_bytes":18244,"content_md5_hash":'
    '"9e107d9d372bb6826bd81d3542a419d6","correlation_id":"%s","timestamp":"2026-01-15T09:29:58.001000Z"}'
)

REGISTER = """
    with made as (
        insert into els.batches (
            batch_id, expected, essay_set, course_code, user_id, essay_instructions, correlation_id,
            registered_at, changed_at
        )
        select md5('batch ' || n)::uuid::text, %(slots)s, sha256('the same for all'), 'ENG5', 'a teacher',
            'Write about a book.', gen_random_uuid(), now(), now()
        from generate_series(%(first)s::int, %(first)s::int + %(batches)s::int - 1) as n
        where els.holds(md5('batch ' || n)::uuid::text)
        returning batch_id
    )
    insert into els.slots (batch_id, essay_id, position)
    select batch_id, md5(batch_id || ' ' || position)::uuid::text, position
    from made cross join generate_series(1, %(slots)s::int) as position
"""


def batch_id(number: int) -> str:
    return str(UUID(hashlib.md5(f"batch {number}".encode()).hexdigest()))  # noqa: S324


def essay_id(batch: str, position: int) -> str:
    return str(UUID(hashlib.md5(f"{batch} {position}".encode()).hexdigest()))  # noqa: S324


def register(conn: psycopg.Connection[Any], batches: int, slots: int, first: int = 0) -> None:
    """Inserts registered batches directly into the tables: those that the database holds."""
    conn.execute(REGISTER, {"first": first, "batches": batches, "slots": slots})


def content(batch: str, text: str | None = None) -> bytes:
    """Returns an EssayContentProvisioned as the File Service sends it."""
    upload, raw, found = _uuid(), _uuid(), text or f"text-{_uuid()}"
    data = _CONTENT % (batch, upload, raw, found, _uuid())
    return (_ENVELOPE % (_uuid(), CONTENT_PROVISIONED, _uuid(), data)).encode()


def registration(batch: str, slots: int) -> bytes:
    """Returns a BatchEssaysRegistered as BOS sends it."""
    data = {
        "event": "batch.essays.registered",
        "batch_id": batch,
        "expected_essay_count": slots,
        "essay_ids": [essay_id(batch, position) for position in range(1, slots + 1)],
        "metadata": {},
        "course_code": "ENG5",
        "essay_instructions": "Write about a book.",
        "user_id": "a teacher",
    }
    return (_ENVELOPE % (_uuid(), BATCH_REGISTERED, _uuid(), orjson.dumps(data).decode())).encode()


def _uuid() -> str:
    digits = f"{random.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def mixed(first: int, batches: int, each: int) -> Iterable[str]:
    """Returns the batch id of each upload, in random order within groups of `AT_A_TIME` batches."""
    for start in range(first, first + batches, AT_A_TIME):
        group = [batch_id(number) for number in range(start, min(start + AT_A_TIME, first + batches))] * each
        random.shuffle(group)
        yield from group


# -- in the process of the benchmark


def send(do: str, bootstrap_servers: str, **what: Any) -> dict[str, Any]:
    """Runs a load in a separate process. Returns its report."""
    with begin(do, bootstrap_servers, **what) as process:
        return ended(process)


def begin(do: str, bootstrap_servers: str, **what: Any) -> "subprocess.Popen[bytes]":
    """Starts a load in a separate process; `ended` waits for it."""
    options = orjson.dumps({"do": do, "bootstrap_servers": bootstrap_servers, **what}).decode()
    return subprocess.Popen([sys.executable, "-m", "benchmarks.load", options], stdout=subprocess.PIPE)


def ended(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load exited with status {process.returncode}")
    found: dict[str, Any] = orjson.loads(output)
    return found


# -- in the separate process


async def _preload(
    bootstrap_servers: str, topic: str, batches: Iterable[str], made: Callable[[str], bytes]
) -> dict[str, Any]:
    """Sends one record per batch id to random partitions, in record batches, as fast as possible."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, max_batch_size=900_000, enable_idempotence=False)
    await producer.start()
    partitions = sorted(await producer.partitions_for(topic))
    building = {partition: producer.create_batch() for partition in partitions}
    sent = 0
    for batch in batches:
        sent += 1
        partition, value = random.choice(partitions), made(batch)  # noqa: S311
        if building[partition].append(key=batch.encode(), value=value, timestamp=None) is None:
            await producer.send_batch(building[partition], topic, partition=partition)
            building[partition] = producer.create_batch()
            building[partition].append(key=batch.encode(), value=value, timestamp=None)
    for partition, rest in building.items():
        if rest.record_count():
            await producer.send_batch(rest, topic, partition=partition)
    await producer.flush()
    await producer.stop()
    return {"sent": sent}


async def contents(bootstrap_servers: str, first: int, batches: int, each: int) -> dict[str, Any]:
    """Sends all uploads of these batches."""
    return await _preload(bootstrap_servers, CONTENT_PROVISIONED, mixed(first, batches, each), content)


async def registrations(bootstrap_servers: str, first: int, batches: int, each: int) -> dict[str, Any]:
    """Sends all registrations of these batches."""
    ids = (batch_id(number) for number in range(first, first + batches))
    return await _preload(bootstrap_servers, BATCH_REGISTERED, ids, lambda batch: registration(batch, each))


async def paced(
    bootstrap_servers: str,
    first: int,
    batches: int,
    each: int,
    rate: float,
    warm_up: float,
    read_ms: int = 3,
    linger_ms: int = 0,
    cells: int = 1,
) -> dict[str, Any]:
    """Sends uploads at a fixed rate. Returns the seconds from each upload's due time to its EssaySlotAssigned.

    Also by cell: for each upload its due time, on the clock of `time.perf_counter`, and these seconds.

    The due time counts, not the time of sending, so that delays of the load are part of the latency. All uploads that
    are due are sent in record batches to random partitions, as producers do without keys; the next ones are sent after
    `linger_ms` at the earliest, so that the load needs little CPU. Values are prepared before the start. Output is read
    every `read_ms` milliseconds at most; with 3 or less, as soon as there is any.
    """
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, enable_idempotence=False, acks="all")
    await producer.start()
    # The embedded broker answers an empty fetch only after its maximum wait, which would count as latency.
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap_servers,
        auto_offset_reset="latest",
        fetch_max_wait_ms=read_ms,
        fetch_min_bytes=1 if read_ms <= 3 else 1_000_000,
    )
    await consumer.start()
    tps = [TopicPartition(SLOT_ASSIGNED, each) for each in await producer.partitions_for(SLOT_ASSIGNED)]
    consumer.assign(tps)
    await consumer.seek_to_end()
    for tp in tps:
        await consumer.position(tp)
    partitions = sorted(await producer.partitions_for(CONTENT_PROVISIONED))
    due_batches = list(mixed(first, batches, each))
    values = [content(batch, f"text-{number}-{batch}") for number, batch in enumerate(due_batches)]
    begun = time.perf_counter() + 0.5
    received: dict[int, float] = {}
    receiving = asyncio.create_task(_receive(consumer, received, len(values)))
    late, sent = 0.0, 0
    while sent < len(values):
        due = min(len(values), int((time.perf_counter() - begun) * rate) + 1)
        if due <= sent:
            await asyncio.sleep(begun + sent / rate - time.perf_counter())
            continue
        late = max(late, time.perf_counter() - begun - sent / rate)
        while sent < due:
            records = producer.create_batch()
            while sent < due and records.append(key=None, value=values[sent], timestamp=None) is not None:
                sent += 1
            await producer.send_batch(records, CONTENT_PROVISIONED, partition=random.choice(partitions))  # noqa: S311
        await asyncio.sleep(linger_ms / 1000)
    await asyncio.wait([receiving], timeout=30)
    receiving.cancel()
    await producer.stop()
    await consumer.stop()
    by_cell: list[list[tuple[float, float]]] = [[] for _ in range(cells)]
    for number, at in received.items():
        if number >= warm_up * rate:
            due_at = begun + number / rate
            by_cell[cell_of(due_batches[number], cells)].append((due_at, at - due_at))
    measured = sorted(seconds for each_cell in by_cell for _, seconds in each_cell)
    return {"seconds": measured, "by_cell": by_cell, "sent": sent, "received": len(received), "latest_send": late}


_NUMBER = re.compile(rb'"text_storage_id":"text-(\d+)-')


async def _receive(consumer: AIOKafkaConsumer, received: dict[int, float], number: int) -> None:
    """Records when the first event of each upload arrived; ignores other events."""
    while len(received) < number:
        for records in (await consumer.getmany(timeout_ms=500)).values():
            now = time.perf_counter()
            for record in records:
                if found := _NUMBER.search(record.value):
                    received.setdefault(int(found[1]), now)


def main(arguments: Sequence[str]) -> None:
    """Runs the load that the argument names, and prints its report as JSON."""
    options = orjson.loads(arguments[0])
    known: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
        "contents": contents,
        "registrations": registrations,
        "paced": paced,
    }
    load = known[options.pop("do")]
    report = orjson.dumps(uvloop.run(load(**options)))
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:  # with PYTHONUNBUFFERED, print may write only a part
        out.write(report)


if __name__ == "__main__":
    main(sys.argv[1:])
