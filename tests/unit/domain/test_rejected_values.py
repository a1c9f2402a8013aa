"""Tests that the subject of a rejected record is read where that is possible, and that no bytes raise or take long."""

import json
import time
from uuid import UUID

import pytest

from service.domain.delivery import Delivery, Unreadable
from service.domain.events import Reason, Rejection
from service.domain.rejected_values import WHOLE, RejectedSubject, read_subject
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from tests.support.builders.inputs import content, delivery, provisioned, registration

CORRELATION = UUID(int=7)


def rejected(value: bytes | None, topic: str = CONTENT_PROVISIONED, key: bytes | None = b"key") -> Delivery:
    return delivery(topic, value, key=key, event=Rejection(Reason.NOT_JSON, "bad"))


def envelope(**data: object) -> bytes:
    return json.dumps({"correlation_id": str(CORRELATION), "data": data}).encode()


WHOLE_SUBJECT = RejectedSubject("b", "Åsa.txt", CORRELATION)
GOOD = envelope(batch_id="b", original_file_name="Åsa.txt")


@pytest.mark.parametrize(
    "value",
    [
        GOOD,
        envelope(entity_id="b", batch_id=None, original_file_name="Åsa.txt"),
        GOOD[:-1],
        b"\xef\xbb\xbf" + GOOD,
        b"\0\0\0\0\7" + GOOD,
        b"\xff" + GOOD,
        GOOD[:-1] + b', "x": "\\ud800"}',
        GOOD[:-1] + b', "x": "' + b"x" * 2 * WHOLE + b'"}',
        b'{"x": "' + b"x" * 2 * WHOLE + b'", ' + GOOD[1:],
        GOOD[:-1] + b', "x": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
def test_what_a_value_is_about_is_read_also_where_it_is_not_json(value: bytes) -> None:
    assert read_subject(rejected(value)) == WHOLE_SUBJECT


@pytest.mark.parametrize("value", [None, b"", b"[1]", b"7", b"{}", b'{"data": []}', envelope(), b"\xff\xfe{\0"])
def test_a_value_that_names_nothing_has_no_subject(value: bytes | None) -> None:
    assert read_subject(rejected(value))[:2] == (None, None)


@pytest.mark.parametrize("batch_id", [7, "", "b" * 256, "a\0b", ["b"], {"batch_id": "b"}, True, None])
def test_an_id_that_no_batch_can_have_is_left_out(batch_id: object) -> None:
    assert read_subject(rejected(envelope(batch_id=batch_id))).batch_id is None


def test_a_file_name_is_made_storable() -> None:
    name = read_subject(rejected(envelope(original_file_name="a\0b" + "n" * 2_000))).original_file_name
    assert name is not None
    assert (name[:3], len(name)) == ("a\ufffdb", 1_024)


def test_a_correlation_id_that_is_no_uuid_is_left_out() -> None:
    assert read_subject(rejected(b'{"correlation_id": "x"}')).correlation_id is None
    assert read_subject(rejected(b'{"correlation_id": 7}')).correlation_id is None


def test_a_registration_that_can_not_be_read_is_of_the_batch_that_its_key_names() -> None:
    assert read_subject(rejected(b"{", BATCH_REGISTERED, b"b")).batch_id == "b"
    assert read_subject(rejected(b"{", CONTENT_PROVISIONED, b"b")).batch_id is None
    assert read_subject(rejected(b"{", BATCH_REGISTERED, b"\xff")).batch_id is None
    assert read_subject(rejected(registration("other", ["e"]), BATCH_REGISTERED, b"b")).batch_id == "other"


def test_a_record_that_was_decoded_names_what_its_event_names() -> None:
    found = read_subject(provisioned("b", "t"))
    assert found[:2] == ("b", "t.txt")
    assert found.correlation_id is not None


def test_bytes_that_killed_a_process_or_are_a_whole_record_batch_are_not_read() -> None:
    deadly = delivery(CONTENT_PROVISIONED, content("b", "t"), event=Rejection(Reason.KILLED_THE_PROCESS, "thrice"))
    assert read_subject(deadly) == RejectedSubject()
    raw = Unreadable(content("b", "t"), 0, "why", Reason.UNREADABLE, b"d" * 32)
    assert read_subject(rejected(raw)) == RejectedSubject()


@pytest.mark.parametrize(
    "value",
    [
        b'"batch_id"' * 100_000,
        b'"batch_id":"' * 100_000,
        b'"batch_id":"' + b"\\" * 1_000_000,
        b'{"batch_id"' + b" " * 1_000_000,
        b"[" * 1_000_000,
        b'{"data":' * 100_000,
        b"[" + b"[]," * 300_000 + b"[]]",
    ],
)
def test_hostile_bytes_take_little_time(value: bytes) -> None:
    began = time.process_time()
    read_subject(rejected(value))
    assert time.process_time() - began < 0.2
