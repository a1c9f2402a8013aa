"""Computes from which row on the outbox must be read."""

import time
from collections.abc import Sequence
from typing import Final

from service.store.outbox import OutboxRow

WATERMARK_SECONDS: Final = 10.0
"""Time after which the watermark is dropped, in seconds."""


class Watermark:
    """A seq up to which no row of this relay waits, except rows of blocked batches. A fetch skips the dead rows there.

    A row with a low seq may be committed after a row with a higher seq was read. So the watermark rises to a seq only
    after two observations. First a fetch returns that seq, and a transaction id drawn afterwards is noted: every
    transaction that could still commit a lower seq has a lower id. Later a fetch shows that the oldest running
    transaction has reached the noted id, and returns no lower row. The watermark is only a hint: it is dropped every
    `WATERMARK_SECONDS`, and whenever a lower row could reappear.
    """

    def __init__(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Read from the first row on again: a batch was unblocked, or this relay took shards."""
        self._seq = self._highest = 0
        self._candidate: tuple[int, int] | None = None
        self._dropped_at = time.monotonic()

    @property
    def seq(self) -> int:
        """Returns the watermark; 0 where there is none."""
        if time.monotonic() - self._dropped_at > WATERMARK_SECONDS:
            self.drop()
        return self._seq

    def drawn(self, transaction_id: int) -> None:
        """Note a transaction id that was drawn after all rows fetched so far had been read."""
        if self._candidate is None and self._highest:
            self._candidate = (self._highest, transaction_id)

    def fetched(self, rows: Sequence[OutboxRow]) -> None:
        """Raise the watermark after a fetch, whose first row has its lowest seq."""
        if not rows:
            return
        self._highest = max(self._highest, *(row.seq for row in rows))
        if self._candidate is not None and self._candidate[1] <= rows[0].horizon:
            self._seq = min(self._candidate[0], rows[0].seq - 1)
            self._candidate = None
