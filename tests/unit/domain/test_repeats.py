"""What a repeated input may state otherwise than the first one."""

import pytest

from service.domain.events import LONGEST_ERROR, Reason
from service.domain.repeats import FileDifference, KnownFile, conflict, differences, file_difference
from tests.support.builders.events import content, registration


@pytest.mark.parametrize(
    ("essays", "difference"),
    [
        (("e1",), "1 of its 2 ids (e2) are missing in this one, and 0 of its 1 ids in the first"),
        (("e1", "e3"), "1 of its 2 ids (e2) are missing in this one, and 1 of its 2 ids (e3) in the first"),
        (
            tuple("abcd"),
            "2 of its 2 ids (e1, e2) are missing in this one, and 4 of its 4 ids (a, b, c, …) in the first",
        ),
    ],
)
def test_a_conflict_says_which_essays_differ(essays: tuple[str, ...], difference: str) -> None:
    rejection = conflict(("e1", "e2"), registration(essays=essays))
    assert rejection.reason is Reason.CONFLICTING_REGISTRATION
    assert rejection.error.startswith("batch b is registered with another set of essays")
    assert rejection.error.endswith(difference)


def test_a_conflict_of_long_ids_is_no_longer_than_an_error_may_be() -> None:
    long = registration("b" * 255, [f"{n}{'x' * 254}" for n in range(4)])
    assert len(conflict([f"{n}{'y' * 254}" for n in range(4)], long).error) <= LONGEST_ERROR


@pytest.mark.parametrize(
    ("known", "names"),
    [
        (KnownFile("upload-t", "md5", 1), ()),
        (KnownFile("other", "md5", 1), ("file_upload_id",)),
        (KnownFile("other", "other", 2), ("file_upload_id", "content_md5_hash", "file_size_bytes")),
        (KnownFile(None, None, None), ()),
    ],
)
def test_a_repeat_may_name_another_file(known: KnownFile, names: tuple[str, ...]) -> None:
    repeat = content("t")._replace(file_upload_id="upload-t", content_md5_hash="md5", file_size_bytes=1)
    assert file_difference(known, repeat) == (FileDifference(known, repeat, names) if names else None)
    assert file_difference(known, repeat._replace(content_md5_hash=None)) == (
        FileDifference(known, repeat._replace(content_md5_hash=None), rest)
        if (rest := tuple(name for name in names if name != "content_md5_hash"))
        else None
    )


def test_differences_name_the_fields_in_which_a_repeat_differs() -> None:
    first = {"user_id": "teacher", "course_code": "ENG5", "essay_ids": ("e1",)}
    assert differences(first, registration()) == []
    assert differences(first, registration(user_id="other", course_code="SV1")) == ["user_id", "course_code"]
