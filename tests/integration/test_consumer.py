"""The whole consumer on a real broker: what comes in is dealt with in the database before its offset says so."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup

from deploy.local.postgres import Postgres
from service import consumer as consumer_module
from service import membership as membership_module
from service import migration, partitions
from service.consumer import Consumer
from service.database import Database
from service.events import BATCH_REGISTERED, CONTENT_PROVISIONED, INCOMING_TOPICS, VALIDATION_FAILED
from service.health import Health
from service.intake import Intake
from service.kafka import client_options
from service.membership import ConsumerOptions, Stalled
from service.poll import Effects, Limits
from service.process import _until_stopped
from service.quarantine import resume_topic
from tests.support.batches import CODECS, HEADER_BYTES, record_batch, signed, torn
from tests.support.brokers import Broker, apache_missing, delete_topics
from tests.support.expected import committed_offsets
from tests.support.inputs import MEBIBYTE, content, failure, registration
from tests.support.invariants import violations
from tests.support.pods import Pod, killed, pods, until
from tests.support.proxy import Proxy, kafka_through

BOUND = 45
"""Seconds after which a wait has failed."""

LIMIT = 5
"""Refusals in a row that stop a topic, where a test is about that."""


class Running:
    """One consumer that runs here, and what it tells of itself."""

    def __init__(self, url: str, broker: Broker, group: str, limit: int) -> None:
        self.health = Health("consumer")
        self.effects: list[Effects] = []
        self.database = Database(url, pool_size=3)
        intake = Intake(self.database, Limits(refusals_in_a_row=limit), self.health, self._told)
        self.consumer = Consumer(
            client_options(broker.bootstrap_servers),
            self.database,
            intake,
            self.health,
            ConsumerOptions(
                group=group,
                max_poll_records=100,
                drain=10,
                max_bytes={**dict.fromkeys(INCOMING_TOPICS, MEBIBYTE), BATCH_REGISTERED: 16 * MEBIBYTE},
            ),
            lag=lambda *_: None,
        )
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.consumer.run(self._stop))

    async def _told(self, effects: Effects) -> None:
        self.effects.append(effects)

    @property
    def partitions(self) -> int:
        return len(self.consumer._partitions)

    async def fail_and_run_again(self) -> None:
        """As the process does with a part that fails, from now on whenever it fails."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = asyncio.create_task(_until_stopped("consumer", self.consumer.run, self._stop, self.health))

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.wait_for(self._task, BOUND)
        await self.database.close()


class Station:
    """A database, a broker, a group, and the consumers that a test starts there."""

    def __init__(self, app_url: str, superuser: str, broker: Broker) -> None:
        self.app_url, self.broker = app_url, broker
        self.group = f"group-{uuid4().hex[:8]}"
        self.conn = psycopg.connect(superuser, autocommit=True)
        self.ends: dict[TopicPartition, int] = {}
        self.running: list[Running] = []
        self.producer: AIOKafkaProducer

    async def start(self, limit: int = 1_000) -> Running:
        started = Running(self.app_url, self.broker, self.group, limit)
        self.running.append(started)
        await until(lambda: started.partitions > 0, BOUND, lambda: "it was given no partition")
        return started

    async def stop(self) -> None:
        while self.running:
            await self.running.pop().stop()

    async def publish(
        self, topic: str, *values: bytes | None, partition: int | None = 0, key: bytes | None = b"key"
    ) -> int:
        """Publish in this order; returns the offset of the last."""
        sent = [await self.producer.send(topic, value, key, partition) for value in values]
        for each in await asyncio.gather(*sent):
            tp = TopicPartition(each.topic, each.partition)
            self.ends[tp] = max(self.ends.get(tp, 0), each.offset + 1)
        return int(each.offset)

    async def publish_batch(self, topic: str, batch: bytes, records: int, partition: int = 0) -> int:
        """Publish a record batch that is built; returns the offset of the first."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap_servers, enable_idempotence=False, acks="all"
        ) as producer:
            builder = producer.create_batch()
            builder.close()
            builder._buffer, builder._relative_offset = bytearray(batch), records
            first = (await (await producer.send_batch(builder, topic, partition=partition))).offset
        self.ends[TopicPartition(topic, partition)] = first + records
        return int(first)

    async def committed(self, *tps: TopicPartition) -> dict[TopicPartition, int]:
        return await committed_offsets(self.broker, self.group, tps or self.ends)

    async def all_committed(self) -> None:
        """Wait until the group's offsets are at the end of what was published."""
        found: dict[TopicPartition, int] = {}

        async def at_the_end() -> bool:
            found.update(await self.committed())
            return found == self.ends

        await until(at_the_end, BOUND, lambda: f"committed {found} of {self.ends}", every=0.1)

    async def becomes(self, query: str, wanted: object) -> None:
        """Wait until this is what the query's only value is."""
        await until(lambda: self.value(query) == wanted, BOUND, lambda: f"{query} is {self.value(query)}, not {wanted}")

    def value(self, query: str) -> Any:
        row = self.conn.execute(query).fetchone()
        return row[0] if row else None

    def refused(self) -> list[tuple[str, str]]:
        return self.conn.execute("select topic, reason from els.quarantine order by id").fetchall()


