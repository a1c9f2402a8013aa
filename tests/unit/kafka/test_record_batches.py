"""Tests that every record of a fetch is returned once, whatever its bytes: readable, or as raw bytes with a reason."""

import asyncio
import tracemalloc
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.delivery import Unreadable, fingerprint
from service.domain.events import Reason
from service.domain.input_limits import DEFAULT_LIMITS, KEPT_BYTES, WHOLE_BYTES
from service.domain.topics import CONTENT_PROVISIONED
from service.kafka.deliveries import open_batch
from service.kafka.record_batches import Records
from service.kafka.unpacking import SMALL_BYTES, Bytes
from tests.support.builders import hostile
from tests.support.builders.batches import CODECS, HEADER_BYTES, at, corrupt, record_batch, signed

VALUES = [b"first", None, b"third"]
TP = TopicPartition(CONTENT_PROVISIONED, 0)


def read(data: bytes) -> list[Any]:
    """Takes the batches of a fetch as aiokafka does, and unpacks them as the consumer does."""
    records, found = Records(data), []
    while records.has_next():
        batch = records.next_batch()
        assert batch.validate_crc()
        if batch.is_control_batch:
            continue
        (fetched,) = batch
        assert (fetched.offset, fetched.value) == (batch.next_offset - 1, batch)
        found += asyncio.run(unpacked(batch))
        assert not found or found[-1].offset < batch.next_offset
    return found


async def unpacked(batch: Any) -> list[Any]:
    opened, found = await open_batch(TP, batch, DEFAULT_LIMITS), []
    while not opened.is_done:
        taken, _ = await opened.take(7, DEFAULT_LIMITS.poll_bytes)
        found += taken
    return found


def unreadable(record: Any) -> Unreadable:
    assert isinstance(record.value, Unreadable)
    return record.value


@pytest.mark.parametrize("compression", CODECS)
def test_records_that_aiokafka_can_read_are_read_like_it(compression: str) -> None:
    data = record_batch(VALUES, compression=compression, name=b"a-name")
    data += at(3, record_batch([b"fourth"], name=b"a-name"))
    expected = MemoryRecords(data)
    wanted = [record for _ in range(2) for record in expected.next_batch() or ()]
    found = read(data + b"the next is cut off")
    assert [[each.offset, each.key, each.value, list(each.headers), each.timestamp] for each in found] == [
        [each.offset, each.key, each.value, list(each.headers), each.timestamp] for each in wanted
    ]


@pytest.mark.parametrize("compression", CODECS)
def test_records_with_a_header_name_that_is_not_utf8_are_read(compression: str) -> None:
    data = record_batch([b"before"], name=b"a-name") + at(1, record_batch(VALUES, compression=compression))
    found = read(data + at(4, record_batch([b"behind"], name=b"a-name")))
    assert [record.value for record in found] == [b"before", *VALUES, b"behind"]
    assert [record.offset for record in found] == [0, 1, 2, 3, 4]
    assert found[1].headers == [("\\xff-name", b"1")]
    assert found[1].key == b"key"


def test_records_before_the_first_header_name_that_is_not_utf8_are_returned_once() -> None:
    body = record_batch(VALUES, name=b"a-name")
    header, records = body[:HEADER_BYTES], body[HEADER_BYTES:]
    last = records.rindex(b"a-name")
    found = read(signed(header, records[:last] + b"\xff" + records[last + 1 :]))
    assert [record.value for record in found] == VALUES
    assert [record.headers[0][0] for record in found] == ["a-name", "a-name", "\\xff-name"]


def test_a_corrupt_batch_is_one_record_at_its_last_offset_and_the_next_batch_is_read() -> None:
    damaged = at(5, corrupt(record_batch(VALUES)))
    (first, second) = read(damaged + at(8, record_batch([b"behind"])))
    assert (first.offset, second.offset, second.value) == (7, 8, b"behind")
    value = unreadable(first)
    assert (bytes(value), value.first, value.corrupt) == (damaged, 5, True)
    assert "5 to 7" in value.why


def test_a_corrupt_batch_with_the_control_attribute_is_not_skipped() -> None:
    batch = bytearray(record_batch(VALUES))
    batch[22] |= 0x20  # an attribute, which the checksum covers
    (record,) = read(bytes(batch))
    assert unreadable(record).corrupt


def test_one_malformed_record_does_not_affect_the_others() -> None:
    whole = record_batch(VALUES)
    header, records = whole[:HEADER_BYTES], bytearray(whole[HEADER_BYTES:])
    records[records.index(b"first") - 1] = 0x7F  # its value's length
    found = read(signed(header, bytes(records)))
    assert [record.offset for record in found] == [0, 1, 2]
    assert bytes(unreadable(found[0])).count(b"first") == 1
    assert not unreadable(found[0]).corrupt
    assert [record.value for record in found[1:]] == VALUES[1:]


