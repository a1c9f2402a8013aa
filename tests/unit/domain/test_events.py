"""Tests which inputs are accepted, which are rejected for which reason, and what is published."""

import asyncio
import base64
import copy
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from copy import deepcopy
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from service.domain import contract, enveloped, failure_events, json_limits, outgoing
from service.domain import events as events_
from service.domain.contract import DATA_OF
from service.domain.delivery import IntakeLimits
from service.domain.enveloped import Origin, Outgoing, Unpublishable
from service.domain.events import (
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Incoming,
    Reason,
    Rejection,
    ValidationFailed,
)
from service.domain.failure_events import FailedSlot
from service.domain.incoming import decode
from service.domain.topics import (
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    INCOMING_TOPICS,
    OUTGOING_TOPICS,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)

DATA = Path(__file__).parents[2] / "data"
MIB = 1024 * 1024
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CORRELATION = UUID("7d4c1f0e-2f43-4c55-9e0b-7f1f3c0b8a11")
BATCH = "5f0c9b7e-6a64-4b0e-9a0b-2f7e1f1d4c01"
ORIGIN = Origin(CORRELATION)
NOW = datetime(2026, 1, 15, 9, 30, 1, tzinfo=UTC)
ABSENT = object()


def sample(name: str) -> dict[str, Any]:
    return json.loads((DATA / "contract" / f"{name}.json").read_text())  # type: ignore[no-any-return]


REGISTRATION = sample("in.batch_essays_registered")
CONTENT = sample("in.essay_content_provisioned")
FAILURE = sample("in.essay_validation_failed")
CONFIRMATION = sample("in.student_associations_confirmed")
SAMPLES = [REGISTRATION, CONTENT, FAILURE]
EVERY = [*SAMPLES, CONFIRMATION]
NEWER = [sample("in.batch_essays_registered.newer"), sample("in.essay_content_provisioned.newer")]


def text(document: object) -> bytes:
    return json.dumps(document).encode()


def read(document: dict[str, Any] | bytes, topic: str | None = None) -> Incoming | Rejection:
    if isinstance(document, bytes):
        return decode(topic or CONTENT_PROVISIONED, document, max_bytes=16 * MIB)
    return decode(topic or document["event_type"], text(document), max_bytes=16 * MIB)


