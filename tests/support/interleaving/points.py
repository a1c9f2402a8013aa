"""Points of a search through the orders of a race, known again where another order has come to them before.

How an order goes on from a point is decided by what is committed, by what each open transaction has written, and by
what each actor was answered so far (its poll and its code are the same in every order). So two orders that agree in
these need not both be run to their ends. Who waits for a lock is in the middle of a statement, which nobody can look
into: what that has seen is given by the point where it began and by what it found at each end of a transaction since.

Row locks are not looked at: of a transaction that stands they follow from what it was answered, but for a row that it
has waited for and that then did not match any more. Nothing that a poll does waits for such a row.

What is left out, because neither the service nor those who judge its tables ask for it: what the clock says, but for
what has the same time; numbers of sequences, but for their order; where a row lies, but for the order in its table.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

Row = tuple[str, str, list[int], list[str | None], str]
"""Its table, where it lies in it, its numbers, its times, and all else."""

NUMBERS: Mapping[str, tuple[str, str]] = {
    "outbox": ("seq", "outbox_seq_seq"),
    "outbox_pages": ("seq", "outbox_seq_seq"),
    "pending_content": ("arrival", "arrivals"),
    "validation_failures": ("arrival", "arrivals"),
    "quarantine": ("id", "quarantine_id_seq"),
}
"""The column of a table that a sequence fills, in which order alone counts, and the sequence."""


def digest(*parts: object) -> bytes:
    """The parts, as they are written, in a few bytes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


class History:
    """What an actor was answered so far."""

    def __init__(self) -> None:
        self.digest = b""

    def add(self, what: str, *details: object) -> None:
        """A statement (or an end) with its answer, its times and numbers left out."""
        self.digest = digest(self.digest, what, details)

    def add_answer(self, name: str, result: psycopg.pq.abc.PGresult | None) -> None:
        """A statement with what the server has answered."""
        if result is None:
            return self.add(name)
        told = [
            column
            for column in range(result.nfields)
            if result.ftype(column) != _TIMESTAMPTZ and result.fname(column) not in _ANSWERED_NUMBERS
        ]
        rows = [[result.get_value(row, column) for column in told] for row in range(result.ntuples)]
        return self.add(name, result.command_status, rows)


_ANSWERED_NUMBERS = {name.encode() for name, _ in NUMBERS.values()}
_TIMESTAMPTZ = psycopg.adapters.types["timestamptz"].oid


@dataclass(frozen=True, slots=True)
class Standing:
    """An actor in front of a step: what it was answered, whether it may go before others, what its tables show it."""

    history: bytes
    fresh: bool
    view: Sequence[Row]


class Point(NamedTuple):
    """What a point is known by, and what those who wait have seen since they began to wait."""

    key: bytes
    seen: Mapping[str, bytes]


def point(
    committed: Sequence[Row],
    standing: Mapping[str, Standing],
    gone: Sequence[object],
    waiting: Iterable[str],
    before: Point | None,
    after_end: bool,
) -> Point:
    """Where the race stands; `gone` is what is to be known of all who have come to an end.

    `before` is the point of the step that led here, and `after_end` whether a transaction has ended with it.
    """
    changes = {name: _changes(committed, each.view) for name, each in standing.items()}
    plain = _Plain([*committed, *(row for rows in changes.values() for row in (*rows[0], *rows[1]))])
    others = digest(
        [plain.row(row) for row in committed],
        [
            (name, each.history, each.fresh, [[plain.row(row) for row in rows] for rows in changes[name]])
            for name, each in standing.items()
        ],
        gone,
    )
    seen = {}
    for name in waiting:
        if before is not None and name in before.seen:
            seen[name] = digest(before.seen[name], others) if after_end else before.seen[name]
        else:
            seen[name] = digest(before and before.key, name)
    return Point(digest(others, sorted(seen.items())), seen)


def end(committed: Sequence[Row], dead: Sequence[str]) -> bytes:
    """How an order ended: as a point, but that no place in a table counts any more."""
    plain = _Plain(sorted(committed, key=lambda row: (row[0], row[4])))
    told = [(table, numbers, times, rest) for table, _, numbers, times, rest in map(plain.row, plain.rows)]
    return digest(told, sorted(dead))


class Been:
    """The points at which orders have been."""

    def __init__(self) -> None:
        self._asleep: dict[bytes, list[Mapping[Any, object]]] = {}

    def before(self, point: Point, asleep: Mapping[Any, object]) -> bool:
        """Whether another order has been here and tried all that this one would; it is remembered if not.

        What is `asleep` need not be tried, as what it leads to is met on another way: an order that came with no more
        of it asleep has done this one's work.
        """
        others = self._asleep.setdefault(point.key, [])
        if any(other.items() <= asleep.items() for other in others):
            return True
        others.append(dict(asleep))
        return False


def _changes(committed: Sequence[Row], view: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """What a transaction has written, and what it has taken away."""
    there, seen = {row[:2] for row in committed}, {row[:2] for row in view}
    return [row for row in view if row[:2] not in there], [row for row in committed if row[:2] not in seen]


class _Plain:
    """Rows, and what counts of each: of places and numbers their order, of times which are the same."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._places = _ranks({(table, _place(place)) for table, place, *_ in rows})
        self._numbers = _ranks({(NUMBERS[table][1], number) for table, _, numbers, *_ in rows for number in numbers})
        self._times: dict[str, int] = {}

    def row(self, row: Row) -> tuple[str, int, list[int], list[int | None], str]:
        table, place, numbers, times, rest = row
        return (
            table,
            self._places[table, _place(place)],
            [self._numbers[NUMBERS[table][1], number] for number in numbers],
            [None if time is None else self._times.setdefault(time, len(self._times)) for time in times],
            rest,
        )


def _place(ctid: str) -> tuple[int, ...]:
    return tuple(map(int, ctid.strip("()").split(",")))


def _ranks(values: Iterable[Any]) -> dict[Any, int]:
    return {value: rank for rank, value in enumerate(sorted(values))}


def question(columns: Mapping[str, Sequence[tuple[str, str]]]) -> str:
    """SQL that reads the tables as rows; to be given the (name, type) of the columns of each."""
    return " union all ".join(map(_question, columns, columns.values()))


def _question(table: str, columns: Sequence[tuple[str, str]]) -> str:
    numbers = [name for name, _ in columns if name in NUMBERS.get(table, ())[:1]]
    times = [name for name, kind in columns if kind.startswith("timestamp")]
    rest = [name for name, _ in columns if name not in numbers and name not in times]
    arrays = (f"jsonb_build_array({', '.join(map(_told, names))})" for names in (numbers, times, rest))
    return f"select '{table}', ctid::text, {', '.join(arrays)}::text from els.{table}"


def _told(name: str) -> str:
    """An event tells of the time when it was made."""
    return f"""regexp_replace("{name}", '{_TIME}', '', 'g')""" if name in ("events", "payload") else f'"{name}"'


_TIME = r"\d{4}-\d\d-\d\dT[0-9:.]+"


def rows(answer: Iterable[Sequence[Any]]) -> list[Row]:
    """The answer to the question, table by table in the order in which the rows lie."""
    read: list[Row] = [(table, place, numbers, times, rest) for table, place, numbers, times, rest in answer]
    return sorted(read, key=lambda row: (row[0], _place(row[1])))
