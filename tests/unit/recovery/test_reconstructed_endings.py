"""Tests how a recovery reconstructs batches that an operator closed or cancelled."""

import pytest

from service.domain.enveloped import event_id
from service.domain.topics import BATCH_CANCELLED, VALIDATION_ERRORS, VALIDATION_FAILED
from service.recovery.facts import Published
from service.store.recovery import AnnouncedTimes, Stored, StoredFailure
from tests.support.builders.announcements import (
    assigned,
    cancelled,
    changes,
    completed,
    ended_at,
    errors,
    essays,
    filled,
    ready,
    received,
    stored_batch,
    texts,
)
from tests.support.builders.inputs import failure


def test_a_batch_that_was_closed_is_recognised_by_its_announcement() -> None:
    announced = [assigned("e2", "t1", 5), errors(6, "f1"), completed(6, ("e2", "t1"))]
    result = changes(announced, [essays("e1", "e2", "e3"), *texts("t1", "t2")])
    assert filled(result) == [("e1", 1, "failed", "f1"), ("e2", 2, "assigned", "t1"), ("e3", 3, "withdrawn", None)]
    assert result.contradictions == []
    assert changes([errors(6, critical=True)], [essays("e1", "e2")]).contradictions == []
    assert filled(changes([errors(6, critical=True)], [essays("e1")])) == [("e1", 1, "withdrawn", None)]


def test_a_close_that_was_announced_only_in_part_is_no_contradiction() -> None:
    """Its errors are published before its completion, which is announced now."""
    result = changes([assigned("e2", "t1", 5), errors(6, "f1")], [essays("e1", "e2", "e3"), *texts("t1", "t2")])
    assert filled(result) == [("e1", 1, "failed", "f1"), ("e2", 2, "assigned", "t1"), ("e3", 3, "withdrawn", None)]
    assert result.contradictions == []
    assert result.announced == {VALIDATION_ERRORS}
    # More failures than slots were announced, or a list that lacks content: that no close explains.
    assert len(changes([errors(6, "f1", "f2"), assigned("e1", "t1", 5)], [essays("e1", "e2")]).contradictions) == 1
    listed = [errors(6, "f1"), ready(6, ("e2", "t1"))]
    assert len(changes(listed, [essays("e1", "e2", "e3"), *texts("t1")]).contradictions) == 1


def test_a_batch_that_was_cancelled_is_stored_as_announced() -> None:
    fails = [received(VALIDATION_FAILED, failure("b", name), number) for number, name in enumerate(("f1", "f2"))]
    result = changes(
        [assigned("e1", "t1", 5), cancelled(7, failed=1)], [essays("e1", "e2", "e3"), *texts("t1"), *fails]
    )
    assert filled(result) == [("e1", 1, "assigned", "t1"), ("e2", 2, "failed", "f1"), ("e3", 3, "withdrawn", None)]
    assert result.times == AnnouncedTimes(ended_at(7), None, None, False, ended_at(7), "DUPLICATE")
    assert result.contradictions == []
    assert result.announced == {BATCH_CANCELLED}


def test_a_failure_that_was_removed_takes_no_slot_of_a_batch_whose_failures_were_only_counted() -> None:
    fails = [received(VALIDATION_FAILED, failure("b", name), number) for number, name in enumerate(("f1", "f2"))]
    stored = Stored(failures=[StoredFailure("removed", fails[0].failure("b"))])
    result = changes([cancelled(7, failed=1)], [essays("e1"), *fails], stored)
    assert filled(result) == [("e1", 1, "failed", "f2")]
    assert (result.decide, result.cleared) == ([], [])


def test_a_failure_that_was_removed_stays_so_unless_its_slot_was_announced() -> None:
    removed = received(VALIDATION_FAILED, failure("b", "f1")).failure("b")
    stored = Stored(failures=[StoredFailure("removed", removed)])
    result = changes([assigned("e1", "t1", 5)], [essays("e1", "e2"), *texts("t1")], stored)
    assert (result.decide, result.cleared, result.failures) == ([], [], [])
    result = changes([assigned("e1", "t1", 5), errors(6, "f1")], [essays("e1", "e2"), *texts("t1")], stored)
    assert result.failures == [StoredFailure("slot", removed)]


def test_a_batch_that_was_complete_before_it_was_cancelled_keeps_both_times() -> None:
    announced = [assigned("e1", "t1", 5), completed(5, ("e1", "t1")), cancelled(7)]
    result = changes(announced, [essays("e1"), *texts("t1")])
    assert result.times == AnnouncedTimes(ended_at(5), None, None, False, ended_at(7), "DUPLICATE")


def test_a_batch_that_is_open_in_the_database_is_cancelled_as_announced() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", None))
    result = changes([assigned("e1", "t1", 0), cancelled(7)], [], stored)
    assert filled(result) == [("e2", 2, "withdrawn", None)]
    assert result.times is not None
    assert result.times.cancelled_at == ended_at(7)


