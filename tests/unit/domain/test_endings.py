"""Tests how an operator may end a batch, and what is announced then."""

import pytest

from service.domain.decisions import BatchCount
from service.domain.endings import EndBatch, KeepBatch, decide_cancel, decide_close
from service.domain.topics import BATCH_CANCELLED, BATCH_COMPLETED, BATCH_READY, VALIDATION_ERRORS


@pytest.mark.parametrize(
    ("assigned", "failed", "waits", "state", "topics"),
    [
        (1, 0, False, "ready", (BATCH_COMPLETED, BATCH_READY)),
        (1, 1, False, "ready", (VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY)),
        (1, 0, True, "complete", (BATCH_COMPLETED,)),
        (1, 1, True, "complete", (VALIDATION_ERRORS, BATCH_COMPLETED)),
        (0, 1, False, "failed", (VALIDATION_ERRORS,)),
        (0, 0, False, "failed", (VALIDATION_ERRORS,)),
        (0, 0, True, "failed", (VALIDATION_ERRORS,)),
    ],
)
def test_a_closed_batch_is_announced_as_one_that_became_full(
    assigned: int, failed: int, waits: bool, state: str, topics: tuple[str, ...]
) -> None:
    assert decide_close("registered", BatchCount(3, assigned, failed), waits=waits) == (state, topics)


@pytest.mark.parametrize("state", ["complete", "ready", "failed", "cancelled"])
def test_only_a_registered_batch_is_closed(state: str) -> None:
    assert isinstance(decide_close(state, BatchCount(1, 1, 0), waits=False), KeepBatch)


@pytest.mark.parametrize("state", ["registered", "complete"])
def test_a_batch_is_cancelled_until_it_is_ready_or_failed(state: str) -> None:
    assert decide_cancel(state) == EndBatch("cancelled", (BATCH_CANCELLED,))


@pytest.mark.parametrize("state", ["ready", "failed", "cancelled"])
def test_a_terminal_state_is_not_overwritten(state: str) -> None:
    assert isinstance(decide_cancel(state), KeepBatch)


def test_withdrawn_slots_make_a_batch_full() -> None:
    assert BatchCount(3, 1, 1, 1).full
    assert not BatchCount(3, 1, 1).full
