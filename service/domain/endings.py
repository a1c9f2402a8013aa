"""Decides how an operator ends a batch: closes it with what is there, or cancels it. Pure functions."""

from typing import Literal, NamedTuple

from service.domain.decisions import BatchCount
from service.domain.topics import BATCH_CANCELLED, BATCH_COMPLETED, BATCH_READY, VALIDATION_ERRORS


class EndBatch(NamedTuple):
    """Withdraw the open slots, give the batch this state, and announce that on these topics, in this order."""

    state: Literal["complete", "ready", "failed", "cancelled"]
    topics: tuple[str, ...]


class KeepBatch(NamedTuple):
    """The state of the batch forbids it."""

    why: str


def decide_close(state: str, count: BatchCount, *, waits: bool) -> EndBatch | KeepBatch:
    """Decide about closing a batch, whose counter row is locked: it ends as if its last slot were taken.

    With `waits`, its class is not confirmed, and it is ready only when it is.
    """
    if state != "registered":
        return KeepBatch(f"is {state}: only a registered batch can be closed")
    errors = (VALIDATION_ERRORS,) if count.failed or not count.assigned else ()
    if not count.assigned:
        return EndBatch("failed", errors)
    if waits:
        return EndBatch("complete", (*errors, BATCH_COMPLETED))
    return EndBatch("ready", (*errors, BATCH_COMPLETED, BATCH_READY))


def decide_cancel(state: str) -> EndBatch | KeepBatch:
    """Decide about cancelling a batch, whose counter row is locked."""
    if state not in ("registered", "complete"):
        return KeepBatch(f"is {state}: only a batch that is not announced as ready or failed can be cancelled")
    return EndBatch("cancelled", (BATCH_CANCELLED,))