def having(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The document with another value at a dotted path, or none."""
    changed = deepcopy(document)
    *parents, last = path.split(".")
    place = changed
    for parent in parents:
        place = place[parent]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return changed


def reason(document: dict[str, Any] | bytes, topic: str | None = None) -> Reason | None:
    answer = read(document, topic)
    if not isinstance(answer, Rejection):
        return None
    assert 0 < len(answer.error) <= events_.LONGEST_ERROR
    assert "\0" not in answer.error
    answer.error.encode()
    return answer.reason


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


# --- published events ------------------------------------------------------------------------------------


async def paged(*pages: Sequence[Any]) -> AsyncIterator[Sequence[Any]]:
    for page in pages:
        yield page


def moment(written: str) -> datetime:
    return datetime.fromisoformat(written)


def failed_slot(upload: str = "upload-0002", **detail: Any) -> FailedSlot:
    event = read(FAILURE)
    assert isinstance(event, ValidationFailed)
    return FailedSlot(
        upload,
        event.original_file_name,
        event.validation_error_code,
        {**event.error_detail, **detail},
        event.failed_at,
        event.correlation_id,
    )


def build(name: str, data: dict[str, Any], origin: Origin) -> Outgoing:
    """The event of a sample, from the sample's own values."""
    ready = [(essay["essay_id"], essay["text_storage_id"]) for essay in data.get("ready_essays", [])]
    at = moment((data.get("metadata") or data)["timestamp"])
    match name:
        case "out.essay_slot_assigned":
            return outgoing.slot_assigned(
                data["batch_id"],
                data["essay_id"],
                data["text_storage_id"],
                data["file_upload_id"],
                data["original_file_name"],
                origin,
                at,
                max_bytes=MIB,
            )
        case "out.excess_content_provisioned":
            return outgoing.excess_content(
                data["batch_id"],
                data["text_storage_id"],
                data["original_file_name"],
                data["reason"],
                origin,
                at,
                max_bytes=MIB,
            )
        case "out.pending_content_expired":
            return outgoing.pending_expired(
                data["batch_id"],
                data["text_storage_id"],
                data["file_upload_id"],
                data["original_file_name"],
                moment(data["stored_at"]),
                moment(data["expired_at"]),
                origin,
                max_bytes=MIB,
            )
        case "out.batch_essays_ready":
            pages = paged(ready[:1], [], ready[1:])
            course, instructions = data["course_code"], data["essay_instructions"]
            return asyncio.run(
                outgoing.batch_ready(BATCH, course, instructions, None, None, pages, origin, at, max_bytes=MIB)
            )
        case "out.batch_content_provisioning_completed":
            listed = [(essay["essay_id"], essay["text_storage_id"]) for essay in data["essays_for_processing"]]
            course, user, pages = data["course_code"], data["user_id"], paged(listed[:1], listed[1:])
            return asyncio.run(
                outgoing.batch_completed(BATCH, course, user, None, pages, 2, 2, origin, at, max_bytes=MIB)
            )
        case "out.batch_readiness_timeout":
            return asyncio.run(
                outgoing.readiness_timeout(
                    BATCH,
                    paged(ready),
                    paged(data["missing_essay_ids"]),
                    2,
                    1,
                    86400,
                    origin,
                    at,
                    max_bytes=MIB,
                )
            )
        case _:
            return errors([failed_slot()], origin=origin, now=at)


def errors(
    *pages: Sequence[FailedSlot],
    critical: bool = False,
    origin: Origin = ORIGIN,
    now: datetime = NOW,
    max_bytes: int = 32 * MIB,
) -> Outgoing:
    return asyncio.run(
        failure_events.validation_errors(BATCH, lambda: paged(*pages), critical, origin, now, max_bytes=max_bytes)
    )


def ready(*pages: Sequence[tuple[str, str]], class_id: str | None = None, max_bytes: int = MIB) -> Outgoing:
    return asyncio.run(
        outgoing.batch_ready(BATCH, "SV1", "", class_id, None, paged(*pages), ORIGIN, NOW, max_bytes=max_bytes)
    )


OUT_SAMPLES = sorted(path.stem for path in (DATA / "contract").glob("out.*.json"))


@pytest.mark.parametrize("name", OUT_SAMPLES)
def test_each_event_is_built_as_its_sample_with_the_same_keys_in_the_same_order(name: str) -> None:
    expected = sample(name)
    trace = expected["metadata"] or {}
    event = build(name, expected["data"], Origin(UUID(expected["correlation_id"]), trace.get("traceparent")))
    built = json.loads(event.payload)
    assert built["event_id"] == str(event.event_id)
    # In the samples the time of the envelope differs from that of the event; in built events they are the same.
    expected["event_id"], expected["event_timestamp"] = built["event_id"], built["event_timestamp"]
    assert json.dumps(built) == json.dumps(expected)
    assert (event.topic, event.batch_id, event.correlation_id) == (expected["event_type"], BATCH, CORRELATION)
    assert event.traceparent == trace.get("traceparent")


@pytest.mark.parametrize("name", OUT_SAMPLES)
def test_samples_and_built_events_match_the_declared_types(name: str) -> None:
    expected = sample(name)
    envelope: Any = contract.Envelope
    adapter = TypeAdapter(envelope[DATA_OF[expected["event_type"]]])
    adapter.validate_json(text(expected))
    adapter.validate_json(build(name, expected["data"], ORIGIN).payload)
    for field in expected["data"]:
        with pytest.raises(ValueError, match=field):
            adapter.validate_json(text(having(expected, f"data.{field}", ABSENT)))


def test_every_outgoing_topic_has_its_sample_and_its_type() -> None:
    assert {sample(name)["event_type"] for name in OUT_SAMPLES} == set(OUTGOING_TOPICS) == set(DATA_OF)


def test_an_event_id_is_a_stable_uuid5_that_is_unique_by_subject() -> None:
    pairs = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("1 a", ""), ("a", "1 "), ("å", "b")]
    ids = {enveloped.event_id(topic, *pair) for topic in OUTGOING_TOPICS for pair in pairs}
    assert len(ids) == len(pairs) * len(OUTGOING_TOPICS)
    namespace = UUID(bytes=enveloped._NAMESPACE)
    assert enveloped.event_id(BATCH_READY, "å", "b") == uuid5(namespace, f"{BATCH_READY} 1 åb")


def test_an_event_that_is_built_again_later_has_the_same_id() -> None:
    def built(now: datetime) -> UUID:
        return outgoing.slot_assigned("b", "e", "t", "u", "n", ORIGIN, now, max_bytes=MIB).event_id

    assert built(NOW) == built(datetime(2027, 1, 1, tzinfo=UTC))


def test_content_that_expires_again_is_another_event() -> None:
    def built(expired_at: datetime) -> UUID:
        return outgoing.pending_expired("b", "t", "u", "n", NOW, expired_at, ORIGIN, max_bytes=MIB).event_id

    assert built(NOW) == built(NOW) != built(datetime(2027, 1, 1, tzinfo=UTC))


