"""Tests that any value can be shown and compared for an operator, quickly and in little memory."""

import difflib
import json
import time

from service.operators.editing import difference, editable


def essays(*ids: str) -> bytes:
    return json.dumps({"essay_ids": ids}).encode()


def test_a_deep_value_is_edited_as_it_is() -> None:
    """With a line for each element it would be 300 times longer: 1 GB for a registration."""
    deep = b"[" * 300 + b"1," * 20_000 + b"1" + b"]" * 300
    assert editable(deep) == deep.decode()
    assert editable(b'{"a":[1]}') == '{\n  "a": [\n    1\n  ]\n}\n'


def test_long_values_are_compared_quickly() -> None:
    """A comparison of every line with every other one would take half an hour, on the event loop of a pod."""
    before = essays(*map(str, range(100_000)))
    after = essays(*(str(n) if n % 2 else f"x{n}" for n in range(100_000)))
    started = time.monotonic()
    lines = difference(before, after).splitlines()
    assert time.monotonic() - started < 20
    assert lines[2] == "@@ -3,99999 +3,99999 @@"
    assert (lines[3], lines[-1]) == ('-    "0",', '+    "x99998",')


def test_a_difference_is_the_usual_one() -> None:
    for before, after in (
        (essays(*"abcdefghij"), essays(*"abcdeXghij")),
        (essays(*"abcdefghij"), essays(*"abcdefghij", "k")),
        (b"no json", b"[]"),
        (b"", b"[]"),
    ):
        old, new = ((editable(each) or "").splitlines() for each in (before, after))
        usual = list(difflib.unified_diff(old, new, "original", "edited", lineterm=""))
        assert difference(before, after).splitlines() == usual
    assert difference(essays("a"), b'{"essay_ids":   ["a"]}') == ""