@asynccontextmanager
async def station_at(app_url: str, superuser: str, broker: Broker) -> AsyncIterator[Station]:
    station = Station(app_url, superuser, broker)
    station.producer = AIOKafkaProducer(
        bootstrap_servers=broker.bootstrap_servers,
        enable_idempotence=broker.idempotence,
        acks="all",
        compression_type="gzip",  # what we refuse as too large is small on its way
        max_request_size=64 * MEBIBYTE,
        request_timeout_ms=60_000,
    )
    await station.producer.start()
    try:
        yield station
    finally:
        await station.stop()
        await station.producer.stop()
        station.conn.close()


@pytest.fixture
async def station(app_url: str, database_url: str, kafka: Broker) -> AsyncIterator[Station]:
    async with station_at(app_url, database_url, kafka) as station:
        yield station


@pytest.fixture
async def unchecked(app_url: str, database_url: str, tansu: Broker) -> AsyncIterator[Station]:
    """A station on the broker that keeps whatever it is given; Apache Kafka checks it."""
    async with station_at(app_url, database_url, tansu) as station:
        yield station


@pytest.fixture
def judging_broker(request: pytest.FixtureRequest) -> Broker:
    broker: Broker = request.getfixturevalue("tansu" if apache_missing() else "apache")
    return broker


@pytest.fixture
async def judge(app_url: str, database_url: str, judging_broker: Broker) -> AsyncIterator[Station]:
    """A station on the one broker that says most: for what takes long, as the embedded one is slow with groups."""
    async with station_at(app_url, database_url, judging_broker) as station:
        yield station


PENDING = "select count(*) from els.pending_content"


# -- the table of what is bad


def changed(value: bytes, data: dict[str, Any] | None = None, **envelope: Any) -> bytes:
    """The same event with other fields; None takes one of the envelope's away."""
    event = json.loads(value)
    event["data"] |= data or {}
    event |= envelope
    return json.dumps(
        {name: field for name, field in event.items() if field is not None or name == "metadata"}
    ).encode()


def nested(depth: int) -> bytes:
    return changed(content("b", "t")).replace(
        b'"metadata": {', b'"x": ' + b"[" * depth + b"]" * depth + b', "metadata": {'
    )


ESSAYS = ["e1", "e2"]
GOOD = {
    BATCH_REGISTERED: registration("b", ESSAYS),
    CONTENT_PROVISIONED: content("b", "t"),
    VALIDATION_FAILED: failure("b", "u"),
}


def bad_inputs() -> Iterable[tuple[str, bytes | None, str]]:
    """(topic, value, reason), a line or more for each line of the specification."""
    for topic, good in GOOD.items():
        yield topic, None, "no_value"
        yield topic, b"", "not_json"
        yield topic, b"\xff" + good, "not_utf8"
        yield topic, good[:-1], "not_json"
        yield topic, b"[1]", "not_an_envelope"
        yield topic, changed(good, correlation_id=None), "not_an_envelope"
        yield topic, changed(good, {"batch_id": 7}), "invalid_field"
        yield topic, changed(good, {"batch_id": ""}), "invalid_field"
        yield topic, changed(good, {"batch_id": "b" * 256}), "invalid_field"
        yield topic, changed(good, {"batch_id": "a \0"}), "invalid_field"
        yield topic, changed(good, {"entity_id": "another"}), "batch_ids_differ"
        yield topic, changed(good, event_type="huleedu.unknown.v1"), "unknown_event_type"
        yield topic, changed(good, event_type="huleedu.els.batch.essays.ready.v1"), "wrong_topic"
        yield topic, changed(good, schema_version=2), "unknown_schema_version"
    for count in (1, 3):
        yield BATCH_REGISTERED, registration("b", ESSAYS, expected_essay_count=count), "count_mismatch"
    yield BATCH_REGISTERED, registration("b", []), "no_essays"
    yield BATCH_REGISTERED, registration("b", ["e1", "e1"]), "duplicate_essay_id"
    yield BATCH_REGISTERED, registration("b", ESSAYS, expected_essay_count=0), "count_out_of_range"
    yield BATCH_REGISTERED, registration("b", ESSAYS, expected_essay_count=True), "invalid_field"
    yield BATCH_REGISTERED, registration("b", ["e1", "e" * 256]), "invalid_field"
    yield BATCH_REGISTERED, registration("b", [str(each) for each in range(100_001)]), "count_out_of_range"
    yield BATCH_REGISTERED, registration("b", ESSAYS, essay_instructions="i" * 17 * MEBIBYTE), "too_large"
    for topic in (CONTENT_PROVISIONED, VALIDATION_FAILED):
        yield topic, changed(GOOD[topic], {"file_size_bytes": -1}), "invalid_field"
        yield topic, changed(GOOD[topic], {"file_size_bytes": 2**63}), "invalid_field"
        yield topic, changed(GOOD[topic], {"file_size_bytes": 1.5}), "invalid_field"
        yield topic, changed(GOOD[topic], {"original_file_name": "\ud800"}), "invalid_field"
        yield topic, changed(GOOD[topic], {"original_file_name": "n" * MEBIBYTE}), "too_large"
    yield CONTENT_PROVISIONED, nested(65), "too_deep"
    yield CONTENT_PROVISIONED, nested(400_000), "too_deep"
    details = {"validation_error_detail": {"message": "m", "details": {"x": 0}}}
    for number in (b"NaN", b"1e999", b"1" + b"0" * 30):
        value = changed(GOOD[VALIDATION_FAILED], details).replace(b'{"x": 0}', b'{"x": ' + number + b"}")
        yield VALIDATION_FAILED, value, "invalid_field"


