"""Tests which inputs are accepted, and what is read of them."""

import json
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any

import pytest

from service.domain.events import (
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Reason,
    Rejection,
    ValidationFailed,
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
    NEWER,
    REGISTRATION,
    SAMPLES,
    TRACEPARENT,
    having,
    read,
    reason,
    text,
)


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
