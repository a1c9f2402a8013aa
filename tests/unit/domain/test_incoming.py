"""Tests which inputs are accepted, and which are rejected for which reason."""

import base64
import copy
import json
from collections import Counter
from copy import deepcopy
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import json_limits
from service.domain.events import (
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Reason,
    Rejection,
    ValidationFailed,
)
from service.domain.incoming import decode
from service.domain.topics import (
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    INCOMING_TOPICS,
    OUTGOING_TOPICS,
    VALIDATION_FAILED,
)
from tests.support.builders.samples import (
    ABSENT,
    BATCH,
    CONFIRMATION,
    CONTENT,
    CORRELATION,
    DATA,
    EVERY,
    FAILURE,
    MIB,
    NEWER,
    REGISTRATION,
    SAMPLES,
    TRACEPARENT,
    having,
    read,
    reason,
    text,
)

# --- accepted inputs -------------------------------------------------------------------------------


def test_a_registration_of_the_older_generation_is_read_whole() -> None:
    data = REGISTRATION["data"]
    assert read(REGISTRATION) == BatchRegistered(
        BATCH,
        tuple(data["essay_ids"]),
        "ENG5",
        "teacher-17",
        "Write about a book you have read.",
        None,
        None,
        None,
        CORRELATION,
        None,
        None,
    )


def test_a_registration_of_the_newer_generation_has_no_instructions_and_may_name_class_and_org() -> None:
    named = having(having(NEWER[0], "data.class_id", "class-1"), "data.org_id", "org-1")
    prompt = {"references": {"student_prompt_text": {"storage_id": "prompt-1", "path": "p/1.txt"}}}
    event = read(having(named, "data.student_prompt_ref", prompt))
    assert isinstance(event, BatchRegistered)
    assert (event.batch_id, event.essay_instructions, event.class_id, event.org_id, event.student_prompt_ref) == (
        BATCH,
        "",
        "class-1",
        "org-1",
        prompt,
    )


@pytest.mark.parametrize(
    "prompt", ["p/1.txt", [], {"a": "\0"}, {"\0": 1}, {"a": 2**63}, {"a": float("inf")}, {"a": "x" * 2**16}]
)
def test_a_prompt_that_is_no_small_object_that_can_be_stored_is_rejected(prompt: object) -> None:
    assert reason(having(NEWER[0], "data.student_prompt_ref", prompt)) in (Reason.INVALID_FIELD, Reason.NOT_JSON)


def test_every_record_of_the_real_producers_is_accepted() -> None:
    records = [json.loads(line) for line in (DATA / "streams" / "producers.jsonl").read_text().splitlines()]
    events = [read(each["value"], each["topic"]) for each in records]
    assert len(events) == 80
    assert not [event for event in events if isinstance(event, Rejection)]
    assert {event.student_prompt_ref is None for event in events if isinstance(event, BatchRegistered)} == {True, False}


def test_a_confirmation_is_read_whatever_its_associations_are() -> None:
    assert read(CONFIRMATION) == AssociationsConfirmed(BATCH, "class-8b", 2, CORRELATION, None, None)
    anything: list[Any] = [None, 5, "a", [], {"essay_id": 5}]
    other = having(having(CONFIRMATION, "data.associations", anything), "data.class_id", None)
    by_entity = having(having(other, "data.batch_id", None), "data.entity_id", "b2")
    assert read(by_entity) == AssociationsConfirmed("b2", "", 5, CORRELATION, None, None)
    assert read(having(other, "data.associations", [])) == AssociationsConfirmed(BATCH, "", 0, CORRELATION, None, None)


@pytest.mark.parametrize("associations", [ABSENT, None, {}, "a", 5])
def test_the_associations_of_a_confirmation_are_a_list(associations: object) -> None:
    assert reason(having(CONFIRMATION, "data.associations", associations)) == Reason.INVALID_FIELD


@pytest.mark.parametrize(("path", "value"), [("class_id", 5), ("class_id", "\0"), ("batch_id", None), ("batch_id", 5)])
def test_the_ids_of_a_confirmation_are_texts(path: str, value: object) -> None:
    assert reason(having(CONFIRMATION, f"data.{path}", value)) == Reason.INVALID_FIELD


