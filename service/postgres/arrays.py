"""Encodes array parameters in PostgreSQL's binary form."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from struct import Struct, pack
from typing import Any

from psycopg import AsyncConnection, Connection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)

_MICROSECOND = timedelta(microseconds=1)

_NULL = b"\xff\xff\xff\xff"

_LENGTH = Struct("!I").pack


def _with_lengths(values: Sequence[Any]) -> Iterable[Buffer]:
    """Put its length before each element, of bytes or None. Without a Python loop where none is NULL."""
    try:
        lengths = list(map(_LENGTH, map(len, values)))
    except TypeError:
        pairs = ((_NULL,) if value is None else (_LENGTH(len(value)), value) for value in values)
        return chain.from_iterable(pairs)
    return chain.from_iterable(zip(lengths, values, strict=True))


class Array:
    """An array parameter, with a subclass for each element type. Elements of None are NULL."""

    __slots__ = ("values",)
    array_oid = 0
    element_oid = 0

    def __init__(self, values: Sequence[object]) -> None:
        self.values = values

    def encoded(self) -> Iterable[Buffer]:
        """Encode the elements, each with its length before it."""
        raise NotImplementedError


class Texts(Array):
    """text[]"""

    array_oid, element_oid = 1009, 25

    def encoded(self) -> Iterable[Buffer]:
        try:
            return _with_lengths(list(map(str.encode, self.values)))  # type: ignore[arg-type]
        except TypeError:  # there are NULLs, or texts that are encoded already
            return _with_lengths([value.encode() if isinstance(value, str) else value for value in self.values])


class Blobs(Array):
    """bytea[]"""

    array_oid, element_oid = 1001, 17

    def encoded(self) -> Iterable[Buffer]:
        return _with_lengths(self.values)


class Integers(Array):
    """bigint[]"""

    array_oid, element_oid = 1016, 20

    def encoded(self) -> list[bytes]:
        return [_NULL if value is None else pack("!iq", 8, value) for value in self.values]


class Uuids(Array):
    """uuid[]"""

    array_oid, element_oid = 2951, 2950

    def encoded(self) -> list[bytes]:
        return [
            _NULL if value is None else b"\x00\x00\x00\x10" + value.bytes  # type: ignore[attr-defined]
            for value in self.values
        ]


class Times(Array):
    """timestamptz[], from datetimes with a time zone."""

    array_oid, element_oid = 1185, 1184

    def encoded(self) -> list[bytes]:
        return [
            _NULL if value is None else pack("!iq", 8, (value - _EPOCH) // _MICROSECOND)  # type: ignore[operator]
            for value in self.values
        ]


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        if not obj.values:
            return pack("!iii", 0, 0, obj.element_oid)
        header = pack("!iiiii", 1, 1, obj.element_oid, len(obj.values), 1)
        return b"".join((header, *obj.encoded()))


def _dumper_for(array: type[Array]) -> type[Dumper]:
    return type(f"{array.__name__}Dumper", (_ArrayDumper,), {"oid": array.array_oid})


_DUMPERS: dict[type, type[Dumper]] = {array: _dumper_for(array) for array in (Texts, Blobs, Integers, Uuids, Times)}


def register(connection: "AsyncConnection | Connection") -> None:
    """Register the encoders of these types with a connection."""
    for bound, dumper in _DUMPERS.items():
        connection.adapters.register_dumper(bound, dumper)