def test_text_leaves_as_utf_8_and_trace_context_only_where_it_is_known() -> None:
    origin = Origin(CORRELATION, TRACEPARENT, "a=b")
    event = outgoing.slot_assigned("b", "e", "t", "u", "Åsa", origin, NOW, max_bytes=MIB)
    assert "Åsa".encode() in event.payload
    assert json.loads(event.payload)["metadata"] == {"traceparent": TRACEPARENT, "tracestate": "a=b"}
    bare = outgoing.slot_assigned("b", "e", "t", "u", "Åsa", ORIGIN, NOW, max_bytes=MIB)
    assert json.loads(bare.payload)["metadata"] is None


@pytest.mark.parametrize(("class_id", "kind"), [(None, "GUEST"), ("", "GUEST"), ("class-1", "REGULAR")])
def test_a_batch_is_regular_where_its_registration_names_a_class(class_id: str | None, kind: str) -> None:
    data = json.loads(ready([("e", "t")], class_id=class_id).payload)["data"]
    assert (data["class_type"], data["course_language"]) == (kind, "sv")


@given(st.lists(st.lists(st.tuples(st.text(), st.text()), max_size=3), max_size=5))
def test_pages_are_joined_whatever_they_contain(pages: list[list[tuple[str, str]]]) -> None:
    expected = [{"essay_id": essay, "text_storage_id": content} for page in pages for essay, content in page]
    assert json.loads(ready(*pages).payload)["data"]["ready_essays"] == expected


def test_a_batch_whose_id_looks_like_the_list_of_its_essays_is_announced_completely() -> None:
    batch = '"ready_essays":[],"failed_essays":[]'
    event = asyncio.run(
        outgoing.batch_ready(batch, "SV1", batch, None, None, paged([("e", "t")]), ORIGIN, NOW, max_bytes=MIB)
    )
    data = json.loads(event.payload)["data"]
    assert (data["batch_id"], data["essay_instructions"]) == (batch, batch)
    assert data["ready_essays"] == [{"essay_id": "e", "text_storage_id": "t"}]


def test_an_event_may_be_as_long_as_its_limit_and_no_longer() -> None:
    def slot(max_bytes: int) -> Outgoing:
        return outgoing.slot_assigned("b", "e", "t", "u", "n", ORIGIN, NOW, max_bytes=max_bytes)

    length = len(slot(MIB).payload)
    assert len(slot(length).payload) == length
    with pytest.raises(Unpublishable):
        slot(length - 1)
    length = len(ready([("e", "t")]).payload)
    assert len(ready([("e", "t")], max_bytes=length).payload) == length
    with pytest.raises(Unpublishable) as raised:
        ready([("e", "t")], max_bytes=length - 1)
    assert BATCH in str(raised.value)
    length = len(errors([failed_slot()]).payload)
    assert len(errors([failed_slot()], max_bytes=length).payload) == length
    with pytest.raises(Unpublishable):
        errors([failed_slot()], max_bytes=100)


def test_no_further_page_is_read_once_an_event_is_too_long() -> None:
    given_out = []

    async def endless() -> AsyncIterator[Sequence[tuple[str, str]]]:
        while True:
            given_out.append(1)
            yield [("e" * 100, "t" * 100)] * 100

    with pytest.raises(Unpublishable):
        asyncio.run(outgoing.batch_ready(BATCH, "SV1", "", None, None, endless(), ORIGIN, NOW, max_bytes=100_000))
    assert len(given_out) < 10


def test_errors_are_counted_by_their_code() -> None:
    given = [
        ("EMPTY_CONTENT", "x"),
        (None, "CONTENT_TOO_LONG"),
        ("RAW_STORAGE_FAILED", "EMPTY_CONTENT"),
        (None, "b" * 1_024),
        ('"', "EMPTY_CONTENT"),
        ("c", "d"),
    ]
    slots = [
        failed_slot(f"u{n}", error_code=own, details={"a": 1})._replace(validation_error_code=code)
        for n, (own, code) in enumerate(given)
    ]
    data = json.loads(errors(slots[:2], slots[2:], critical=True).payload)["data"]
    assert data["error_summary"] == {
        "total_errors": 6,
        "error_categories": {
            "EMPTY_CONTENT": 2,
            "CONTENT_TOO_LONG": 1,
            "RAW_STORAGE_FAILED": 1,
            "UNKNOWN_VALIDATION_ERROR": 2,
        },
        "critical_failure": True,
    }
    assert [essay["essay_id"] for essay in data["failed_essays"]] == ["u0", "u1", "u2", "u3", "u4", "u5"]
    details = [essay["error_detail"]["details"] for essay in data["failed_essays"]]
    assert [each.get("original_error_code") for each in details] == ["x", None, None, "b" * 1_024, '"', "c"]
    assert {each["a"] for each in details} == {1}


