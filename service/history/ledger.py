"""Stores facts in a temporary SQLite file, and reads them back sorted by batch."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson


class Ledger:
    """A temporary file of facts. They are read back batch by batch, so that memory holds those of one batch."""

    def __init__(self, kinds: Sequence[type[Any]]) -> None:
        """`kinds` are the named tuples that may be stored; their values are JSON."""
        self._kinds = tuple(kinds)

    def __enter__(self) -> "Ledger":
        import sqlite3  # noqa: PLC0415  a pod needs it only for a recovery

        self._folder = TemporaryDirectory(prefix="els-")
        self._file = sqlite3.connect(Path(self._folder.name) / "ledger", isolation_level=None)
        self._file.execute("pragma journal_mode = off")
        self._file.execute("pragma synchronous = off")
        self._file.execute("create table fact (batch_id text, kind int, body blob)")
        self._file.execute(
            "create table rejected ("
            "cell int, topic text, fingerprint text, state text, primary key (cell, topic, fingerprint))"
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._folder.cleanup()

    def add(self, facts: Sequence[tuple[str, Any]]) -> None:
        """Store facts with the ids of their batches."""
        self._file.execute("begin")
        rows = ((batch_id, self._kinds.index(type(fact)), orjson.dumps(tuple(fact))) for batch_id, fact in facts)
        self._file.executemany("insert into fact values (?, ?, ?)", rows)
        self._file.execute("commit")

    def add_quarantined(self, rejected: Sequence[tuple[str, str, str]], cell: int) -> None:
        """Store the rejected inputs in the quarantine of a cell: (topic, fingerprint, state)."""
        self._file.execute("begin")
        self._file.executemany("insert into rejected values (?, ?, ?, ?)", [(cell, *each) for each in rejected])
        self._file.execute("commit")

    def quarantine_state(self, cell: int, topic: str, fingerprint: str) -> str | None:
        """Return the state of a rejected input, None where it is not in the quarantine of this cell."""
        row = self._file.execute(
            "select state from rejected where cell = ? and topic = ? and fingerprint = ?", (cell, topic, fingerprint)
        ).fetchone()
        return row[0] if row else None

    def batches(self) -> Iterator[tuple[str, Iterator[Any]]]:
        """Yield every batch id with the facts of the batch."""
        rows = self._file.execute("select batch_id, kind, body from fact order by batch_id")
        for batch_id, some in groupby(rows, itemgetter(0)):
            yield batch_id, (self._kinds[kind](*orjson.loads(body)) for _, kind, body in some)
