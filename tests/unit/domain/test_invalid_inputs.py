"""Tests which inputs are rejected for which reason."""

from typing import Any

import pytest

from service.domain.events import Reason, Rejection
from service.domain.incoming import decode
from service.domain.topics import CONTENT_PROVISIONED, INCOMING_TOPICS, OUTGOING_TOPICS, VALIDATION_FAILED
from tests.support.builders.samples import (
    ABSENT,
    CONTENT,
    EVERY,
    FAILURE,
    MIB,
    NEWER,
    REGISTRATION,
    SAMPLES,
    having,
    reason,
    text,
)


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


def error(document: dict[str, Any]) -> str:
    answer = decode(document["event_type"], text(document), max_bytes=MIB)
    assert isinstance(answer, Rejection)
    return answer.error


@pytest.mark.parametrize(
    ("document", "path", "value", "found"),
    [
        (CONTENT, "schema_version", 2, "schema_version is 2, and not 1"),
        (CONTENT, "schema_version", 10**400, "is a number of more than 18 digits, and not 1"),
        (REGISTRATION, "data.expected_essay_count", 0, "is 0, and not between 1 and"),
        (CONTENT, "schema_version", None, "; found: null"),
        (CONTENT, "data.file_size_bytes", "many", "; found: a text of length 4"),
        (CONTENT, "data.file_size_bytes", -1, "; found: an integer"),
        (CONTENT, "data.file_size_bytes", 1.5, "; found: a number that is no integer"),
        (CONTENT, "data.file_size_bytes", True, "; found: true or false"),
        (CONTENT, "data", [1, 2], "; found: a list of length 2"),
        (REGISTRATION, "data.user_id", {"ssn": "19121212-1212"}, "; found: an object"),
    ],
)
def test_an_error_says_what_was_found(document: dict[str, Any], path: str, value: object, found: str) -> None:
    assert found in error(having(document, path, value))


@pytest.mark.parametrize("value", [191212121212, ["Åsa Öberg"], {"Åsa Öberg": 1}, "Åsa Öberg" * 200])
def test_an_error_quotes_no_value_that_may_name_a_person(value: object) -> None:
    for document, path in ((REGISTRATION, "data.user_id"), (CONTENT, "data.original_file_name")):
        said = error(having(document, path, value))
        assert ("Åsa" in said, "1912" in said, "found: " in said) == (False, False, True)
