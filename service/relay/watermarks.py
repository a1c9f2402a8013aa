"""From which row on each shard of the outbox is read."""

import time
from collections.abc import Iterable, Sequence
from typing import Final

from service.store.outbox import OutboxRow

WATERMARK_SECONDS: Final = 10.0


class Watermarks:
    """For each shard a seq up to which no row waits, so that a fetch need not wade through dead rows.

    A row with a low seq may be committed after one with a high seq has been read. So a watermark rises only
    to a seq whose every forerunner's transaction had ended when a later fetch found nothing below: the
    transaction id that was drawn after that seq had been seen, against the oldest one that still runs.
    A watermark is a hint: it is forgotten every few seconds, and wherever a row below could come back.
    """

    def __init__(self) -> None:
        self._watermarks: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._candidates: dict[int, tuple[int, int]] = {}
        self._forgotten_at = time.monotonic()

    def of(self, shards: Iterable[int]) -> list[tuple[int, int]]:
        """The shards, each with its watermark."""
        if time.monotonic() - self._forgotten_at > WATERMARK_SECONDS:
            self._watermarks.clear()
            self._forgotten_at = time.monotonic()
        return [(shard, self._watermarks.get(shard, 0)) for shard in shards]

    def drawn(self, transaction_id: int) -> None:
        """This id was drawn after everything seen so far had been read."""
        for shard, seq in self._seen.items():
            self._candidates.setdefault(shard, (seq, transaction_id))
        self._seen.clear()

    def fetched(self, rows: Sequence[OutboxRow]) -> None:
        """What a fetch brought, in the order of seq within each shard."""
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
        """Rows below may come back: a batch is blocked no more, or the shard was another relay's."""
        for shard in shards:
            self._watermarks.pop(shard, None)
            self._candidates.pop(shard, None)
            self._seen.pop(shard, None)
