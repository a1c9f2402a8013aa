"""Computes from which row on each shard of the outbox must be read."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from service.store.outbox import OutboxRow

WATERMARK_SECONDS: Final = 10.0
"""Time after which all watermarks are dropped, in seconds."""


class Watermarks:
    """Keeps a watermark for each shard: a seq below which no row waits, so that a fetch need not scan dead rows there.

    A row with a low seq may be committed after a row with a higher seq was read. So a watermark rises to a seq only
    after two observations. First a fetch returns that seq, and a transaction id drawn afterwards is noted: every
    transaction that could still commit a lower seq has a lower id. Later a fetch shows that the oldest running
    transaction has reached the noted id, and returns no lower row. A watermark is only a hint: all are dropped every
    `WATERMARK_SECONDS`, and one of them whenever a lower row could reappear.
    """

    def __init__(self) -> None:
        self._watermarks: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._candidates: dict[int, tuple[int, int]] = {}
        self._forgotten_at = time.monotonic()

    def of(self, shards: Iterable[int]) -> list[tuple[int, int]]:
        """Returns the shards, each with its watermark; 0 if it has none."""
        if time.monotonic() - self._forgotten_at > WATERMARK_SECONDS:
            self._watermarks.clear()
            self._forgotten_at = time.monotonic()
        return [(shard, self._watermarks.get(shard, 0)) for shard in shards]

    def drawn(self, transaction_id: int) -> None:
        """Note a transaction id that was drawn after all rows fetched so far had been read."""
        for shard, seq in self._seen.items():
            self._candidates.setdefault(shard, (seq, transaction_id))
        self._seen.clear()

    def fetched(self, rows: Sequence[OutboxRow]) -> None:
        """Raise the watermarks after a fetch. `rows` are in the order of seq within each shard."""
        first: dict[int, int] = {}
        for row in rows:
            first.setdefault(row.shard, row.seq)
            self._seen[row.shard] = row.seq
        for shard, lowest in first.items():
            seq, transaction_id = self._candidates.get(shard, (0, rows[0].horizon + 1))
            if transaction_id <= rows[0].horizon:
                self._watermarks[shard] = min(seq, lowest - 1)
                del self._candidates[shard]

    def forget(self, shards: Iterable[int]) -> None:
        """Drop watermarks where lower rows may reappear: a batch was unblocked, or another relay had the shard."""
        for shard in shards:
            self._watermarks.pop(shard, None)
            self._candidates.pop(shard, None)
            self._seen.pop(shard, None)