def test_what_a_producer_left_out_is_filled_in_and_what_it_gave_is_kept() -> None:
    names = ("error_code", "correlation_id", "timestamp", "service", "operation", "details")
    nothing: dict[str, Any] = dict.fromkeys(names)
    slots = [failed_slot(**nothing), failed_slot(service="", operation="store", timestamp="t")]
    first, second = json.loads(errors(slots).payload)["data"]["failed_essays"]
    assert first["error_detail"] == {
        "error_code": "EMPTY_CONTENT",
        "message": "The file holds no text.",
        "correlation_id": str(CORRELATION),
        "timestamp": first["failed_at"],
        "service": "file_service",
        "operation": "validate_content",
        "details": {},
        "stack_trace": None,
        "trace_id": None,
        "span_id": None,
    }
    kept = second["error_detail"]
    assert (kept["service"], kept["operation"], kept["timestamp"]) == ("", "store", "t")


@pytest.mark.parametrize(
    ("message", "cut"),
    [("m" * 1024, "m" * 1024), ("m" * 1025, "m" * 1024), ("m" + "å" * 600, "m" + "å" * 511)],
)
def test_a_message_is_cut_at_a_kibibyte_between_two_characters(message: str, cut: str) -> None:
    data = json.loads(errors([failed_slot(message=message)]).payload)["data"]
    assert data["failed_essays"][0]["error_detail"]["message"] == cut


def test_details_and_stack_traces_are_left_out_where_the_event_would_exceed_16_mib() -> None:
    slots = [failed_slot(f"u{n}", details={"a": "x" * MIB}, stack_trace="s", trace_id="t") for n in range(17)]
    whole = json.loads(errors(slots[:15]).payload)["data"]["failed_essays"]
    bare = json.loads(errors(slots).payload)["data"]["failed_essays"]
    assert {essay["error_detail"]["stack_trace"] for essay in whole} == {"s"}
    assert len(bare) == 17
    for essay in bare:
        detail = essay["error_detail"]
        assert (detail["details"], detail["stack_trace"], detail["trace_id"]) == ({}, None, "t")


def test_the_code_of_the_producer_remains_where_the_details_are_left_out() -> None:
    slots = [
        failed_slot(f"u{n}", error_code="n" * 1_024, details={"a": "x" * MIB})._replace(validation_error_code="x")
        for n in range(17)
    ]
    for essay in json.loads(errors(slots).payload)["data"]["failed_essays"]:
        assert essay["error_detail"]["details"] == {"original_error_code": "n" * 1_024}


@pytest.mark.parametrize("number", [80_000, 100_000])
def test_a_batch_of_failures_only_is_announced_however_long_their_texts_are(number: int) -> None:
    code = "ENCRYPTED_FILE_UNSUPPORTED"
    long = failed_slot(message="m" * 2_000, details={"a": "x"}, operation="o" * 2_000, error_code=code)
    one = long._replace(original_file_name="ö" * 2_000, validation_error_code=code)
    slots = [one._replace(file_upload_id=str(UUID(int=number))) for number in range(number)]
    event = errors(slots, max_bytes=IntakeLimits().large_event_bytes)
    data = json.loads(event.payload)["data"]
    assert [essay["essay_id"] for essay in data["failed_essays"]] == [slot.file_upload_id for slot in slots]
    assert data["failed_essays"][0]["file_name"] == "ö" * 8
    assert data["error_summary"]["error_categories"] == {code: number}
    if number == 80_000:
        envelope: Any = contract.Envelope
        TypeAdapter(envelope[contract.ValidationErrors]).validate_json(event.payload)


def test_a_large_number_as_jsonb_returns_it_can_be_published() -> None:
    event = errors([failed_slot(details={"n": 10**300, "å": 2**64})])
    detail = json.loads(event.payload)["data"]["failed_essays"][0]["error_detail"]
    assert detail["details"] == {"n": 10**300, "å": 2**64}
    assert event.topic == VALIDATION_ERRORS


@given(st.text(), st.text(), st.integers(0, 2**63 - 1))
def test_decoding_an_encoded_content_returns_the_same_content(name: str, md5: str, size: int) -> None:
    changed = having(having(CONTENT, "data.content_md5_hash", md5), "data.file_size_bytes", size)
    event = read(having(changed, "data.original_file_name", name))
    if "\0" in name + md5:
        assert isinstance(event, Rejection)
        return
    assert isinstance(event, ContentProvisioned)
    origin = Origin(event.correlation_id, event.traceparent, event.tracestate)
    sent = outgoing.slot_assigned(
        event.batch_id,
        "e",
        event.text_storage_id,
        event.file_upload_id,
        event.original_file_name,
        origin,
        NOW,
        max_bytes=MIB,
    )
    data = json.loads(sent.payload)["data"]
    assert (data["original_file_name"], data["text_storage_id"]) == (name, event.text_storage_id)
    assert (event.content_md5_hash, event.file_size_bytes) == (md5, size)
