"""Finds when a batch ended, was reported late, was ready or was cancelled: as announced, else as stored."""

from datetime import datetime

from service.recovery.announced import Announced
from service.store.recovery import AnnouncedTimes, StoredBatch


def times_of(known: Announced, before: StoredBatch | None) -> AnnouncedTimes:
    """Return what announcements state. `before` is the batch as it is stored, if its row stays.

    A batch may be confirmed or cancelled long after it became complete, so that only the second is in what is read.
    Then its row states the first, unless that is later: then a pod has decided it on a database that was set back.
    """
    last = known.ready or known.cancelled
    is_stated = last and before and before.completed_at and before.completed_at <= last.time
    completed = known.completed or known.errors or (None if is_stated else last)
    knows_completions = known.completed or (before and (before.state == "complete" or before.ready_announced_at))
    return AnnouncedTimes(
        completed.time if completed else None,
        known.timeout.time if known.timeout else None,
        known.ready.time if known.ready and knows_completions else None,
        known.ready is not None,
        *_cancellation(known, before),
    )


def _cancellation(known: Announced, before: StoredBatch | None) -> tuple[datetime | None, str | None]:
    """Return when and why the batch was cancelled. What is stored stays unless an announcement contradicts it."""
    if known.cancelled:
        return known.cancelled.time, known.cancelled.named("reason")
    if before is None or known.ready or known.failed:
        return None, None
    ended = known.completed or known.errors
    stays = ended is None or ended.time == before.completed_at != before.cancelled_at
    return (before.cancelled_at, before.cancel_reason) if stays else (None, None)
