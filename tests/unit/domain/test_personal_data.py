"""Personal data is blanked in events, and found in whatever was rejected."""

import json

import pytest

from service.domain.events import BatchRegistered, ContentProvisioned, ValidationFailed
from service.domain.personal_data import (
    BLANK,
    MOST_MENTIONS,
    OTHER_COLUMNS,
    PERSONAL_COLUMNS,
    blanked,
    contains,
    mentions_in,
)
from tests.support.builders.inputs import failed, provisioned, registered
from tests.support.checks.personal import contains_name

NAME = "Åsa Öberg.docx"


def test_blanked_events_keep_what_identifies_them() -> None:
    detail = {"message": NAME, "details": {"path": NAME}, "stack_trace": NAME, "service": NAME, "operation": NAME}
    content = provisioned("b", "t", original_file_name=NAME).event
    failure = failed("b", "u", original_file_name=NAME, validation_error_detail=detail).event
    registration = registered("b", "e", user_id=NAME, essay_instructions=NAME, student_prompt_ref={"x": NAME}).event
    assert isinstance(content, ContentProvisioned)
    assert isinstance(failure, ValidationFailed)
    assert isinstance(registration, BatchRegistered)
    for event in (content, failure, registration):
        assert contains_name(repr(event).encode(), NAME)
        blank = blanked(event)
        assert not contains_name(repr(blank).encode(), NAME)
        assert blanked(blank) == blank
    assert blanked(content).text_storage_id == "t"
    assert (blanked(failure).file_upload_id, blanked(failure).error_detail["message"]) == ("u", BLANK)
    assert blanked(failure).error_detail.keys() == failure.error_detail.keys()
    assert (blanked(registration).essay_ids, blanked(registration).essay_instructions) == (("e",), "")


@pytest.mark.parametrize(
    "value",
    [
        json.dumps({"data": {"batch_id": "b-1", "original_file_name": NAME}}).encode(),
        json.dumps({"data": {"batch_id": "b-1", "original_file_name": NAME}}, ensure_ascii=False).encode(),
        json.dumps({"data": {"batch_id": "b-1", "original_file_name": NAME}}, ensure_ascii=False).encode("utf-16"),
        json.dumps({"entity_id": "b-1", "files": [{"name": NAME}]}).encode()[:-3],
        json.dumps({"batch_id": "b-1", "original_file_name": NAME}, ensure_ascii=False).encode("utf-16-le"),
        json.dumps(json.dumps({"data": {"batch_id": "b-1", "original_file_name": NAME}})).encode(),
        json.dumps(json.dumps({"batch_id": "b-1", "n": NAME}, ensure_ascii=False)).encode(),
        b'\xff broken {"batch_id": "b-1", "x": "' + NAME.encode() + b'"',
        b'{"batch_id": "b\\u002d1", "n": "\\u00c5sa \\u00d6berg.docx"}',
    ],
)
def test_ids_and_names_are_found_in_whatever_was_rejected(value: bytes) -> None:
    found = mentions_in(b"key", value)
    assert {"b-1", NAME, "key"} <= found.texts
    assert found.batch_id == "b-1"


def test_what_is_not_json_is_searched_by_words() -> None:
    found = mentions_in(None, b"batch batch-0001 failed; user=teacher-7, <upload-3> 42")
    assert {"batch-0001", "teacher-7", "upload-3"} <= found.texts
    assert "42" not in found.texts, "a short word is nobody's id"
    assert "42" in mentions_in(None, b'{"user_id": "42"}').texts
    assert found.batch_id is None
    assert mentions_in(None, None) == (frozenset(), None)
    assert mentions_in(
        b"\xff\0", b'"\\ud800 and more" "a long \\q"'
    ).texts  # neither a lone surrogate nor a wrong escape raises


def test_keys_and_headers_are_searched() -> None:
    found = mentions_in(b'"b-1"', None, headers=[NAME.encode(), b'"batch-0001"', b"7", b"x" * 2_000])
    assert found.texts == {"b-1", '"b-1"', NAME, "batch-0001"}


def test_named_fields_are_found_behind_any_number_of_others() -> None:
    many = json.dumps(
        {"essay_ids": [f"essay-{n:06}" for n in range(MOST_MENTIONS + 10)], "user_id": "teacher-7"}
    ).encode()
    found = mentions_in(None, many)
    assert "teacher-7" in found.texts
    assert len(found.texts) == MOST_MENTIONS


def test_a_quote_that_is_never_closed_is_searched_once() -> None:
    """And not again from each quote in it, which took minutes, and the loop of the pod with them."""
    found = mentions_in(None, b'"' + b'\\"' * 100_000 + b" teacher-7 ")
    assert "teacher-7" in found.texts


def test_a_name_is_contained_in_any_case_and_normal_form() -> None:
    assert contains("A\u030asa OBERG.docx", "åsa")
    assert not contains("Asa", "åsa")


def test_no_column_is_both_personal_and_not() -> None:
    for table, columns in PERSONAL_COLUMNS.items():
        assert not set(columns) & set(OTHER_COLUMNS[table]), table
