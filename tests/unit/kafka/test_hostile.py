"""Tests the makers of hostile input, and that nothing that they make raises: the long form needs a broker and hours."""

import random

import pytest

from service.domain.events import Rejection
from service.domain.incoming import decode
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import INCOMING_TOPICS
from tests.prove.fuzz import wrong_with_batch
from tests.prove.hostile import cases
from tests.support.builders import hostile


@pytest.mark.parametrize("topic", INCOMING_TOPICS)
def test_a_large_value_at_any_place_is_decoded_or_rejected(topic: str) -> None:
    rejected = 0
    for place in hostile.places(topic):
        for kind in hostile.KINDS:
            value = hostile.value(topic, place, kind, 70_000)
            event = decode(topic, value, max_bytes=100_000)
            rejected += isinstance(event, Rejection)
    assert rejected > 100


@pytest.mark.parametrize("name", hostile.LENGTHS)
@pytest.mark.parametrize("codec", hostile.CODECS)
def test_a_large_count_or_length_is_read(name: str, codec: str) -> None:
    body, records = hostile.LENGTHS[name](50_000)
    assert wrong_with_batch(hostile.batch(body, records, codec)) is None


def test_mutated_record_batches_are_read() -> None:
    made = [case.batch for case in cases(random.Random(1), 300) if case.kind == "mutated record batches"]
    assert len(made) > 100
    assert [wrong for batch in made if (wrong := wrong_with_batch(batch))] == []


def test_a_seed_makes_the_same_record_batches_again() -> None:
    one, other = (
        [case.name[:5] for case in cases(random.Random(2), 50) if case.kind != "mutated record batches"]
        for _ in range(2)
    )
    assert one == other


def test_the_largest_valid_events_are_accepted() -> None:
    for topic, name, make in hostile.VALID:
        assert not isinstance(decode(topic, make(), max_bytes=DEFAULT_LIMITS.value_bytes[topic]), Rejection), name