def test_a_confirmation_may_have_a_hundred_thousand_associations() -> None:
    association = {"essay_id": "e" * 36, "student_id": None, "confidence_score": 0.9, "validation_method": "human"}
    event = read(having(CONFIRMATION, "data.associations", [association] * 100_000))
    assert isinstance(event, AssociationsConfirmed)
    assert event.associations == 100_000


@pytest.mark.parametrize(("document", "traceparent"), [(CONTENT, TRACEPARENT), (NEWER[1], None)])
def test_content_of_either_generation_is_read_whole(document: dict[str, Any], traceparent: str | None) -> None:
    assert read(document) == ContentProvisioned(
        BATCH,
        "text-0001",
        "upload-0001",
        "Åsa Öberg - essay.docx",
        "raw-0001",
        18244,
        "9e107d9d372bb6826bd81d3542a419d6",
        CORRELATION,
        traceparent,
        None,
    )


def test_a_validation_failure_is_read_whole() -> None:
    event = read(FAILURE)
    assert isinstance(event, ValidationFailed)
    assert event.error_detail == FAILURE["data"]["validation_error_detail"]
    assert event.failed_at == datetime(2026, 1, 15, 9, 29, 59, tzinfo=UTC)
    assert (event.batch_id, event.file_upload_id, event.original_file_name) == (
        BATCH,
        "upload-0002",
        "empty.txt",
    )
    assert (event.raw_file_storage_id, event.validation_error_code, event.file_size_bytes) == (
        "raw-0002",
        "EMPTY_CONTENT",
        0,
    )


def test_of_an_error_detail_only_the_message_is_required_and_all_ten_fields_are_kept() -> None:
    event = read(having(FAILURE, "data.validation_error_detail", {"message": "m"}))
    assert isinstance(event, ValidationFailed)
    nothing = dict.fromkeys(FAILURE["data"]["validation_error_detail"])
    assert event.error_detail == {**nothing, "message": "m", "details": {}}


@pytest.mark.parametrize("document", EVERY + NEWER)
def test_unknown_fields_are_ignored_whatever_is_in_them(document: dict[str, Any]) -> None:
    noise = b'"zz": [NaN, 1e400, -Infinity, 123456789012345678901234567890, "\\u0000\\ud800"], '
    value = text(document).replace(b"{", b"{" + noise, 1).replace(b'"data": {', b'"data": {' + noise)
    assert read(value, document["event_type"]) == read(document)


@pytest.mark.parametrize("path", ["data_schema_uri", "metadata"])
def test_nullable_fields_of_an_envelope_may_be_missing(path: str) -> None:
    assert reason(having(FAILURE, path, ABSENT)) is None


@pytest.mark.parametrize("document", SAMPLES)
def test_the_metadata_in_data_is_not_required(document: dict[str, Any]) -> None:
    document = deepcopy(document)
    document["data"].pop("metadata", None)
    assert reason(document) is None


