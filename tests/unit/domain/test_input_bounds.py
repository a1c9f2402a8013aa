"""Tests the bounds of what is read of an input: its length, its texts, its values and their depth."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain import json_limits
from service.domain.events import ContentProvisioned, Reason, Rejection
from service.domain.incoming import decode
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from tests.support.builders.samples import CONFIRMATION, CONTENT, FAILURE, MIB, REGISTRATION, reason, text


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
