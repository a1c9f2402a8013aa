"""Tests rejected records on a real broker: each is quarantined with its reason, and too many in a row pause a topic."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from deploy.servers.pods import until
from service.consumer import partitions, paused_topics, reader
from service.domain.input_limits import KEPT_BYTES, WHOLE_BYTES
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED
from service.store.quarantine import resume_topic
from tests.support.builders.batches import CODECS, HEADER_BYTES, corrupt, record_batch, signed
from tests.support.builders.inputs import MEBIBYTE, content, failure, registration
from tests.support.pods.running_consumer import BOUND, PENDING, ConsumerFixture

LIMIT = 5
"""Consecutive rejections that pause a topic, in the tests about that."""


# -- the table of invalid inputs


def changed(value: bytes, data: dict[str, Any] | None = None, **envelope: Any) -> bytes:
    """The same event with other fields; None removes a field of the envelope."""
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


def invalid_inputs() -> Iterable[tuple[str, bytes | None, str]]:
    """(topic, value, reason), at least one for each line of the specification."""
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


async def test_invalid_inputs_are_quarantined_with_their_reason_and_later_records_are_applied(
    consumers: ConsumerFixture,
) -> None:
    bad = list(invalid_inputs())
    for number, (topic, value, _) in enumerate(bad):
        await consumers.publish(topic, value, key=b"%d" % number)
        await consumers.publish(topic, *valid_after(topic, number))
    await consumers.start()
    await consumers.all_committed()
    rows = consumers.conn.execute("select convert_from(key, 'utf8')::int, topic, value, reason from els.quarantine")
    found = {number: tuple(row) for number, *row in rows.fetchall()}
    for number, (topic, value, reason) in enumerate(bad):
        assert number in found, f"{number}: {reason} on {topic} is not there"
        assert (found[number][0], found[number][2]) == (topic, reason), f"{number}: {str(value)[:200]}"
        kept = value[:KEPT_BYTES] if value and len(value) > WHOLE_BYTES else value
        assert found[number][1] == kept, f"{number}: another value is kept"
    assert len(found) == len(bad)
    assert consumers.value("select count(*) from els.batches") == sum(topic == BATCH_REGISTERED for topic, *_ in bad)
    assert consumers.value(PENDING) == sum(topic == CONTENT_PROVISIONED for topic, *_ in bad)
    assert consumers.value("select count(*) from els.validation_failures") == sum(
        topic == VALIDATION_FAILED for topic, *_ in bad
    )


def valid_after(topic: str, number: int) -> Sequence[bytes]:
    if topic == BATCH_REGISTERED:
        return [registration(f"good-{number}", ESSAYS)]
    if topic == CONTENT_PROVISIONED:
        return [content("unknown", f"t{number}")]
    return [failure("unknown", f"u{number}")]


async def test_data_errors_and_conflicting_registrations_are_quarantined_and_the_rest_is_applied(
    consumers: ConsumerFixture,
) -> None:
    consumers.conn.execute("alter table els.pending_content add check (original_file_name <> 'poison')")
    await consumers.publish(BATCH_REGISTERED, registration("b", ESSAYS), registration("b", ["e1", "e3"]))
    await consumers.publish(CONTENT_PROVISIONED, *(content("c", f"t{number}") for number in range(20)))
    await consumers.publish(CONTENT_PROVISIONED, content("c", "bad", original_file_name="poison"), content("c", "last"))
    await consumers.start()
    await consumers.all_committed()
    assert sorted(reason for _, reason in consumers.rejected()) == ["conflicting_registration", "data_error"]
    assert consumers.value(PENDING) == 21


# -- record batches that aiokafka can't read


async def test_records_with_a_header_name_that_is_not_utf8_are_applied_or_quarantined_like_others(
    consumers: ConsumerFixture,
) -> None:
    for number, compression in enumerate(CODECS):
        values = [content("b", f"t{number}"), b"bad %d" % number, content("b", f"u{number}")]
        await consumers.publish_batch(CONTENT_PROVISIONED, record_batch(values, compression=compression), 3)
    await consumers.publish(CONTENT_PROVISIONED, content("b", "last"))
    await consumers.start()
    await consumers.all_committed()
    assert consumers.value(PENDING) == 2 * len(CODECS) + 1
    assert consumers.rejected() == [(CONTENT_PROVISIONED, "not_json")] * len(CODECS)
    assert consumers.value("select headers from els.quarantine limit 1") == [["\\xff-name", "1"]]


async def test_a_record_batch_that_cannot_be_inflated_is_quarantined_and_later_records_are_applied(
    lenient_consumers: ConsumerFixture,
) -> None:
    built = record_batch([content("b", "t0")])
    batch = signed(built[:HEADER_BYTES], b"not what it says", 4)
    first = await lenient_consumers.publish_batch(CONTENT_PROVISIONED, batch, 1)
    await lenient_consumers.publish(CONTENT_PROVISIONED, content("b", "t1"))
    await lenient_consumers.start()
    await lenient_consumers.all_committed()
    assert lenient_consumers.value(PENDING) == 1
    assert lenient_consumers.rejected() == [(CONTENT_PROVISIONED, "unreadable")]
    assert lenient_consumers.value("select value from els.quarantine").endswith(batch[21:])
    assert lenient_consumers.value('select "offset" from els.quarantine') == first


async def test_a_corrupt_record_batch_is_quarantined_once_and_later_records_are_applied(
    lenient_consumers: ConsumerFixture,
) -> None:
    await lenient_consumers.publish(CONTENT_PROVISIONED, content("b", "t0"))
    batch = corrupt(record_batch([content("b", "t1"), content("b", "t2")]))
    await lenient_consumers.publish_batch(CONTENT_PROVISIONED, batch, 2)
    await lenient_consumers.publish(CONTENT_PROVISIONED, content("b", "t3"))
    await lenient_consumers.start()
    await lenient_consumers.all_committed()
    assert lenient_consumers.value(PENDING) == 2
    assert lenient_consumers.rejected() == [(CONTENT_PROVISIONED, "unreadable")]
    assert lenient_consumers.value("select deliveries from els.quarantine") == 1


async def test_a_record_batch_that_is_intact_when_it_is_fetched_again_is_applied(
    strict_consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = strict_consumers.broker.segment(CONTENT_PROVISIONED, 0)
    if segment is None:
        pytest.skip("the files of this broker cannot be changed")
    monkeypatch.setattr(partitions, "FETCHES", 1_000_000)
    whole = record_batch([content("b", "t0"), content("b", "t1")], name=b"a-name")
    await strict_consumers.publish_batch(CONTENT_PROVISIONED, whole, 2)
    await strict_consumers.publish(CONTENT_PROVISIONED, content("b", "t2"))
    flip(segment, len(whole) - 1)
    running = await strict_consumers.start()
    partition = running.consumer._assignment.partitions[TopicPartition(CONTENT_PROVISIONED, 0)]
    await until(lambda: partition.refetched[1] > 2, BOUND, lambda: "it is not fetched again")
    assert strict_consumers.value(PENDING) == 0
    flip(segment, len(whole) - 1)
    await strict_consumers.all_committed()
    assert (strict_consumers.value(PENDING), strict_consumers.rejected()) == (3, [])


@pytest.mark.parametrize(("times", "there"), [(3, 3), (10_000, 2)])
async def test_missing_offsets_are_fetched_again_a_limited_number_of_times(
    consumers: ConsumerFixture, times: int, there: int
) -> None:
    """The embedded broker skips records while two producers write at once. Permanently missing offsets are accepted."""
    running = await consumers.start()
    fetch = running.consumer._assignment.membership._client.getmany
    hidden: list[Any] = []

    async def skipping(*tps: TopicPartition, **options: Any) -> dict[TopicPartition, list[Any]]:
        got: dict[TopicPartition, list[Any]] = await fetch(*tps, **options)
        for tp, batches in got.items():
            if tp.topic == CONTENT_PROVISIONED and batches and batches[0].offset == 1 and len(hidden) < times:
                hidden.append(batches[0])
                got[tp] = batches[1:]
        return got

    running.consumer._assignment.membership._client.getmany = skipping
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t0"))
    await consumers.all_committed()
    for text in ("t1", "t2"):  # each in a record batch of its own
        await consumers.publish(CONTENT_PROVISIONED, content("b", text))
    await consumers.all_committed()
    assert len(hidden) == min(times, partitions.GAP_FETCHES)
    assert consumers.value(PENDING) == there


@pytest.mark.only_in_test_all("transactions, which the embedded broker often answers with an error")
async def test_the_markers_of_transactions_in_a_log_do_not_block_the_consumer(
    strict_consumers: ConsumerFixture,
) -> None:
    if not strict_consumers.broker.keeps_records:
        pytest.skip("this broker often answers the request for a transactional producer with an error")
    running = await strict_consumers.start()
    async with AIOKafkaProducer(
        bootstrap_servers=strict_consumers.broker.bootstrap_servers, transactional_id=f"upstream-{uuid4()}"
    ) as producer:
        for number in range(30):
            async with producer.transaction():
                sent = await producer.send_and_wait(CONTENT_PROVISIONED, content("b", f"t{number}"), b"b", partition=0)
    assert sent.offset == 58
    await strict_consumers.becomes(PENDING, 30)
    assert running.consumer._assignment.partitions[TopicPartition(CONTENT_PROVISIONED, 0)].gaps_until == 0, (
        "markers are no gaps"
    )


def flip(file: Path, place: int) -> None:
    """Change one byte, or change it back."""
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ 1]))


# -- paused topics


async def test_consecutive_rejections_pause_a_topic_and_its_records_are_applied_when_it_is_resumed(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a fetch is in progress when the partition is rewound: its records must not be lost.
    monkeypatch.setattr(reader, "POLL_MS", 3_000)
    tp = TopicPartition(CONTENT_PROVISIONED, 0)
    await consumers.publish(CONTENT_PROVISIONED, *(b"%d" % number for number in range(LIMIT)))
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t0"), content("b", "t1"))
    running = await consumers.start(LIMIT)
    await until(
        lambda: CONTENT_PROVISIONED in str(running.health.parts.get("topics")), BOUND, lambda: "it is not paused"
    )
    await consumers.publish(BATCH_REGISTERED, registration("b", ["e1", "e2"]))
    await consumers.becomes("select count(*) from els.batches", 1)

    async def committed() -> bool:
        return (await consumers.committed(tp)).get(tp) == LIMIT

    await until(committed, BOUND, lambda: "another offset is committed", every=0.1)
    assert (len(consumers.rejected()), consumers.value("select sum(assigned) from els.batches")) == (LIMIT, 0)

    async with running.database.transaction() as conn:
        assert await resume_topic(conn, CONTENT_PROVISIONED)
    await consumers.all_committed()
    assert consumers.value("select state from els.batches") == "ready"
    assert running.health.ready


async def test_a_probe_with_a_valid_record_ends_the_pause_of_a_topic(
    consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paused_topics, "PROBE_SECONDS", 0.0)
    await consumers.publish(CONTENT_PROVISIONED, *(b"%d" % number for number in range(LIMIT)))
    await consumers.publish(CONTENT_PROVISIONED, content("b", "t0"), b"bad", content("b", "t1"))
    running = await consumers.start(LIMIT)
    await consumers.all_committed()
    assert consumers.value(PENDING) == 2
    assert len(consumers.rejected()) == LIMIT + 1
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))


async def test_a_valid_record_of_a_deferred_batch_ends_the_pause_of_its_topic(
    strict_consumers: ConsumerFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that a fetch that returns the record is in progress when the topic pauses.
    monkeypatch.setattr(reader, "POLL_MS", 3_000)
    monkeypatch.setattr(paused_topics, "PROBE_SECONDS", 0.0)
    with psycopg.connect(strict_consumers.conn.info.dsn, password=strict_consumers.conn.info.password) as other:
        other.execute("select pg_advisory_xact_lock(hashtextextended('held', 0))")
        running = await strict_consumers.start(LIMIT)
        await strict_consumers.publish(CONTENT_PROVISIONED, content("held", "t0"), partition=1)
        await until(lambda: "held" in running.consumer._deferred.batch_ids, BOUND, lambda: "it is not deferred")
        await strict_consumers.publish(CONTENT_PROVISIONED, *(b"%d" % number for number in range(LIMIT)))
        await until(lambda: bool(running.consumer._paused.names), BOUND, lambda: "it is not paused")
        await strict_consumers.publish(CONTENT_PROVISIONED, content("held", "t1"))
        await until(lambda: not running.consumer._paused.names, BOUND, lambda: "it is not resumed")
        assert strict_consumers.value(PENDING) == 0
    await strict_consumers.all_committed()
    assert (strict_consumers.value(PENDING), len(strict_consumers.rejected())) == (2, LIMIT)