@pytest.mark.parametrize(
    "change",
    [
        ("data.content_md5_hash", None),
        ("data.entity_id", BATCH),
        ("data.entity_id", None),
        ("data.file_size_bytes", 0),
        ("data.file_size_bytes", 2**63 - 1),
        ("data.text_storage_id", "å" * 255),
        ("data.original_file_name", ""),
        ("data.original_file_name", "\\ud800 \\u0000 is text here, not an escape"),
        ("data.original_file_name", "\U0001f600"),
        ("data.timestamp", "2026-01-15T09:29:58"),
        ("data.timestamp", "2026-01-15 09:29:58.123456789+01:00"),
        ("data.timestamp", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_unusual_content_is_accepted(change: tuple[str, object]) -> None:
    event = read(having(CONTENT, *change))
    assert isinstance(event, ContentProvisioned)
    if change[0] == "data.original_file_name":
        assert event.original_file_name == change[1]


def test_an_unknown_validation_error_code_is_kept_unchanged() -> None:
    event = read(having(FAILURE, "data.validation_error_code", "Något nytt"))
    assert isinstance(event, ValidationFailed)
    assert event.validation_error_code == "Något nytt"


def test_details_are_kept_unchanged() -> None:
    details = {"å": [1, -(2**63), 2**63 - 1, 1.5, True, None, {"b": "ö"}], "": {}}
    event = read(having(FAILURE, "data.validation_error_detail.details", details))
    assert isinstance(event, ValidationFailed)
    assert event.error_detail["details"] == details


@pytest.mark.parametrize(
    ("given", "utc"),
    [
        ("2026-01-15T09:29:59", datetime(2026, 1, 15, 9, 29, 59, tzinfo=UTC)),
        ("2026-01-15T09:29:59+02:30", datetime(2026, 1, 15, 6, 59, 59, tzinfo=UTC)),
        ("2026-01-15t09:29:59.5z", datetime(2026, 1, 15, 9, 29, 59, 500000, tzinfo=UTC)),
    ],
)
def test_timestamps_are_turned_to_utc(given: str, utc: datetime) -> None:
    changed = having(FAILURE, "data.timestamp", given)
    event = read(having(changed, "data.validation_error_detail.timestamp", given))
    assert isinstance(event, ValidationFailed)
    assert event.failed_at == utc
    assert event.failed_at.tzinfo is UTC
    assert event.error_detail["timestamp"] == utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_lone_surrogate_in_an_ignored_field_does_not_change_the_pairs_and_backslashes_of_others() -> None:
    name = "\U0001f600\\ud800\\\\\U0001f601"
    value = text(having(CONTENT, "data.original_file_name", name)).replace(b"{", b'{"zz": "\\ud800", ', 1)
    event = read(value)
    assert isinstance(event, ContentProvisioned)
    assert event.original_file_name == name


@given(
    st.lists(st.sampled_from([b"\\ud800", b"\\uDFfe", b"\\udbff", b"\\\\", b"\\u0041", b"\\ud8", b"\\", b"u", b"x"])),
    st.integers(1, 9),
)
def test_lone_surrogates_are_found_whatever_the_chunks(pieces: list[bytes], size: int) -> None:
    value = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_limits, "_CHUNK", len(value))
        expected = json_limits.lone_surrogates_as_nul(value)
        patch.setattr(json_limits, "_CHUNK", size)
        assert json_limits.lone_surrogates_as_nul(value) == expected


def test_of_a_repeated_field_the_last_one_counts() -> None:
    value = text(CONTENT)
    assert reason(value.replace(b'"text_storage_id":', b'"text_storage_id": 5, "text_storage_id":')) is None
    assert reason(value.replace(b'"text-0001",', b'"text-0001", "text_storage_id": 5,')) is not None


@pytest.mark.parametrize(
    ("metadata", "kept"),
    [
        (None, (None, None)),
        ({}, (None, None)),
        ({"traceparent": TRACEPARENT}, (TRACEPARENT, None)),
        ({"traceparent": TRACEPARENT, "tracestate": "a=b,c=d"}, (TRACEPARENT, "a=b,c=d")),
        ({"traceparent": TRACEPARENT, "tracestate": "a" * 512}, (TRACEPARENT, "a" * 512)),
        ({"traceparent": TRACEPARENT, "tracestate": "a" * 513}, (TRACEPARENT, None)),
        ({"traceparent": TRACEPARENT, "tracestate": "å"}, (TRACEPARENT, None)),
        ({"traceparent": TRACEPARENT, "tracestate": "\0"}, (TRACEPARENT, None)),
        ({"traceparent": TRACEPARENT, "tracestate": 5}, (TRACEPARENT, None)),
        ({"tracestate": "a=b"}, (None, None)),
        ({"traceparent": TRACEPARENT + "\n"}, (None, None)),
        ({"traceparent": TRACEPARENT.upper()}, (None, None)),
        ({"traceparent": "ff" + TRACEPARENT[2:]}, (None, None)),
        ({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, (None, None)),
        ({"traceparent": f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01"}, (None, None)),
        ({"traceparent": [{"deep": "\ud800"}], "tracestate": "a=b"}, (None, None)),
    ],
)
def test_trace_context_is_kept_if_it_is_valid_and_else_dropped(
    metadata: object, kept: tuple[str | None, str | None]
) -> None:
    event = read(having(CONTENT, "metadata", metadata))
    assert isinstance(event, ContentProvisioned)
    assert (event.traceparent, event.tracestate) == kept


# --- rejected inputs --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", Reason.NOT_JSON),
        (b" \n", Reason.NOT_JSON),
        (b"not json", Reason.NOT_JSON),
        (text(CONTENT)[:-1], Reason.NOT_JSON),
        (text(CONTENT) + b"x", Reason.NOT_JSON),
        (b"\xef\xbb\xbf" + text(CONTENT), Reason.NOT_JSON),
        (text(CONTENT).replace(b"text-0001", b"text\n"), Reason.NOT_JSON),
        (text(CONTENT).replace(b"text-0001", b"text\0"), Reason.NOT_JSON),
        (b'{"a": ' + b"1" * 5000 + b"}", Reason.NOT_JSON),
        (text(CONTENT).decode().encode("utf-16"), Reason.NOT_UTF8),
        (text(CONTENT).replace(b"text-0001", b"\xff"), Reason.NOT_UTF8),
        (text(CONTENT).replace(b"text-0001", b"\xed\xa0\x80"), Reason.NOT_UTF8),
        (b"null", Reason.NOT_AN_ENVELOPE),
        (b"[]", Reason.NOT_AN_ENVELOPE),
        (b'"text"', Reason.NOT_AN_ENVELOPE),
        (b"{}", Reason.NOT_AN_ENVELOPE),
    ],
)
def test_a_value_without_an_envelope_is_rejected(value: bytes, why: Reason) -> None:
    assert reason(value) == why


def test_a_record_without_a_value_is_rejected() -> None:
    answer = decode(CONTENT_PROVISIONED, None, max_bytes=MIB)
    assert isinstance(answer, Rejection)
    assert answer.reason == Reason.NO_VALUE


def test_a_value_on_a_foreign_topic_is_rejected() -> None:
    assert reason(text(CONTENT), "some.other.topic") == Reason.WRONG_TOPIC


def test_a_value_may_be_as_long_as_the_limit_and_no_longer() -> None:
    value = text(CONTENT)
    assert isinstance(decode(CONTENT_PROVISIONED, value, max_bytes=len(value)), ContentProvisioned)
    answer = decode(CONTENT_PROVISIONED, value, max_bytes=len(value) - 1)
    assert isinstance(answer, Rejection)
    assert answer.reason == Reason.TOO_LARGE


@pytest.mark.parametrize(
    ("document", "path", "longest", "letter"),
    [
        (CONTENT, ("data", "original_file_name"), 1_024, "Å"),
        (FAILURE, ("data", "original_file_name"), 1_024, "x"),
        (REGISTRATION, ("data", "user_id"), 1_024, "x"),
        (REGISTRATION, ("data", "class_id"), 255, "x"),
        (CONFIRMATION, ("data", "class_id"), 255, "x"),
        (REGISTRATION, ("data", "org_id"), 1_024, "x"),
        (REGISTRATION, ("data", "essay_instructions"), 64 * 1024, "x"),
        (REGISTRATION, ("data", "essay_instructions"), 32 * 1024, "Å"),  # two bytes
        (FAILURE, ("data", "validation_error_detail", "message"), 64 * 1024, "x"),
    ],
)
def test_a_text_that_is_kept_may_be_as_long_as_its_limit_and_no_longer(
    document: dict[str, Any], path: tuple[str, ...], longest: int, letter: str
) -> None:
    for length, why in ((longest, None), (longest + 1, Reason.INVALID_FIELD)):
        changed = copy.deepcopy(document)
        place = changed
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = letter * length
        assert reason(changed) == why


def test_json_may_have_as_many_values_as_the_limit_and_no_more() -> None:
    values = [0] * 900
    document = {**CONTENT, "unknown": values}
    bound = text(document).count(b",") + text(document).count(b"[") + text(document).count(b"{") + 1

    def rejected(most: int, given: object) -> bool:
        answer = decode(CONTENT_PROVISIONED, text(given), max_bytes=MIB, max_values=most)
        return isinstance(answer, Rejection) and answer.reason == Reason.TOO_LARGE

    assert not rejected(bound, document)
    assert rejected(bound - 1, document)
    # Within a string there are no values, wherever it is cut when it is read in pieces.
    strings = {**CONTENT, "unknown": ['\\"[,{' * 20_000, ",", "\\\\", "[" * 70_000]}
    assert not rejected(60, strings)


ENVELOPE_REQUIRED = [
    "event_id",
    "event_type",
    "event_timestamp",
    "source_service",
    "schema_version",
    "correlation_id",
    "data",
]


@pytest.mark.parametrize("field", ENVELOPE_REQUIRED)
def test_an_envelope_without_a_required_field_is_rejected(field: str) -> None:
    changed = having(CONTENT, field, ABSENT)
    assert reason(changed, CONTENT_PROVISIONED) == Reason.NOT_AN_ENVELOPE


REQUIRED = [
    (document, f"data.{field}")
    for document in SAMPLES
    for field in document["data"]
    if field not in ("metadata", "essay_instructions")
] + [(FAILURE, "data.validation_error_detail.message")]


@pytest.mark.parametrize(("document", "path"), REQUIRED)
def test_data_without_a_required_field_is_rejected(document: dict[str, Any], path: str) -> None:
    assert reason(having(document, path, ABSENT)) == Reason.INVALID_FIELD


NULLABLE = {"batch_id", "content_md5_hash", "essay_instructions"}


def at(document: Any, path: str) -> Any:
    for name in path.split("."):
        document = document[name]
    return document


OTHERS: tuple[object, ...] = (None, True, 1.5, 5, "5", [], {})
ILL_TYPED: list[tuple[dict[str, Any], str, object]] = [
    (document, path, value)
    for document in SAMPLES
    for path in [*document, *(f"data.{field}" for field in document["data"])]
    for value in OTHERS
    if path not in ("data_schema_uri", "metadata", "data.metadata")
    if type(value) is not type(at(document, path))
    if not (value is None and path.removeprefix("data.") in NULLABLE)
]


@pytest.mark.parametrize(("document", "path", "value"), ILL_TYPED)
def test_an_ill_typed_field_is_rejected(document: dict[str, Any], path: str, value: object) -> None:
    assert reason(having(document, path, value), document["event_type"]) == Reason.INVALID_FIELD


@pytest.mark.parametrize("path", ["event_id", "correlation_id", "data.correlation_id", "data.timestamp"])
def test_a_text_of_another_form_is_rejected(path: str) -> None:
    assert reason(having(CONTENT, path, "5")) == Reason.INVALID_FIELD


@pytest.mark.parametrize(
    ("path", "value"), [("data_schema_uri", 5), ("metadata", 5), ("metadata", []), ("metadata", "")]
)
def test_nullable_fields_are_type_checked(path: str, value: object) -> None:
    assert reason(having(CONTENT, path, value)) == Reason.INVALID_FIELD


@pytest.mark.parametrize("field", list(FAILURE["data"]["validation_error_detail"]))
@pytest.mark.parametrize("value", [True, 1, []])
def test_an_ill_typed_error_detail_is_rejected(field: str, value: object) -> None:
    path = f"data.validation_error_detail.{field}"
    assert reason(having(FAILURE, path, value)) == Reason.INVALID_FIELD


@pytest.mark.parametrize("value", ["2026-01-15", "1768469400", "2026-02-30T00:00:00Z", "now", "2026-01-15T09:30Z"])
def test_a_timestamp_that_is_not_rfc_3339_is_rejected(value: str) -> None:
    assert reason(having(CONTENT, "event_timestamp", value)) == Reason.INVALID_FIELD


@pytest.mark.parametrize("value", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"])
@pytest.mark.parametrize("path", ["data.timestamp", "data.validation_error_detail.timestamp"])
def test_a_kept_timestamp_beyond_the_calendar_is_rejected(path: str, value: str) -> None:
    assert reason(having(FAILURE, path, value)) == Reason.INVALID_FIELD


@pytest.mark.parametrize("value", ["1e400", "-1e400", "NaN", "Infinity", "18244.0", "1e3", "-1", str(2**63)])
def test_a_size_that_is_not_an_integer_of_63_bits_is_rejected(value: str) -> None:
    assert reason(text(CONTENT).replace(b"18244", value.encode())) == Reason.INVALID_FIELD


@pytest.mark.parametrize(
    "value", ["1e400", "NaN", "-Infinity", str(2**63), str(-(2**63) - 1), '"\\u0000"', '"\\udfff"']
)
@pytest.mark.parametrize("form", ['{{"a": {}}}', '{{"a": [{{"b": {}}}]}}'])
def test_details_that_cannot_be_kept_are_rejected(form: str, value: str) -> None:
    changed = text(FAILURE).replace(b'"details": {}', f'"details": {form.format(value)}'.encode())
    assert reason(changed, VALIDATION_FAILED) == Reason.INVALID_FIELD


def test_a_key_of_details_that_cannot_be_kept_is_rejected() -> None:
    changed = having(FAILURE, "data.validation_error_detail.details", {"\0": 1})
    assert reason(changed) == Reason.INVALID_FIELD


KEPT_TEXTS = [
    (REGISTRATION, "data.batch_id"),
    (REGISTRATION, "data.user_id"),
    (REGISTRATION, "data.essay_instructions"),
    (NEWER[0], "data.class_id"),
    (NEWER[0], "data.org_id"),
    (CONTENT, "data.batch_id"),
    (CONTENT, "data.text_storage_id"),
    (CONTENT, "data.file_upload_id"),
    (CONTENT, "data.raw_file_storage_id"),
    (CONTENT, "data.original_file_name"),
    (CONTENT, "data.content_md5_hash"),
    (FAILURE, "data.validation_error_code"),
    (FAILURE, "data.validation_error_detail.message"),
    (FAILURE, "data.validation_error_detail.stack_trace"),
]


@pytest.mark.parametrize(("document", "path"), KEPT_TEXTS)
@pytest.mark.parametrize("value", ["a\0", "\ud800", "a\udc00b", "\udc00\ud800", "\ud800\ud800\udc00", "\\\ud800"])
def test_a_nul_or_a_lone_surrogate_in_a_kept_text_is_rejected(document: dict[str, Any], path: str, value: str) -> None:
    assert reason(having(document, path, value)) == Reason.INVALID_FIELD


@pytest.mark.parametrize("value", ["a\0", "\ud800"])
def test_a_nul_or_a_lone_surrogate_in_an_essay_id_is_rejected(value: str) -> None:
    ids = ["e1", value]
    assert reason(having(REGISTRATION, "data.essay_ids", ids)) == Reason.INVALID_FIELD


IDS = [
    (REGISTRATION, "data.batch_id"),
    *((document, f"data.{name}_id") for document in (CONTENT, FAILURE) for name in ("batch", "file_upload")),
    *((document, "data.raw_file_storage_id") for document in (CONTENT, FAILURE)),
    (CONTENT, "data.text_storage_id"),
    (NEWER[0], "data.entity_id"),
]


@pytest.mark.parametrize(("document", "path"), IDS)
@pytest.mark.parametrize("value", ["", "å" * 256])
def test_an_id_that_is_empty_or_too_long_is_rejected(document: dict[str, Any], path: str, value: str) -> None:
    assert reason(having(document, path, value)) == Reason.INVALID_FIELD


@pytest.mark.parametrize("value", ["", "e" * 256, 5, None])
def test_an_essay_id_of_a_wrong_type_or_length_is_rejected(value: object) -> None:
    assert reason(having(REGISTRATION, "data.essay_ids", ["e1", value])) == Reason.INVALID_FIELD


@pytest.mark.parametrize(
    ("count", "ids", "why"),
    [
        (0, [], Reason.NO_ESSAYS),
        (2, [], Reason.NO_ESSAYS),
        (0, ["a"], Reason.COUNT_OUT_OF_RANGE),
        (-1, ["a"], Reason.COUNT_OUT_OF_RANGE),
        (10**30, ["a"], Reason.COUNT_OUT_OF_RANGE),
        (100_001, [str(n) for n in range(100_001)], Reason.COUNT_OUT_OF_RANGE),
        (100_000, [str(n) for n in range(100_000)], None),
        (1, ["a", "b"], Reason.COUNT_MISMATCH),
        (3, ["a", "b"], Reason.COUNT_MISMATCH),
        (2, ["a", "a"], Reason.DUPLICATE_ESSAY_ID),
    ],
)
def test_the_reason_says_which_rule_of_counting_was_broken(count: int, ids: list[str], why: Reason | None) -> None:
    changed = having(having(REGISTRATION, "data.essay_ids", ids), "data.expected_essay_count", count)
    assert reason(changed) == why


def test_an_unknown_course_code_is_rejected() -> None:
    assert reason(having(REGISTRATION, "data.course_code", "ENG8")) == Reason.INVALID_FIELD


@pytest.mark.parametrize("document", EVERY)
def test_batch_id_and_entity_id_must_not_differ(document: dict[str, Any]) -> None:
    assert reason(having(document, "data.entity_id", "another")) == Reason.BATCH_IDS_DIFFER


@pytest.mark.parametrize("topic", INCOMING_TOPICS)
@pytest.mark.parametrize("kind", [*INCOMING_TOPICS, *OUTGOING_TOPICS, "huleedu.else.v1", "\ud800"])
def test_an_event_type_must_be_that_of_its_topic(topic: str, kind: str) -> None:
    document = next(document for document in EVERY if document["event_type"] == topic)
    expected = Reason.WRONG_TOPIC if kind in (*INCOMING_TOPICS, *OUTGOING_TOPICS) else Reason.UNKNOWN_EVENT_TYPE
    assert reason(having(document, "event_type", kind), topic) == (None if kind == topic else expected)


def test_another_event_type_is_rejected_for_its_type_and_not_for_missing_fields() -> None:
    assert reason(REGISTRATION, CONTENT_PROVISIONED) == Reason.WRONG_TOPIC


def test_an_unknown_schema_version_is_reported_before_invalid_fields() -> None:
    assert reason(having(CONTENT, "schema_version", 2)) == Reason.UNKNOWN_SCHEMA_VERSION
    changed = having(having(CONTENT, "schema_version", 2), "data.text_storage_id", ABSENT)
    assert reason(changed) == Reason.UNKNOWN_SCHEMA_VERSION


def nested(depth: int, noise: str = "") -> bytes:
    """A content with an unknown field that is nested to this depth."""
    ignored = "[" * (depth - 1) + noise + "]" * (depth - 1)
    return text(CONTENT).replace(b"{", b'{"zz": ' + ignored.encode() + b", ", 1)


def test_json_may_be_nested_to_the_limit_and_no_deeper() -> None:
    assert reason(nested(json_limits.DEEPEST)) is None
    assert reason(nested(json_limits.DEEPEST + 1)) == Reason.TOO_DEEP
    assert reason(nested(250)) == Reason.TOO_DEEP


@pytest.mark.parametrize("noise", ['"' + "[" * 200 + '"', r'"\"[[[[[[\\\\\"[[[["', r'"\\","[[["', '"","[","",""'])
def test_brackets_within_strings_do_not_nest(noise: str) -> None:
    assert reason(nested(json_limits.DEEPEST, noise)) is None
    assert reason(nested(json_limits.DEEPEST + 1, noise)) == Reason.TOO_DEEP


@pytest.mark.parametrize(
    "piece", [b"[", b"[]", b"[],", b'"[', b'"["', b'"",', b'["', b"][", b"{", b'{"":', b'\\"[', b"\\ud800"]
)
def test_a_hostile_value_of_the_greatest_length_is_rejected(piece: bytes) -> None:
    assert reason(piece * (16 * MIB // len(piece)), BATCH_REGISTERED) is not None


def test_a_million_wrong_essay_ids_are_one_error() -> None:
    value = text(REGISTRATION).replace(b'"essay_ids": [', b'"essay_ids": [' + b"1," * 999_000)
    assert reason(value, BATCH_REGISTERED) == Reason.INVALID_FIELD


# --- properties -------------------------------------------------------------------------------------

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
        for field in fields(answer):
            storable(getattr(answer, field.name))


@given(st.text(LETTERS, max_size=20))
def test_a_text_is_kept_unchanged_or_rejected_if_it_cannot_be_stored(name: str) -> None:
    keepable = "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)
    event = read(having(CONTENT, "data.original_file_name", name))
    if keepable:
        assert isinstance(event, ContentProvisioned)
        assert event.original_file_name == name
    else:
        assert isinstance(event, Rejection)


# --- the recorded morning ---------------------------------------------------------------------------


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
