"""Tests that a recovery reads records of any content as facts, or leaves them out."""

from typing import Any

import orjson
import pytest
from aiokafka import ConsumerRecord

from service.domain.topics import OUTGOING_TOPICS, SLOT_ASSIGNED
from service.recovery.facts import Published, announcement_of
from tests.support.builders.announcements import changes, essays

HOSTILE = [None, 7, 1e300, True, "", "\0", "x" * 300, [], {}, ["e1"], {"essay_id": 1}]


@pytest.mark.parametrize("odd", HOSTILE, ids=repr)
def test_fields_of_odd_types_count_as_missing(odd: Any) -> None:
    listed = [
        {"essay_id": odd, "text_storage_id": odd},
        odd,
        {"essay_id": "e1", "text_storage_id": "t1", "error_detail": odd, "failed_at": odd, "file_name": odd},
    ]
    for topic in OUTGOING_TOPICS:
        for name in (
            "essay_id",
            "text_storage_id",
            "file_upload_id",
            "original_file_name",
            "reason",
            "stored_at",
            "failed_count",
        ):
            good = {
                "essay_id": "e1",
                "text_storage_id": "t1",
                "file_upload_id": "u",
                "original_file_name": "f",
                "ready_essays": listed,
                "failed_essays": listed,
                "error_summary": odd,
            }
            value = {
                "event_id": odd,
                "event_timestamp": odd,
                "correlation_id": odd,
                "data": {"batch_id": "b", **good, name: odd},
                "metadata": {"traceparent": odd, "tracestate": odd},
            }
            found = announcement_of(ConsumerRecord(topic, 0, 0, 2**62, 0, b"b", orjson.dumps(value), None, 0, 0, ()))
            if found is not None:
                changes([Published(*orjson.loads(orjson.dumps(tuple(found[1]))))], [essays("e1", "e2")])


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{", b"[]", b'{"data": {}}', b'{"data": {"batch_id": "b", "essay_id": ""}}', b'{"data": null}'],
)
def test_a_record_that_announces_nothing_is_left_out(value: bytes | None) -> None:
    assert announcement_of(ConsumerRecord(SLOT_ASSIGNED, 0, 0, 0, 0, b"b", value, None, 0, 0, ())) is None