async def test_a_consumer_that_the_group_has_forgotten_is_made_anew(station: Station) -> None:
    """Its partitions are taken back, and the answer that would share them out anew never comes."""
    running = await station.start()
    running.consumer._options = replace(running.consumer._options, watchdog=1)
    await running.consumer.revoked(list(running.consumer._partitions))
    with pytest.raises(Stalled, match="no share of the group"):
        await asyncio.wait_for(running._task, BOUND)
    running.consumer._options = replace(running.consumer._options, watchdog=60)
    await running.fail_and_run_again()
    await until(lambda: running.partitions > 0, BOUND, lambda: "it was given no partition")
    await station.publish(CONTENT_PROVISIONED, content("b", "t"))
    await station.becomes("select count(*) from els.pending_content", 1)


async def test_a_broker_that_answers_nothing_any_more_is_connected_to_anew(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client itself would wait for its answers for 40 s, the time that a rebalance may take and more."""
    monkeypatch.setattr(consumer_module, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(membership_module, "SILENT_SECONDS", 1)
    running = await station.start()
    running.consumer._membership._options = replace(running.consumer._options, session_timeout=1)
    for connection in running.consumer._membership._client._client._conns.values():
        connection._writer.transport.pause_reading()
    with pytest.raises(Stalled, match="no word from the broker"):
        await asyncio.wait_for(running._task, BOUND)
    await running.fail_and_run_again()
    await until(lambda: running.partitions > 0, BOUND, lambda: "it was given no partition")
    await station.publish(CONTENT_PROVISIONED, content("b", "t"))
    await station.becomes("select count(*) from els.pending_content", 1)


async def test_a_large_record_that_takes_long_to_come_is_no_silence(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked meanwhile is answered behind it; a client that is made anew would begin with it again, for ever."""
    proxy = await Proxy(int(station.broker.bootstrap_servers.rpartition(":")[2])).start()
    await station.publish(CONTENT_PROVISIONED, content("b", "t"))  # the producer has its connections from now on
    monkeypatch.setattr("aiokafka.client.create_conn", partial(kafka_through, proxy))
    running = await station.start()
    await station.becomes(PENDING, 1)
    monkeypatch.setattr(membership_module, "SILENT_SECONDS", 1)
    running.consumer._membership._options = replace(running.consumer._options, session_timeout=1)
    proxy.slow(0.3)
    instructions = random.Random(1).randbytes(2 * MEBIBYTE).hex()
    await station.publish(BATCH_REGISTERED, registration("b", ["e1"], essay_instructions=instructions))
    await station.becomes("select count(*) from els.batches", 1)
    assert not running._task.done()
    proxy.flow()
    await station.stop()
    await proxy.stop()


async def test_a_coordinator_that_answers_no_commit_any_more_is_connected_to_anew_and_nothing_stays_behind(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records come all the while: they have connections of their own."""
    monkeypatch.setattr(membership_module, "SILENT_SECONDS", 1)
    await station.publish(CONTENT_PROVISIONED, content("b", "t1"))  # the producer has its connections from now on
    before = asyncio.all_tasks()
    running = await station.start()
    running.consumer._membership._options = replace(running.consumer._options, session_timeout=1)
    await station.all_committed()
    connections = running.consumer._membership._client._client._conns
    (coordinator,) = [each for (_, group), each in connections.items() if group == ConnectionGroup.COORDINATION]
    coordinator._writer.transport.pause_reading()
    await station.publish(CONTENT_PROVISIONED, content("b", "t2"))
    with pytest.raises(Stalled, match="no answer to a commit"):
        await asyncio.wait_for(running._task, BOUND)
    await until(lambda: asyncio.all_tasks() <= before, BOUND, lambda: f"left: {asyncio.all_tasks() - before}")
    await running.fail_and_run_again()
    await station.becomes("select count(*) from els.pending_content", 2)
    await station.all_committed()
    # The group may still wait for the client that is gone, and the other is asked to leave while it joins.
    await station.stop()
    assert asyncio.all_tasks() <= before


async def test_bad_inputs_are_kept_whole_with_their_reason_and_what_follows_is_applied(station: Station) -> None:
    bad = list(bad_inputs())
    for number, (topic, value, _) in enumerate(bad):
        await station.publish(topic, value, key=b"%d" % number)
        await station.publish(topic, *good_after(topic, number))
    await station.start()
    await station.all_committed()
    rows = station.conn.execute("select convert_from(key, 'utf8')::int, topic, value, reason from els.quarantine")
    found = {number: tuple(row) for number, *row in rows.fetchall()}
    for number, (topic, value, reason) in enumerate(bad):
        assert number in found, f"{number}: {reason} on {topic} is not there"
        assert (found[number][0], found[number][2]) == (topic, reason), f"{number}: {str(value)[:200]}"
        assert found[number][1] == value
    assert len(found) == len(bad)
    assert station.value("select count(*) from els.batches") == sum(topic == BATCH_REGISTERED for topic, *_ in bad)
    assert station.value(PENDING) == sum(topic == CONTENT_PROVISIONED for topic, *_ in bad)
    assert station.value("select count(*) from els.validation_failures") == sum(
        topic == VALIDATION_FAILED for topic, *_ in bad
    )


def good_after(topic: str, number: int) -> Sequence[bytes]:
    if topic == BATCH_REGISTERED:
        return [registration(f"good-{number}", ESSAYS)]
    if topic == CONTENT_PROVISIONED:
        return [content("unknown", f"t{number}")]
    return [failure("unknown", f"u{number}")]


async def test_what_breaks_the_transaction_and_what_contradicts_is_kept_and_the_rest_goes_on(station: Station) -> None:
    station.conn.execute("alter table els.pending_content add check (original_file_name <> 'poison')")
    await station.publish(BATCH_REGISTERED, registration("b", ESSAYS), registration("b", ["e1", "e3"]))
    await station.publish(CONTENT_PROVISIONED, *(content("c", f"t{number}") for number in range(20)))
    await station.publish(CONTENT_PROVISIONED, content("c", "bad", original_file_name="poison"), content("c", "last"))
    await station.start()
    await station.all_committed()
    assert sorted(reason for _, reason in station.refused()) == ["conflicting_registration", "data_error"]
    assert station.value(PENDING) == 21


# -- record batches that aiokafka can't read


async def test_records_with_a_header_whose_name_is_not_utf8_are_applied_or_kept_like_any_other(
    station: Station,
) -> None:
    for number, compression in enumerate(CODECS):
        values = [content("b", f"t{number}"), b"bad %d" % number, content("b", f"u{number}")]
        await station.publish_batch(CONTENT_PROVISIONED, record_batch(values, compression=compression), 3)
    await station.publish(CONTENT_PROVISIONED, content("b", "last"))
    await station.start()
    await station.all_committed()
    assert station.value(PENDING) == 2 * len(CODECS) + 1
    assert station.refused() == [(CONTENT_PROVISIONED, "not_json")] * len(CODECS)
    assert station.value("select headers from els.quarantine limit 1") == [["\\xff-name", "1"]]


async def test_a_batch_that_can_not_be_inflated_is_kept_and_what_follows_is_applied(unchecked: Station) -> None:
    built = record_batch([content("b", "t0")])
    batch = signed(built[:HEADER_BYTES], b"not what it says", 4)
    first = await unchecked.publish_batch(CONTENT_PROVISIONED, batch, 1)
    await unchecked.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await unchecked.start()
    await unchecked.all_committed()
    assert unchecked.value(PENDING) == 1
    assert unchecked.refused() == [(CONTENT_PROVISIONED, "unreadable")]
    assert unchecked.value("select value from els.quarantine").endswith(batch[21:])
    assert unchecked.value('select "offset" from els.quarantine') == first


async def test_a_batch_whose_checksum_never_fits_is_kept_once_and_what_follows_is_applied(unchecked: Station) -> None:
    await unchecked.publish(CONTENT_PROVISIONED, content("b", "t0"))
    batch = torn(record_batch([content("b", "t1"), content("b", "t2")]))
    await unchecked.publish_batch(CONTENT_PROVISIONED, batch, 2)
    await unchecked.publish(CONTENT_PROVISIONED, content("b", "t3"))
    await unchecked.start()
    await unchecked.all_committed()
    assert unchecked.value(PENDING) == 2
    assert unchecked.refused() == [(CONTENT_PROVISIONED, "unreadable")]
    assert unchecked.value("select deliveries from els.quarantine") == 1


async def test_a_batch_whose_checksum_fits_when_it_is_fetched_again_is_applied(
    judge: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = judge.broker.segment(CONTENT_PROVISIONED, 0)
    if segment is None:
        pytest.skip("this broker's files are out of reach")
    monkeypatch.setattr(partitions, "FETCHES", 1_000_000)
    whole = record_batch([content("b", "t0"), content("b", "t1")], name=b"a-name")
    await judge.publish_batch(CONTENT_PROVISIONED, whole, 2)
    await judge.publish(CONTENT_PROVISIONED, content("b", "t2"))
    flip(segment, len(whole) - 1)
    running = await judge.start()
    partition = running.consumer._partitions[TopicPartition(CONTENT_PROVISIONED, 0)]
    await until(lambda: partition.doubted[1] > 2, BOUND, lambda: "it is not fetched again")
    assert judge.value(PENDING) == 0
    flip(segment, len(whole) - 1)
    await judge.all_committed()
    assert (judge.value(PENDING), judge.refused()) == (3, [])


@pytest.mark.parametrize(("times", "there"), [(3, 3), (10_000, 2)])
async def test_what_a_fetch_went_past_is_fetched_again_and_not_waited_for_for_ever(
    station: Station, times: int, there: int
) -> None:
    """As the embedded broker does where two producers write at once; what is missing for good is gone past."""
    running = await station.start()
    fetch = running.consumer._membership._client.getmany
    hidden: list[Any] = []

    async def going_past(*tps: TopicPartition, **options: Any) -> dict[TopicPartition, list[Any]]:
        got: dict[TopicPartition, list[Any]] = await fetch(*tps, **options)
        for tp, records in got.items():
            if tp.topic == CONTENT_PROVISIONED and records and records[0].offset == 1 and len(hidden) < times:
                hidden.append(records[0])
                got[tp] = records[1:]
        return got

    running.consumer._membership._client.getmany = going_past
    await station.publish(CONTENT_PROVISIONED, content("b", "t0"))
    await station.all_committed()
    await station.publish(CONTENT_PROVISIONED, content("b", "t1"), content("b", "t2"))
    await station.all_committed()
    assert len(hidden) == min(times, partitions.GAP_FETCHES)
    assert station.value(PENDING) == there


async def test_the_marks_that_transactions_leave_in_a_log_hold_up_nothing(judge: Station) -> None:
    running = await judge.start()
    async with AIOKafkaProducer(
        bootstrap_servers=judge.broker.bootstrap_servers, transactional_id=f"upstream-{uuid4()}"
    ) as producer:
        for number in range(30):
            async with producer.transaction():
                sent = await producer.send_and_wait(CONTENT_PROVISIONED, content("b", f"t{number}"), b"b", partition=0)
    assert sent.offset == 58
    await judge.becomes(PENDING, 30)
    assert running.consumer._partitions[TopicPartition(CONTENT_PROVISIONED, 0)].gaps_until > 0


def flip(file: Path, place: int) -> None:
    """Change one byte, or change it back."""
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 1]))


# -- offsets


async def test_offsets_are_committed_after_the_database_has_the_records(station: Station) -> None:
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    await station.publish(CONTENT_PROVISIONED, content("free", "t0"))
    with psycopg.connect(station.conn.info.dsn, password=station.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await station.publish(CONTENT_PROVISIONED, content("held", "t1"))
        await station.publish(CONTENT_PROVISIONED, content("free", "t2"))
        await station.publish(CONTENT_PROVISIONED, content("free", "t3"), partition=1)
        running = await station.start()
        await station.becomes("select count(*) from els.pending_content where text_storage_id in ('t0', 't3')", 2)

        async def committed_to_the_held_one() -> bool:
            return await station.committed(tp, TopicPartition(CONTENT_PROVISIONED, 1)) == {
                tp: 1,
                TopicPartition(CONTENT_PROVISIONED, 1): 1,
            }

        await until(committed_to_the_held_one, BOUND, lambda: "the offsets are elsewhere", every=0.1)
        # Its partition is read on; what comes for the same batch waits behind it.
        behind = await station.publish(CONTENT_PROVISIONED, content("held", "t4"), content("free", "t5"))
        await station.becomes("select count(*) from els.pending_content where text_storage_id in ('t2', 't5')", 2)
        assert (await station.committed(tp))[tp] == 1
        assert running.health.ready
        assert station.value("select count(*) from els.pending_content where batch_id = 'held'") == 0
    await station.all_committed()
    assert (await station.committed(tp))[tp] == behind + 1
    in_order = (
        "select string_agg(text_storage_id, ' ' order by arrival) from els.pending_content where batch_id = 'held'"
    )
    assert station.value(in_order) == "t1 t4"
    assert station.value(PENDING) == 6


async def test_a_record_that_is_held_when_the_consumer_stops_is_taken_by_the_next(judge: Station) -> None:
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.publish(CONTENT_PROVISIONED, content("free", "t0"), content("held", "t1"), content("free", "t2"))
        await judge.start()
        await judge.becomes("select count(*) from els.pending_content where text_storage_id = 't0'", 1)
        await judge.stop()
        tp = TopicPartition(CONTENT_PROVISIONED, 0)
        assert (await judge.committed(tp)).get(tp, 0) <= 1
    await judge.start()
    await judge.all_committed()
    assert judge.value(PENDING) == 3


async def test_a_consumer_that_fails_and_is_run_again_takes_what_was_held_when_it_ended(judge: Station) -> None:
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.publish(CONTENT_PROVISIONED, content("held", "t0"), content("free", "t1"))
        running = await judge.start()
        await judge.becomes("select count(*) from els.pending_content where text_storage_id = 't1'", 1)
        await running.fail_and_run_again()
    await judge.publish(CONTENT_PROVISIONED, content("held", "t2"))
    await judge.all_committed()
    assert judge.value(PENDING) == 3


async def test_consumers_that_come_and_go_while_records_flow_lose_none(
    judge: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fetches are under way at every rebalance.
    monkeypatch.setattr(consumer_module, "POLL_MS", 3_000)
    numbers = iter(range(1_000_000))
    flowing = True

    async def flow() -> None:
        while flowing:
            for partition in range(3):
                texts = [content("b", f"t{next(numbers)}") for _ in range(5)]
                await judge.publish(CONTENT_PROVISIONED, *texts, partition=partition)

    await judge.start()
    task = asyncio.create_task(flow())
    for _ in range(3):
        joined = await judge.start()
        await moves(joined)
        leaving = judge.running.pop(0)
        await leaving.stop()
        await moves(joined)
    flowing = False
    await task
    await judge.all_committed()
    assert judge.value(PENDING) == next(numbers)
    assert judge.refused() == []
    await judge.stop()
    assert judge.value("select count(*) from els.crash_marks") == 0


async def moves(running: Running) -> None:
    before = len(running.effects)
    await until(lambda: len(running.effects) > before, BOUND, lambda: "it gets nothing")


async def test_while_a_poll_is_in_the_database_the_next_one_takes_all_that_comes(station: Station) -> None:
    """Many small transactions would cost more than one, and keep what comes waiting for longer."""
    running = await station.start()
    intake, sizes, gate = running.consumer._intake, list[int](), asyncio.Event()
    take = intake.take

    async def held_at_first(deliveries: Sequence[Any], **how: Any) -> Any:
        sizes.append(len(deliveries))
        if len(sizes) == 1:
            await gate.wait()
        return await take(deliveries, **how)

    intake.take = held_at_first  # type: ignore[method-assign]
    await station.publish(CONTENT_PROVISIONED, content("a", "text-0"))
    await until(lambda: sizes == [1], BOUND, lambda: "the first did not come")
    for number in range(1, 4):
        last = await station.publish(CONTENT_PROVISIONED, content("a", f"text-{number}"))

        async def is_read(last: int = last) -> bool:
            position: int = await running.consumer._membership._client.position(TopicPartition(CONTENT_PROVISIONED, 0))
            return position == last + 1

        await until(is_read, BOUND, lambda: "what came meanwhile was not read")
    gate.set()
    await station.all_committed()
    assert sizes == [1, 3]


async def test_fetches_wait_longer_where_nothing_comes(station: Station) -> None:
    running = await station.start()

    def waits(milliseconds: int) -> bool:
        return bool(running.consumer._membership._client._fetcher._fetch_max_wait_ms == milliseconds)

    await until(lambda: waits(100), BOUND, lambda: "fetches do not wait longer")
    await station.publish(CONTENT_PROVISIONED, content("a", "text"))
    await until(lambda: waits(10), BOUND, lambda: "fetches wait long although something came", every=0.01)


async def test_a_poll_ends_when_it_weighs_enough(judge: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "SLICE", 1)
    monkeypatch.setattr(consumer_module, "POLL_BYTES", MEBIBYTE)
    # All are there at once: compressed, they are one small record batch.
    values = [content("b", f"t{number}", original_file_name="x" * 300_000) for number in range(12)]
    await judge.publish_batch(CONTENT_PROVISIONED, record_batch(values, compression="gzip"), len(values))
    running = await judge.start()
    await judge.all_committed()
    assert judge.value(PENDING) == 12
    assert max(len(effects.decisions) for effects in running.effects) <= 4


async def test_suspects_that_a_rebalance_took_away_and_brought_back_are_not_gone_past(
    judge: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    judge.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, pod, marked_at)
        values (%s, 0, 0, null, 0, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    commit, reached, go = Consumer._commit, asyncio.Event(), asyncio.Event()

    async def slow_to_commit(consumer: Consumer) -> None:
        if not reached.is_set():
            reached.set()
            await go.wait()
        await commit(consumer)

    monkeypatch.setattr(consumer_module, "COMMIT_SECONDS", 3600)  # so that it is the suspects' commit
    monkeypatch.setattr(Consumer, "_commit", slow_to_commit)
    running = await judge.start()
    await asyncio.wait_for(reached.wait(), BOUND)
    before = running.consumer._partitions[tp]
    joined = await judge.start()
    judge.running.remove(joined)
    await joined.stop()
    await until(lambda: running.partitions == 9, BOUND, lambda: "it has not all of them again")
    assert running.consumer._partitions[tp] is not before
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.publish(CONTENT_PROVISIONED, *(content("free", f"t{number}") for number in range(3)))
        await judge.publish(CONTENT_PROVISIONED, content("held", "t"), content("free", "t3"))
        go.set()
        await judge.becomes("select count(*) from els.pending_content where batch_id = 'free'", 4)
        await commit(running.consumer)
        assert (await judge.committed(tp)).get(tp, 0) <= 3
    await judge.becomes(PENDING, 5)


async def test_whose_partitions_are_shared_out_anew_is_not_ready(judge: Station) -> None:
    running = await judge.start()
    assert running.health.ready
    await running.consumer.revoked(list(running.consumer._partitions))
    assert (running.health.ready, running.partitions) == (False, 0)


# -- topics that bring nothing else


async def test_a_topic_that_brings_nothing_but_refusals_stops_and_what_follows_is_taken_when_it_is_resumed(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A fetch is under way when the partition is rewound: what it would bring must not be lost.
    monkeypatch.setattr(consumer_module, "POLL_MS", 3_000)
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    await station.publish(CONTENT_PROVISIONED, *(b"%d" % number for number in range(LIMIT)))
    await station.publish(CONTENT_PROVISIONED, content("b", "t0"), content("b", "t1"))
    running = await station.start(LIMIT)
    await until(
        lambda: CONTENT_PROVISIONED in str(running.health.parts.get("topics")), BOUND, lambda: "it does not stop"
    )
    await station.publish(BATCH_REGISTERED, registration("b", ["e1", "e2"]))
    await station.becomes("select count(*) from els.batches", 1)

    async def committed() -> bool:
        return (await station.committed(tp)).get(tp) == LIMIT

    await until(committed, BOUND, lambda: "its offset is elsewhere", every=0.1)
    assert (len(station.refused()), station.value("select sum(assigned) from els.batches")) == (LIMIT, 0)

    async with running.database.transaction() as conn:
        assert await resume_topic(conn, CONTENT_PROVISIONED)
    await station.all_committed()
    assert station.value("select state from els.batches") == "ready"
    assert running.health.ready


async def test_a_stopped_topic_goes_on_by_itself_when_a_probe_finds_a_good_record(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "PROBE_SECONDS", 0.0)
    await station.publish(CONTENT_PROVISIONED, *(b"%d" % number for number in range(LIMIT)))
    await station.publish(CONTENT_PROVISIONED, content("b", "t0"), b"bad", content("b", "t1"))
    running = await station.start(LIMIT)
    await station.all_committed()
    assert station.value(PENDING) == 2
    assert len(station.refused()) == LIMIT + 1
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


async def test_a_good_record_whose_batch_waits_for_others_ends_the_stop_of_its_topic(
    judge: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When the topic stops, a fetch is under way that brings the record.
    monkeypatch.setattr(consumer_module, "POLL_MS", 3_000)
    monkeypatch.setattr(consumer_module, "PROBE_SECONDS", 0.0)
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        running = await judge.start(LIMIT)
        await judge.publish(CONTENT_PROVISIONED, content("held", "t0"), partition=1)
        await until(lambda: "held" in running.consumer._behind, BOUND, lambda: "it does not wait")
        await judge.publish(CONTENT_PROVISIONED, *(b"%d" % number for number in range(LIMIT)))
        await until(lambda: bool(running.consumer._stopped), BOUND, lambda: "it does not stop")
        await judge.publish(CONTENT_PROVISIONED, content("held", "t1"))
        await until(lambda: not running.consumer._stopped, BOUND, lambda: "it does not go on")
        assert judge.value(PENDING) == 0
    await judge.all_committed()
    assert (judge.value(PENDING), len(judge.refused())) == (2, LIMIT)


# -- the record that kills the process


@pytest.mark.parametrize("mine", ["decode", "apply"])
async def test_a_record_that_kills_the_process_is_refused_when_it_was_alone_in_three_deaths(
    tmp_path: Path, judge: Station, mine: str
) -> None:
    records = [content("b", f"t{number}") for number in range(40)]
    records[23] = content("b", "mine")
    await judge.publish(CONTENT_PROVISIONED, *records)
    settings = {
        "ELS_DATABASE_URL": judge.app_url,
        **judge.broker.settings,
        "ELS_CONSUMER_GROUP": judge.group,
        "ELS_SESSION_TIMEOUT_SECONDS": "1",
        "ELS_MAX_POLL_RECORDS": "16",
        "MINE": mine,
    }
    deaths = 0
    with pods(tmp_path, settings) as started:
        while deaths <= 5:
            (pod,) = started.start(module="tests.support.mined_pod")
            if await dies_or(pod, lambda: judge.value(PENDING) == 39):
                deaths += 1
            else:
                break
        # Once in a poll of 16, whose sixteenth is one record, then three times with that alone.
        assert 4 <= deaths <= 5
        await judge.all_committed()
        assert judge.refused() == [(CONTENT_PROVISIONED, "killed_the_process")]
        assert judge.value("select value from els.quarantine") == records[23]
        pod.terminate()
        assert await pod.ended() == 0
    assert judge.value("select count(*) from els.crash_marks") == 0


async def dies_or(pod: Pod, condition: Callable[[], bool]) -> bool:
    """Wait until a pod is dead or this is so; returns whether it is dead."""
    process = pod._process
    assert process is not None
    await until(lambda: process.poll() is not None or condition(), BOUND, pod.last_lines)
    if process.poll() is None:
        return False
    assert killed(process.returncode), pod.last_lines()
    return True


async def test_whoever_is_told_to_stop_leaves_no_suspicion_behind(judge: Station) -> None:
    await judge.publish(CONTENT_PROVISIONED, content("held", "t0"), content("free", "t1"))
    judge.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, in_hand, pod, marked_at)
        values (%s, 0, 0, 1, 1, true, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        await judge.start()
        # Alone in hand once more, and two deaths to its name: one more would convict it.
        await judge.becomes("select deaths from els.crash_marks where records = 1", 2)
        await judge.stop()
        assert judge.value("select count(*) from els.crash_marks") == 0
    await judge.start()
    await judge.all_committed()
    assert (judge.value(PENDING), judge.refused()) == (2, [])


async def test_a_suspect_that_is_tried_while_the_database_comes_and_goes_is_not_convicted_of_that(
    judge: Station,
) -> None:
    await judge.publish(CONTENT_PROVISIONED, content("b", "t0"), content("b", "t1"))
    judge.conn.execute(
        """insert into els.crash_marks (topic, "partition", "offset", records, deaths, in_hand, pod, marked_at)
        values (%s, 0, 0, 1, 1, true, 'dead', now())""",
        [CONTENT_PROVISIONED],
    )
    # Each time that the suspect is marked, the session ends; the third time all is well again.
    judge.conn.execute("""
        create sequence public.tries;
        create function public.end_session() returns trigger language plpgsql security definer as $$
        begin
            if new.records = 1 and nextval('public.tries') <= 2 then
                perform pg_terminate_backend(pg_backend_pid());
            end if;
            return new;
        end $$;
        create trigger ending after update on els.crash_marks
            for each row when (new.deaths < 9) execute function public.end_session();
    """)
    for _ in range(5):
        started = Running(judge.app_url, judge.broker, judge.group, 1_000)
        task = started._task
        await until(
            lambda task=task: task.done() or judge.value(PENDING) == 2,  # type: ignore[misc]
            BOUND,
            lambda: "neither done nor failed",
        )
        if not task.done():
            await started.stop()
            break
        assert isinstance(task.exception(), psycopg.Error)
        await started.database.close()
    assert (judge.value(PENDING), judge.refused()) == (2, [])


# -- servers that go away


async def test_while_the_database_is_away_the_consumer_is_not_ready_and_then_goes_on(
    durable_postgres: Postgres, kafka: Broker
) -> None:
    url = durable_postgres.url()
    migration.upgrade(url)
    async with station_at(url, url, kafka) as station:
        running = await station.start()
        await station.publish(CONTENT_PROVISIONED, content("b", "t0"))
        await station.becomes(PENDING, 1)
        durable_postgres.kill()
        await station.publish(CONTENT_PROVISIONED, *(content("b", f"t{number}") for number in range(1, 9)))
        await until(lambda: not running.health.ready, BOUND, lambda: "it believes that all is well")
        durable_postgres.start()
        station.conn = psycopg.connect(url, autocommit=True)
        await station.all_committed()
        assert station.value(PENDING) == 9
        await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
        assert violations(station.conn) == []


async def test_while_the_broker_is_away_the_consumer_is_not_ready_and_then_goes_on(station: Station) -> None:
    if not station.broker.keeps_records:
        pytest.skip("this broker forgets its topics when it dies")
    running = await station.start()
    await running.fail_and_run_again()  # it will, if the broker is away for long
    await station.publish(CONTENT_PROVISIONED, content("b", "t0"))
    await station.becomes(PENDING, 1)
    station.broker.kill()
    await until(lambda: not running.health.ready, BOUND, lambda: "it believes that all is well")
    await asyncio.to_thread(station.broker.start)
    await station.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await station.becomes(PENDING, 2)
    await station.all_committed()
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


# -- the process


async def test_a_pod_that_is_told_to_stop_while_it_is_connecting_ends_in_time(tmp_path: Path, judge: Station) -> None:
    # A client that starts waits long for topics that are missing.
    await delete_topics(judge.broker.bootstrap_servers)
    settings = {"ELS_DATABASE_URL": judge.app_url, **judge.broker.settings, "ELS_CONSUMER_GROUP": judge.group}
    with pods(tmp_path, settings) as started:
        (pod,) = started.start()
        await until(lambda: any(line.get("event") == "started" for line in pod.logged()), BOUND, pod.last_lines)
        pod.terminate()
        assert await pod.ended(20) == 0


async def test_a_pod_that_is_told_to_stop_finishes_what_it_has_in_hand_and_leaves_the_group(
    tmp_path: Path, judge: Station
) -> None:
    settings = {
        "ELS_DATABASE_URL": judge.app_url,
        **judge.broker.settings,
        "ELS_CONSUMER_GROUP": judge.group,
        "ELS_SESSION_TIMEOUT_SECONDS": "30",  # who does not leave is waited for so long
    }
    with pods(tmp_path, settings) as started:
        (pod,) = started.start()
        await pod.ready()
        with psycopg.connect(judge.conn.info.dsn, password=judge.conn.info.password) as other:
            other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
            await judge.publish(CONTENT_PROVISIONED, content("free", "t0"), content("held", "t1"))
            await judge.becomes(PENDING, 1)
            pod.terminate()
            assert await pod.ended() == 0
        assert judge.value("select count(*) from els.crash_marks") == 0
        (successor,) = started.start()
        await asyncio.wait_for(judge.all_committed(), 20)
        assert judge.value(PENDING) == 2
        successor.terminate()
        assert await successor.ended() == 0
        assert started.complaints() == []
