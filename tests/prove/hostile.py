"""Lets a pod that may take 512 MiB read random hostile record batches from Apache Kafka, each before a valid record.

A round has a database, topics, a pod and a seed of its own: `--seed N` begins with the round that reported seed N.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psycopg
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.produce import ProduceRequest

from deploy.servers import brokers
from deploy.servers.brokers import Broker
from deploy.servers.databases import cloned, url_as
from deploy.servers.pods import Pods, pods, until
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    INCOMING_TOPICS,
    VALIDATION_FAILED,
)
from service.kafka.record_batches import LAYOUT
from tests.prove.fuzz import corrupted, mutated, samples
from tests.prove.report import Row, Task
from tests.support.builders import hostile
from tests.support.builders.batches import HEADER_BYTES, record_batch, signed
from tests.support.builders.inputs import MEBIBYTE, confirmation, content, failure, registration
from tests.support.checks.audited import audited
from tests.support.pods.limited import LIMIT
from tests.support.pods.running_consumer import ConsumerFixture, consumer_fixture
from tests.support.servers import memory

CASES = 60
"""Record batches of a round."""
PARTITIONS = 3
STALL_SECONDS = 1.0
"""SPEC, section 5: the event loop never stalls for longer."""
BOUND = 240
VALID = "valid"
_OTHERS: dict[str, Callable[[str], bytes]] = {
    BATCH_REGISTERED: lambda name: registration(name, [name]),
    VALIDATION_FAILED: lambda name: failure(name, name),
    ASSOCIATIONS_CONFIRMED: lambda name: confirmation(name, name),
}
_NUMBERS = (
    0, 1, -1, 2, -2, 63, 64, 127, 128, 255, 1_000, 65_535, 65_536, 2**20, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62,
    2**63 - 1, -(2**63),
)  # fmt: skip
_OVERLONG = (b"\x80" * 9 + b"\0", b"\xff" * 9 + b"\x01", b"\xff" * 12, b"\x80" * 5, b"\x81\0")
"""Encodings of integers that are longer than they need to be, do not end, or have more than 64 bits."""


KINDS_OF_CASES = ("largest", "mutated record batches", "mutated JSON")


class Case(NamedTuple):
    """A record batch for a topic."""

    kind: str
    topic: str
    name: str
    batch: bytes


def cases(dice: random.Random, count: int) -> Iterator[Case]:
    """Yields random cases: the largest of a kind in a random size, mutated records and batches, mutated JSON."""
    for _ in range(count):
        make = dice.choices((_largest, _mutated_batch, _mutated_json), (2, 5, 3))[0]
        made = make(dice)
        if len(made.batch) <= hostile.LARGEST[made.topic]:
            yield made


def _codec(dice: random.Random) -> str:
    return dice.choice(list(hostile.CODECS))


def _size(dice: random.Random, most: int) -> int:
    """Returns a size between 16 bytes and the most, as often small as large."""
    return most if dice.random() < 0.2 else round(16 * (most / 16) ** dice.random())


def _largest(dice: random.Random) -> Case:
    topic, codec = dice.choice(INCOMING_TOPICS), _codec(dice)
    if dice.random() < 0.3:
        name = dice.choice(list(hostile.LENGTHS))
        most = hostile.LARGEST[topic] - 4_096 if codec == "none" else dice.choice((38, 100)) * MEBIBYTE
        body, records = hostile.LENGTHS[name](_size(dice, most))
        return Case("largest", topic, f"{codec}: {name}", hostile.batch(body, records, codec))
    kind = dice.choice(list(hostile.KINDS))
    place = dice.choice(hostile.places(topic))
    size = _size(dice, dice.choice((1, 1, 1, 2)) * hostile.largest_value(topic))
    value = hostile.value(topic, place, kind, size)
    name = f"{codec}: {kind} of {size} bytes at {place.path}"
    return Case("largest", topic, name, hostile.batch(hostile.record(0, key=b"b", value=value), 1, codec))


def _inputs() -> list[tuple[str, bytes]]:
    return [(topic, value) for topic, value in samples() if topic in INCOMING_TOPICS]


def _mutated_json(dice: random.Random) -> Case:
    topic, sample = dice.choice(_inputs())
    value, codec = mutated(dice, sample), _codec(dice)
    return Case(
        "mutated JSON",
        topic,
        f"{codec}: {value[:500]!r}",
        hostile.batch(hostile.record(0, key=b"k", value=value), 1, codec),
    )


def _mutated_batch(dice: random.Random) -> Case:
    topic, sample = dice.choice(_inputs())
    count = dice.choice((1, 1, 2, 5, 200))
    values = [_value(dice, sample) for _ in range(min(count, 5))]
    changed = dice.randrange(2 * count)  # in half of the batches, no record: the broker rejects most of these
    records = [
        _mutated_record(dice, number, values[number % 5])
        if number == changed
        else hostile.record(number, key=b"k", value=values[number % 5])
        for number in range(count)
    ]
    body, codec = b"".join(records), _codec(dice)
    number, compress = hostile.CODECS[codec]
    made = compress(body)
    what = dice.choice(("record", "record", "bytes", "members", "nested", "another codec", "header"))
    if what == "bytes":
        made = corrupted(dice, made)
    elif what == "members":
        made *= dice.choice((2, 3, 1_000))
    elif what == "nested":
        made = compress(made)
    elif what == "another codec":
        number = dice.randrange(8)
    header = _header(dice, count, mutate=what == "header")
    batch = signed(header, made[: 2 * MEBIBYTE], number | int.from_bytes(header[21:23]) & ~7 & 0x7FFF)
    return Case("mutated record batches", topic, f"{codec}, {what}: {batch[:300]!r}", batch)


def _value(dice: random.Random, sample: bytes) -> bytes | None:
    """Returns a sample, a mutation of it, a record batch, or none."""
    return dice.choice((lambda: sample, lambda: mutated(dice, sample), lambda: record_batch([sample]), lambda: None))()


def _mutated_record(dice: random.Random, number: int, value: bytes | None) -> bytes:
    """Returns a record in which one number, at any place, is replaced."""
    headers = dice.choice((0, 1, 3))
    parts: list[bytes | int] = [b"\0", 0, number]
    for part in (b"key", value):
        parts += [-1] if part is None else [len(part), part]
    parts.append(headers)
    for _ in range(headers):
        parts += [1, b"h", 2, b"\xff\xfe"]
    places = [place for place, part in enumerate(parts) if isinstance(part, int)]
    if dice.random() < 0.8:
        parts[dice.choice(places)] = dice.choice((dice.choice(_NUMBERS), dice.choice(_OVERLONG)))
    body = b"".join(hostile.varint(part) if isinstance(part, int) else part for part in parts)
    length = len(body) if dice.random() < 0.8 else dice.choice((len(body) + 1, len(body) - 1, *_NUMBERS))
    return hostile.varint(length) + (body if dice.random() < 0.9 else body[: dice.randrange(len(body))])


def _header(dice: random.Random, count: int, *, mutate: bool) -> bytes:
    """Returns the header of a batch of so many records, with one of its fields changed; length and checksum follow."""
    fields = list(LAYOUT.unpack(record_batch([b""])[:HEADER_BYTES]))
    fields[6], fields[12] = count - 1, count
    if mutate:
        place = dice.choice((0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12))
        bits = {0: 64, 3: 8, 5: 16, 7: 64, 8: 64, 9: 64, 10: 16}.get(place, 32)
        near = [number for number in _NUMBERS if -(2 ** (bits - 1)) <= number < 2 ** (bits - 1)]
        fields[place] = dice.choice((dice.choice(near), dice.randrange(2 ** (bits - 1))))
    return LAYOUT.pack(*fields)


async def append(client: AIOKafkaClient, tp: TopicPartition, batch: bytes) -> bool:
    """Sends the bytes of a record batch to the leader, once. Returns whether it accepted them."""
    leader = client.cluster.leader_for_partition(tp)
    request = ProduceRequest(
        transactional_id=None, required_acks=-1, timeout=30_000, topics=[(tp.topic, [(tp.partition, batch)])]
    )
    try:
        answer = await client.send(leader, request)
    except KafkaError:  # it closes the connection
        await client.force_metadata_update()
        return False
    return bool(answer.topics[0][1][0][1] == 0)


async def hostile_inputs(server: str, template: str, task: Task) -> list[Row]:
    """Plays one round after the other until the time is over. Needs Apache Kafka."""
    rows = {kind: Row("hostile", kind, unit="accepted") for kind in KINDS_OF_CASES}
    overall = Row("hostile", "a pod with 512 MiB", unit="rounds")
    if missing := brokers.apache_missing():
        overall.more["left out"] = missing
        return [overall]
    with brokers.apache() as broker:
        while not task.is_over:
            seed = task.seed + overall.runs
            task.report(f"seed {seed}; {sum(row.runs for row in rows.values()):,} record batches")
            started = time.monotonic()
            await broker.create_topics(PARTITIONS)
            with cloned(server, template) as url:
                await play(url, broker, seed, rows, overall)
            await brokers.delete_topics(broker.bootstrap_servers)
            overall.add(Row("", "", runs=1, seconds=time.monotonic() - started))
    return [*rows.values(), overall]


async def play(url: str, broker: Broker, seed: int, rows: dict[str, Row], overall: Row, count: int = CASES) -> None:
    """Plays one round, and adds what it finds to `overall`."""
    app_url = url_as(url, "els_app")
    with TemporaryDirectory(prefix="els-prove-", ignore_cleanup_errors=True) as folder:
        async with consumer_fixture(app_url, url, broker) as consumers:
            settings = {
                "ELS_DATABASE_URL": app_url,
                "ELS_CONSUMER_GROUP": consumers.group,
                "ELS_CONSECUTIVE_REJECTIONS_LIMIT": "1000000",
            }
            with memory.memory_group(LIMIT) as group, pods(Path(folder), settings, broker.settings) as running:
                running.start(module="tests.support.pods.limited", MEMORY_GROUP=str(group or ""))
                names: list[str] = []
                try:
                    valid = await _send(consumers, random.Random(seed), rows, names, count)
                    await _check(consumers, running, group, valid, overall)
                except (AssertionError, KafkaError, psycopg.Error, OSError) as error:
                    overall.found.append(f"seed {seed}: {type(error).__name__}: {error}; sent: {names}")


async def _check(consumers: ConsumerFixture, running: Pods, group: Path | None, valid: int, overall: Row) -> None:
    """Waits until the pod has read everything, and stops it. Raises AssertionError where something is wrong."""
    (pod,) = running.all
    applied = f"select count(*) from els.pending_content where batch_id = '{VALID}'"
    await until(
        lambda: pod.has_ended or consumers.value(applied) == valid,
        BOUND,
        lambda: f"{consumers.value(applied)} of {valid} valid records are applied",
    )
    assert not pod.has_ended, f"the pod has ended: {pod.last_lines(5)}"
    await pod.ready()
    await consumers.all_committed()
    (blocked,) = re.findall(r"^els_event_loop_blocked_seconds (\S+)", await pod.metrics(), re.MULTILINE)
    most = {"blocked, most s": float(blocked)}
    if group is not None:
        most["memory, most MiB"] = memory.peak(group) / MEBIBYTE
        assert memory.killed(group) == 0, "the pod was killed because of its memory"
    assert float(blocked) < STALL_SECONDS, f"the event loop was blocked for {blocked} s"
    assert running.complaints() == []
    assert await running.stop() == [0]
    assert consumers.value(f"select count(*) from els.quarantine where batch_id like '{VALID}%'") == 0
    report = await audited(consumers.app_url, consumers.broker, consumers.group)
    assert report.clean, f"the audit found {report.findings[:5]}"
    assert not report.unknown, f"the audit cannot check {report.examples}"
    reasons = Counter(reason for _, reason in consumers.rejected())
    overall.add(Row("", "", more=most | {"quarantined": dict(reasons)}))


async def _send(
    consumers: ConsumerFixture, dice: random.Random, rows: dict[str, Row], names: list[str], count: int
) -> int:
    """Sends the cases, each before a valid record in its partition and one in another. Returns the number of these."""
    client = AIOKafkaClient(bootstrap_servers=consumers.broker.bootstrap_servers)
    await client.bootstrap()
    valid = 0
    try:
        await client.set_topics(INCOMING_TOPICS)
        for case in cases(dice, count):
            row, started = rows[case.kind], time.monotonic()
            partition = dice.randrange(PARTITIONS)
            if not await append(client, TopicPartition(case.topic, partition), case.batch):
                row.more["rejected by the broker"] = row.more.get("rejected by the broker", 0) + 1
                continue
            row.runs += 1
            row.seconds += time.monotonic() - started
            names.append(f"{case.topic} {case.name[:100]}")
            for beside in (0, 1):
                valid += 1
                value = content(VALID, f"v{valid}")
                await consumers.publish(CONTENT_PROVISIONED, value, partition=(partition + beside) % PARTITIONS)
            if make := _OTHERS.get(case.topic):  # behind it on its topic, too
                await consumers.publish(case.topic, make(f"{VALID}-{valid}"), partition=partition)
    finally:
        with suppress(KafkaError):
            await client.close()
    return valid