def test_the_rest_of_a_batch_is_raw_where_the_bounds_of_a_record_are_unknown() -> None:
    whole = record_batch(VALUES)
    (record,) = read(signed(whole[:HEADER_BYTES], b"\x01" + whole[HEADER_BYTES + 1 :]))
    assert record.offset == 2
    assert bytes(unreadable(record))[HEADER_BYTES:] == b"\x01" + whole[HEADER_BYTES + 1 :]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 7])
def test_a_batch_that_cannot_be_inflated_is_raw(number: int) -> None:
    whole = record_batch(VALUES)
    batch = signed(whole[:HEADER_BYTES], b"not what it says", number)
    (record,) = read(batch)
    assert (record.offset, bytes(unreadable(record)), unreadable(record).corrupt) == (2, batch, False)


@pytest.mark.parametrize("compression", [name for name in CODECS if name != "none"])
def test_a_batch_that_inflates_beyond_the_limit_is_raw_and_takes_bounded_memory(compression: str) -> None:
    whole = record_batch([b"small"])
    number, compressed = CODECS[compression]
    batch = signed(whole[:HEADER_BYTES], bytes(compressed(bytes(DEFAULT_LIMITS.inflated_bytes + 1))), number)
    tracemalloc.start()
    (record,) = read(batch)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "inflates to more than" in unreadable(record).why
    assert unreadable(record).reason is Reason.TOO_LARGE
    assert bytes(record.value) == (batch if len(batch) <= WHOLE_BYTES else batch[:KEPT_BYTES])
    assert fingerprint(record) == fingerprint(Bytes(None, batch))
    assert peak < 2.5 * DEFAULT_LIMITS.inflated_bytes


def header(name: bytes, value: bytes) -> bytes:
    return hostile.varint(len(name)) + name + hostile.varint(len(value)) + value


LIMITS = DEFAULT_LIMITS
EXCEEDING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "headers": (
        {"headers": LIMITS.headers + 1, "block": header(b"h", b"") * (LIMITS.headers + 1)},
        {"headers": LIMITS.headers, "block": header(b"h", b"") * LIMITS.headers},
    ),
    "header bytes": (
        {"headers": 1, "block": header(b"h", bytes(LIMITS.header_bytes))},
        {"headers": 1, "block": header(b"h", bytes(LIMITS.header_bytes - 1))},
    ),
    "a key": ({"key": bytes(LIMITS.key_bytes + 1)}, {"key": bytes(LIMITS.key_bytes)}),
}
"""A record that exceeds a bound, and one that just does not."""


@pytest.mark.parametrize("what", EXCEEDING)
@pytest.mark.parametrize("padding", [0, SMALL_BYTES], ids=["a small batch", "a large batch"])
def test_a_record_that_exceeds_a_bound_is_too_large_and_those_beside_it_are_read(what: str, padding: int) -> None:
    beyond, within = EXCEEDING[what]
    bodies = [
        hostile.record(0, value=b"before" + bytes(padding // 2)),
        hostile.record(1, value=b"beyond", **beyond),
        hostile.record(2, value=b"within", **within),
        hostile.record(3, value=b"behind" + bytes(padding // 2)),
    ]
    found = read(hostile.batch(b"".join(bodies), 4, "none"))
    assert [(record.offset, bytes(record.value)[:6]) for record in found] == [
        (0, b"before"),
        (1, b"beyond"),
        (2, b"within"),
        (3, b"behind"),
    ]
    assert unreadable(found[1]).reason is Reason.TOO_LARGE
    assert fingerprint(found[1]) == fingerprint(Bytes(beyond.get("key"), b"beyond"))
    assert not any(isinstance(record.value, Unreadable) for record in (found[0], found[2], found[3]))


def test_of_a_value_beyond_what_is_kept_the_first_bytes_and_the_identity_are_kept() -> None:
    value = bytes(range(256)) * (WHOLE_BYTES // 256 + 1)
    (record,) = read(hostile.batch(hostile.record(0, value=value), 1, "none"))
    assert bytes(record.value) == value[:KEPT_BYTES]
    assert unreadable(record).reason is Reason.TOO_LARGE
    assert fingerprint(record) == fingerprint(Bytes(None, value))


@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 120), st.binary(min_size=1, max_size=8))
@settings(deadline=None, max_examples=300)
def test_no_bytes_raise_and_offsets_increase_within_a_batch(body: bytes, number: int, place: int, other: bytes) -> None:
    whole = record_batch(VALUES)
    records = whole[HEADER_BYTES:]
    changed = (records[:place] + other + records[place + len(other) :], body)
    for each in changed:
        found = read(signed(whole[:HEADER_BYTES], each, number))
        offsets = [record.offset for record in found]
        assert offsets == sorted(set(offsets))
        assert not offsets or offsets[-1] <= 2