def test_a_batch_that_a_pod_completed_after_its_cancellation_was_announced_was_not_complete_before_it() -> None:
    """The pod has worked on a restored database."""
    stored = stored_batch(("e1", "t1"), second=60)
    assert stored.batch is not None
    stored.batch = stored.batch._replace(state="ready", completed_at=ended_at(60), ready_announced_at=ended_at(60))
    result = changes([cancelled(7)], [], stored)
    assert filled(result) == [("e1", 1, "withdrawn", None)]
    assert result.times == AnnouncedTimes(ended_at(7), None, None, False, ended_at(7), "DUPLICATE")
    stored.batch = stored.batch._replace(state="complete", completed_at=ended_at(5), ready_announced_at=None)
    stored.slots = [each._replace(taken_at=ended_at(5)) for each in stored.slots]
    result = changes([cancelled(7)], [], stored, known_since=ended_at(6))
    assert result.times == AnnouncedTimes(None, None, None, False, ended_at(7), "DUPLICATE")


def test_content_that_the_database_has_assigned_after_the_cancellation_is_decided_anew() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", "t2"), second=60)
    result = changes([assigned("e1", "t1", 5), cancelled(7)], [], stored)
    assert ("slot", "e2") in result.cleared
    assert ("e2", 2, "withdrawn", None) in filled(result)
    assert [each.text_storage_id for each in result.decide] == ["t2"]  # type: ignore[union-attr]


def cancelled_batch(*slots: tuple[str, str | None], second: int, completed_at: int) -> Stored:
    stored = stored_batch(*slots, second=second)
    stored.slots = [each if each.content else each._replace(state="withdrawn") for each in stored.slots]
    assert stored.batch is not None
    stored.batch = stored.batch._replace(
        state="cancelled",
        completed_at=ended_at(completed_at),
        ready_announced_at=None,
        cancelled_at=ended_at(second),
        cancel_reason="OTHER",
    )
    return stored


def test_a_cancellation_in_the_database_yields_where_the_batch_was_announced_as_ready() -> None:
    stored = cancelled_batch(("e1", "t1"), second=9, completed_at=5)
    result = changes([assigned("e1", "t1", 9), completed(5, ("e1", "t1")), ready(8, ("e1", "t1"))], [], stored)
    assert result.times is not None
    assert (result.times.is_ready, result.times.cancelled_at) == (True, None)
    assert str(event_id(BATCH_CANCELLED, "b")) in result.event_ids


def test_a_cancellation_in_the_database_yields_where_a_withdrawn_slot_was_announced() -> None:
    stored = cancelled_batch(("e1", None), ("e2", None), second=9, completed_at=9)
    result = changes([assigned("e1", "t1", 5), completed(6, ("e1", "t1"), ("e2", "t2"))], [*texts("t1", "t2")], stored)
    assert filled(result) == [("e1", 1, "assigned", "t1"), ("e2", 2, "assigned", "t2")]
    assert result.times is not None
    assert result.times.cancelled_at is None


def test_a_cancellation_in_the_database_stays_where_nothing_contradicts_it() -> None:
    stored = cancelled_batch(("e1", "t1"), ("e2", None), second=9, completed_at=9)
    result = changes([assigned("e1", "t1", 9)], [], stored)
    assert (result.slots, result.cleared, result.times) == ([], [], None)
    stored = cancelled_batch(("e1", "t1"), second=9, completed_at=5)
    result = changes([assigned("e1", "t1", 9), completed(5, ("e1", "t1"))], [], stored)
    assert (result.slots, result.cleared, result.times) == ([], [], None)


@pytest.mark.parametrize(
    ("later", "says"),
    [
        (ready(8, ("e1", "t1")), "is ready, and was announced as cancelled"),
        (completed(8, ("e1", "t1")), "is complete, and was announced as cancelled before"),
        (errors(8, critical=True), "before it was cancelled"),
        (cancelled(8, reason="OTHER"), "for another reason"),
    ],
)
def test_what_contradicts_a_cancellation_is_listed_and_does_not_count(later: Published, says: str) -> None:
    result = changes([assigned("e1", "t1", 5), cancelled(7), later], [essays("e1"), *texts("t1")])
    (contradiction,) = result.contradictions
    assert says in contradiction
    assert result.announced == {BATCH_CANCELLED}
    assert result.times is not None
    assert result.times.cancelled_at == ended_at(7)


def test_a_cancellation_of_a_batch_that_was_ready_does_not_count() -> None:
    announced = [assigned("e1", "t1", 5), ready(6, ("e1", "t1")), cancelled(7)]
    result = changes(announced, [essays("e1"), *texts("t1")])
    assert len(result.contradictions) == 1
    assert result.times == AnnouncedTimes(ended_at(6), None, None, is_ready=True)
