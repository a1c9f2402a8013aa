"""Exactly one cell takes each record, whatever its bytes, and it is the cell that the decoder says."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.domain import incoming
from service.domain.cells import Slice, cell_of
from service.domain.delivery import Delivery, Unreadable
from service.domain.events import Reason, Rejection
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.ownership import owner_of
from service.domain.rejected_values import read_subject
from service.domain.scanning import scanned_batch_id
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, INCOMING_TOPICS
from service.kafka.deliveries import decode, decode_of_cells, decode_own
from service.kafka.unpacking import Record
from tests.support.builders.inputs import confirmation, content, failure, registration
from tests.support.builders.replay import STREAMS

CELLS = (2, 4, 8)
SAMPLES: Sequence[tuple[str, bytes]] = [
    (BATCH_REGISTERED, registration("b1", ["e1", "e2"])),
    (CONTENT_PROVISIONED, content("b2", "t1")),
    (INCOMING_TOPICS[2], failure("b3", "u1")),
    (INCOMING_TOPICS[3], confirmation("b4", "class")),
]


def takers(topic: str, record: Record, cells: int, partition: int) -> dict[int, Delivery]:
    """Returns the cells that take the record, with what they decode."""
    found = {cell: decode_own(topic, partition, record, DEFAULT_LIMITS, Slice(cells, cell)) for cell in range(cells)}
    return {cell: delivery for cell, delivery in found.items() if delivery is not None}


def check(topic: str, value: bytes | None, *, key: bytes | None = b"key", partition: int = 5) -> None:
    """Checks that one cell of 1, 2, 4 or 8 takes the record, and decodes what a service without cells does."""
    record = Record(7, key, value)
    decoded = decode(topic, partition, record, DEFAULT_LIMITS)
    named = read_subject(decoded).batch_id
    for cells in (1, *CELLS):
        taken = takers(topic, record, cells, partition)
        owner = partition % cells if named is None else cell_of(named, cells)
        assert taken == {owner: decoded}, (cells, value)
        assert owner_of(decoded, cells) == owner
        for wanted in (range(cells), {owner}, {(owner + 1) % cells}):
            found = decode_of_cells(topic, partition, record, DEFAULT_LIMITS, range(cells), wanted)
            assert found == ((owner, decoded) if owner in wanted else None)
    if isinstance(decoded.event, Rejection):
        return
    assert named == decoded.event.batch_id
    if value is not None and (scanned := scanned_batch_id(value)) is not None:
        assert scanned == decoded.event.batch_id


# -- what producers send


def test_every_recorded_value_of_real_producers_is_skipped_without_decoding_it() -> None:
    for line in (STREAMS / "producers.jsonl").read_text().splitlines():
        given_ = json.loads(line)
        value = given_["value"] if isinstance(given_["value"], str) else json.dumps(given_["value"])
        check(given_["topic"], value.encode())
        event = decode(given_["topic"], 0, Record(0, None, value.encode()), DEFAULT_LIMITS).event
        assert not isinstance(event, Rejection)
        assert scanned_batch_id(value.encode()) == event.batch_id, value


# -- hostile values, each the sample with something at the mark

MARKED = '{"event_type": "x", "data": {"event": "e", @}, "metadata": null}'


@pytest.mark.parametrize(
    ("inside", "scanned"),
    [
        ('"batch_id": "b"', "b"),
        ('"batch_id"\t:\n"b"', "b"),
        ('"entity_id": "b"', "b"),
        ('"batch_id": "b", "entity_id": null', "b"),
        ('"batch_id": "b", "entity_id": "b"', "b"),
        ('"batch_id": "b", "batch_id": "b"', "b"),
        ('"batch_id": "b", "metadata": {"entity_id": "b"}', "b"),
        ('"batch_id": "b", "name": "\\u00c5\\n\\ud83d\\ude00"', "b"),
        ('"batch_id": "b", "batch_id": "c"', None),
        ('"batch_id": "b", "entity_id": "c"', None),
        ('"batch_id": "b", "details": {"batch_id": "c"}', None),
        ('"batch_id": null', None),
        ('"batch_id": 5', None),
        ('"batch_id": ""', None),
        ('"batch_id": ["b"]', None),
        ('"batch_id": "\\u0062"', None),
        ('"batch_id": "b", "batch\\u005fid": "c"', None),
        ('"batch\\u005fid": "c"', None),
        ('"batch_id": "b", "name": "\\"batch_id\\": \\"c\\""', "b"),
        ('"batch_id": "b", "\\"batch_id": "c"', "b"),
        ('"batch_id": "b", "name": "\\\\"', "b"),
        ('"batch_id": "b", "name": "\\\\u0062"', "b"),
        ('"name": "\\\\", "batch_id": "b"', "b"),
        ('"batch_id": "b\\""', None),
        ('"batch_id": "b\\n"', None),
        ('"batch_id": "é"', None),
        (f'"batch_id": "{"b" * 256}"', None),
        ('"event": "batch_id", "batch_id": "b"', None),
        ('"Batch_id": "b"', None),
        ('"batch_id": "entity_id"', "entity_id"),
        ('"batch_id": "b", "name": "entity_id"', None),
        ('"batch_id": "b"batch_id": "c"', "b"),
        ("" + ", ".join(['"batch_id": "b"'] * 9), None),
    ],
)
def test_a_scan_is_certain_only_where_nothing_is_ambiguous(inside: str, scanned: str | None) -> None:
    value = MARKED.replace("@", inside).encode()
    assert scanned_batch_id(value) == scanned
    for topic, _ in SAMPLES:
        check(topic, value)


def test_a_key_before_the_data_is_ambiguous() -> None:
    assert scanned_batch_id(b'{"batch_id": "b", "data": {}}') is None
    assert scanned_batch_id(b'{"metadata": {"entity_id": "b"}, "data": {"batch_id": "b"}}') is None


@pytest.mark.parametrize(
    "change",
    [
        lambda value: b"\xef\xbb\xbf" + value,
        lambda value: b"\0\0\0\0\1" + value,
        lambda value: value + b"garbage",
        lambda value: value + value,
        lambda value: value[:-1],
        lambda value: value[: len(value) // 2],
        lambda value: b" " * 100_000 + value,
        lambda value: value + b" " * 17 * 1024 * 1024,
        lambda value: b"[" * 100 + value,
        lambda value: value.decode().encode("utf-16"),
        lambda value: value.replace(b'"schema_version": 1', b'"schema_version": 2'),
        lambda value: value.replace(b'"data": {', b'"data": {"unknown": "\xff", '),
        lambda value: value.replace(b'"data": {', b'"data": {"unknown": "\\ud800", '),
        lambda value: value.replace(b'"data": {', b'"data": {"unknown": "\\u0000", '),
        lambda value: value.replace(b'"data": {', b'"data": [{').replace(b'}, "metadata"', b'}], "metadata"'),
        lambda value: value.replace(b"_id", b"_ID"),
        lambda _: None,
        lambda _: b"",
        lambda _: b"null",
        lambda _: b'"batch_id"',
        lambda _: b'"data""batch_id":"b"',
        lambda value: Unreadable(value, 7, "why", Reason.TOO_LARGE, b"digest"),
    ],
)
@pytest.mark.parametrize(("topic", "value"), SAMPLES, ids=[topic for topic, _ in SAMPLES])
@pytest.mark.parametrize("partition", [0, 5])
def test_one_cell_takes_what_nobody_can_read(topic: str, value: bytes, change: Any, partition: int) -> None:
    for key in (None, b"b1", b"\xff"):
        check(topic, change(value), key=key, partition=partition)


# -- generated values

NAMES = st.sampled_from(
    ["batch_id", "entity_id", "data", "batch\\u005fid", "metadata", "event", 'x"batch_id', "\\u0064ata", "n"]
)
TEXTS = st.one_of(
    st.sampled_from(
        ["b1", "b2", "", "batch_id", "entity_id", "data", "\\u0062", "b\\n", '\\"', "\\\\", "Å", "\\ud800"]
    ),
    st.text(max_size=5).map(lambda text: json.dumps(text)[1:-1]),
)
SPACE = st.sampled_from(["", " ", "\n\t", "\f"])


def _object(members: list[tuple[str, str, str]]) -> str:
    return "{" + ",".join(f'"{name}"{space}:{space}{value}' for name, space, value in members) + "}"


VALUES = st.recursive(
    st.one_of(TEXTS.map(lambda text: f'"{text}"'), st.sampled_from(["null", "1", "true", "[]", "{}", "NaN", '"b1'])),
    lambda inner: st.lists(st.tuples(NAMES, SPACE, inner), max_size=4).map(_object),
    max_leaves=6,
)


@st.composite
def mixed(draw: st.DrawFn) -> tuple[str, bytes]:
    """A sample with other members in its data or around it, and perhaps a cut or a splice."""
    topic, value = draw(st.sampled_from(SAMPLES))
    envelope = json.loads(value)
    data = [(name, "", json.dumps(each)) for name, each in envelope.pop("data").items()]
    around = [(name, "", json.dumps(each)) for name, each in envelope.items()]
    for members in (data, around):
        for extra in draw(st.lists(st.tuples(NAMES, SPACE, VALUES), max_size=2)):
            members.insert(draw(st.integers(0, len(members))), extra)
    if draw(st.booleans()):
        data = [each for each in data if each[0] not in draw(st.sets(st.sampled_from(["batch_id", "entity_id"])))]
    around.insert(draw(st.integers(0, len(around))), ("data", draw(SPACE), _object(data)))
    made = _object(around).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(made)))
        made = made[:place] + draw(st.sampled_from([b'"', b"\\", b"{", b"}", b",", b"\xff", b"", b"\0"])) + made[place:]
    return topic, made[: draw(st.integers(0, len(made)))] if draw(st.integers(0, 9)) == 0 else made


@settings(max_examples=400)
@given(made=mixed(), partition=st.integers(0, 9))
def test_one_cell_takes_each_hostile_value(made: tuple[str, bytes], partition: int) -> None:
    check(*made, partition=partition)


@settings(max_examples=200)
@given(value=st.binary(max_size=200), topic=st.sampled_from(INCOMING_TOPICS))
@example(value=b'"data""batch_id":"x', topic=BATCH_REGISTERED)
def test_one_cell_takes_each_value_of_any_bytes(value: bytes, topic: str) -> None:
    check(topic, value)


def test_the_mixed_values_are_of_all_kinds() -> None:
    """The generator above makes what is accepted and what is not, with and without a certain scan."""
    kinds = set()

    @settings(max_examples=400, database=None, derandomize=True)
    @given(made=mixed())
    def collect(made: tuple[str, bytes]) -> None:
        event = incoming.decode(made[0], made[1], max_bytes=1_000_000)
        kinds.add((isinstance(event, Rejection), scanned_batch_id(made[1]) is not None))

    collect()
    assert len(kinds) == 4
