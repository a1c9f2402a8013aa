"""Tests what holds whatever is sent, and the recorded morning."""

import base64
import json
from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.domain.events import BatchRegistered, ContentProvisioned, Reason, Rejection
from service.domain.incoming import decode
from service.domain.topics import INCOMING_TOPICS
from tests.support.builders.samples import CONTENT, DATA, EVERY, FAILURE, MIB, NEWER, having, read, text

LETTERS = st.characters() | st.sampled_from(["\0", "\\", "\ud800", "\udbff", "\udc00", '"', "[", "u"])

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(LETTERS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def storable(value: object) -> None:
    """Raises where PostgreSQL or a strict JSON encoder would reject a part of the value."""
    if isinstance(value, str):
        assert "\0" not in value
        value.encode()
    elif isinstance(value, dict):
        json.dumps(value, allow_nan=False)
        for key, part in value.items():
            storable(key)
            storable(part)
    elif isinstance(value, list | tuple):
        for part in value:
            storable(part)


@given(st.sampled_from(INCOMING_TOPICS), st.binary() | st.text().map(str.encode) | anything.map(text))
def test_no_bytes_make_decode_raise(topic: str, value: bytes) -> None:
    assert isinstance(read(value, topic), Rejection)


@given(st.sampled_from(EVERY + NEWER), st.data())
def test_no_change_to_a_valid_event_makes_decode_raise_or_accept_an_unstorable_value(
    document: dict[str, Any], data: st.DataObject
) -> None:
    paths = [*document, *(f"data.{field}" for field in document["data"])]
    if document is FAILURE:
        paths += ["data.validation_error_detail.details", "data.validation_error_detail.message"]
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3, unique=True)):
        try:
            document = having(document, path, data.draw(anything))
        except (KeyError, TypeError, IndexError):
            continue  # a parent was changed before
    value = text(document)
    cut = data.draw(st.integers(0, len(value)) | st.just(0))
    value = value[cut:] + value[:cut]
    for topic in INCOMING_TOPICS:
        answer = read(value, topic)
        for part in [answer.error] if isinstance(answer, Rejection) else answer:
            storable(part)


@given(st.text(LETTERS, max_size=20))
def test_a_text_is_kept_unchanged_or_rejected_if_it_cannot_be_stored(name: str) -> None:
    keepable = "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)
    event = read(having(CONTENT, "data.original_file_name", name))
    if keepable:
        assert isinstance(event, ContentProvisioned)
        assert event.original_file_name == name
    else:
        assert isinstance(event, Rejection)


def test_decoding_and_essay_sets_find_every_invalid_record_of_the_recorded_morning() -> None:
    expected = json.loads((DATA / "streams" / "school-day.expected.json").read_text())
    rejected: dict[tuple[str, str | None, bytes | None], Reason] = {}
    conflicts = set()
    essays: dict[str, set[str]] = {}
    contents = set()
    for line in (DATA / "streams" / "school-day.jsonl").read_text().splitlines():
        record = json.loads(line)
        raw = record.get("value")
        value = base64.b64decode(record["value_b64"]) if "value_b64" in record else raw and raw.encode()
        value = b"" if raw == "" else value
        answer = decode(record["topic"], value, max_bytes=16 * MIB)
        identity = record["topic"], record["key"], value
        if isinstance(answer, Rejection):
            rejected[identity] = answer.reason
        elif isinstance(answer, BatchRegistered):
            if essays.setdefault(answer.batch_id, set(answer.essay_ids)) != set(answer.essay_ids):
                conflicts.add(identity)
        elif isinstance(answer, ContentProvisioned):
            contents.add((answer.batch_id, answer.text_storage_id))
    assert len(rejected) == 46
    assert len(rejected) + len(conflicts) == expected["quarantined"]
    assert essays.keys() == expected["batches"].keys()
    assert len(contents) == expected["distinct_contents"]
    assert Counter(rejected.values()) == {
        Reason.INVALID_FIELD: 26,
        Reason.NOT_AN_ENVELOPE: 5,
        Reason.NOT_JSON: 4,
        Reason.TOO_DEEP: 2,
        **dict.fromkeys(
            [
                Reason.NO_VALUE,
                Reason.NOT_UTF8,
                Reason.WRONG_TOPIC,
                Reason.UNKNOWN_EVENT_TYPE,
                Reason.UNKNOWN_SCHEMA_VERSION,
                Reason.BATCH_IDS_DIFFER,
                Reason.NO_ESSAYS,
                Reason.COUNT_MISMATCH,
                Reason.DUPLICATE_ESSAY_ID,
            ],
            1,
        ),
    }
