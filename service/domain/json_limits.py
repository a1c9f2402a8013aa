"""Checks of JSON that a parser does not make: depth, number of values, lone surrogates, what cannot be stored."""

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


_BUT_COUNTED = bytes(set(range(256)) - set(b'"[{,'))
_CHUNK = 64 * 1024


def has_too_many_values(value: bytes, most: int) -> bool:
    """Return whether the JSON has more than `most` values; an empty list or object counts as two.

    Strings are cut out chunk by chunk: there may be millions.
    """
    marks = value.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _BUT_COUNTED)
    count, inside = 1, 0
    for begin in range(0, len(marks), _CHUNK):
        parts = marks[begin : begin + _CHUNK].split(b'"')
        count += sum(map(len, parts[inside::2]))
        inside ^= (len(parts) - 1) & 1
    return count > most


def is_too_deep(value: bytes) -> bool:
    """Return whether brackets outside strings nest deeper than `DEEPEST`, without a Python loop over the bytes.

    Few brackets cannot nest deeply, and nearly every record has few. Otherwise all but quotes and brackets is removed.
    A quote switches between outside and inside of a string, so that two adjacent quotes cancel each other.
    """
    if value.count(b"[") + value.count(b"{") <= DEEPEST:
        return False
    marks = value.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _BUT_MARKS).replace(b'""', b"")
    inside = accumulate(marks.translate(_AS_QUOTES), xor)
    steps = memoryview(marks.translate(_AS_STEPS)).cast("b")
    return DEEPEST + 1 in accumulate(compress(steps, map(not_, inside)))


_HIGH = rb"\\u[dD][89abAB][0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_LONE_SURROGATE = re.compile(rb"(?<!%b)%b|%b(?!%b)" % (_HIGH, _LOW, _HIGH, _LOW))
_BETWEEN_PAIRS = re.compile(rb"(?<!%b)\\u|\\u(?!%b)" % (_HIGH, _LOW[3:]))


def lone_surrogates_as_nul(value: bytes) -> bytes:
    """Replace the escapes of lone surrogates by that of NUL.

    The parser rejects a lone surrogate anywhere in the JSON. NUL can be parsed, and is rejected only in a field that is
    stored. One substitution would keep other threads from running while it replaces millions, so it is done in chunks.
    """
    if b"\0" in value or b"\\u" not in value:
        return value
    # An escaped backslash before a "u" does not begin the escape of a surrogate, so it is replaced meanwhile.
    marked = value.replace(rb"\\", b"\0")
    parts, begin = [], 0
    while begin < len(marked):
        cut = _BETWEEN_PAIRS.search(marked, begin + _CHUNK)
        end = cut.start() if cut else len(marked)
        parts.append(_LONE_SURROGATE.sub(rb"\\u0000", marked[begin:end]))
        begin = end
    return b"".join(parts).replace(b"\0", rb"\\")


def unstorable_part(value: object) -> str | None:
    """Describe a part of `value` that cannot be stored, or return None. `is_too_deep` bounds the recursion."""
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
