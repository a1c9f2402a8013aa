"""Checks on JSON that a parser does not make: depth, lone surrogates, and values that cannot be stored."""

import re
from itertools import accumulate, compress
from math import isfinite
from operator import not_, xor

from service.domain.events import (
    INT64,
)

DEEPEST = 64

_BUT_MARKS = bytes(set(range(256)) - set(b'"[]{}'))

_AS_STEPS = bytes.maketrans(b'[{]}"', b"\x01\x01\xff\xff\x00")

_AS_QUOTES = bytes(mark == ord('"') for mark in range(256))


def is_too_deep(value: bytes) -> bool:
    """Whether brackets outside strings nest deeper than `DEEPEST`; no loop of ours runs over the bytes.

    Few brackets cannot nest deep, and nearly every record ends there. Else only quotes and brackets are
    left of the text; a quote switches between outside and inside, so that two in a row are none.
    """
    if value.count(b"[") + value.count(b"{") <= DEEPEST:
        return False
    marks = value.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _BUT_MARKS).replace(b'""', b"")
    inside = accumulate(marks.translate(_AS_QUOTES), xor)
    steps = memoryview(marks.translate(_AS_STEPS)).cast("b")
    return DEEPEST + 1 in accumulate(compress(steps, map(not_, inside)))


_LONE_SURROGATE = re.compile(
    rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def lone_surrogates_as_nul(value: bytes) -> bytes:
    """JSON may escape half a surrogate pair, which the parser refuses wherever it stands.

    As NUL it parses, and is rejected only where it is kept.
    """
    if b"\0" in value or b"\\u" not in value:
        return value
    # An escaped backslash before a "u" is no escape of a surrogate: out of the way, and back.
    return _LONE_SURROGATE.sub(rb"\\u0000", value.replace(rb"\\", b"\0")).replace(b"\0", rb"\\")


def unstorable_part(value: object) -> str | None:
    """What cannot be kept in `value`, which `is_too_deep` keeps from being deep."""
    match value:
        case str():
            return "a NUL or a lone surrogate" if "\0" in value else None
        case float():
            return None if isfinite(value) else "a number that is not finite"
        case int():
            return None if -INT64 - 1 <= value <= INT64 else "an integer beyond 64 bits"
        case dict():
            return next(filter(None, (unstorable_part(part) for pair in value.items() for part in pair)), None)
        case list() | tuple():
            return next(filter(None, map(unstorable_part, value)), None)
    return None
