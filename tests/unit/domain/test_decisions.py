"""Every decision about a poll, taken without a database."""

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import service.intake
from service.domain import decisions
from service.domain.admission import Admit, CountRejections, RejectionCounter, count_rejections, decide_admission
from service.domain.decisions import (
    Announce,
    Assign,
    BatchCount,
    BatchState,
    CheckCounter,
    Confirm,
    ConfirmableBatch,
    DeclareExcess,
    Defer,
    DeferUpload,
    LeaveConfirmation,
    NoSlotLeft,
    Postpone,
    Register,
    RejectConflict,
    RepeatContent,
    RepeatRegistration,
    Retry,
    Slot,
    assign_slots,
    decide_announcements,
    decide_by_counter,
    decide_confirmation,
    decide_excess,
    decide_new_batches,
    decide_registration,
    decide_unassigned,
    essay_set_of,
    reconcile,
)
from service.domain.events import AssociationsConfirmed, BatchRegistered, Upload, WaitingFailure
from tests.support.builders.events import content, failure

NONE = RejectionCounter(0, paused=False)
PAUSED = RejectionCounter(1_000, paused=True)


def kinds(*decided: object) -> list[tuple[type, object]]:
    """Each decision with its kind: named tuples of the same fields are equal, whatever their kind."""
    return [(type(each), each) for each in decided]


def registration(*essay_ids: str, batch_id: str = "b", **fields: Any) -> BatchRegistered:
    values = {
        "course_code": "ENG5",
        "user_id": "user",
        "essay_instructions": "",
        "class_id": None,
        "org_id": None,
        "student_prompt_ref": None,
        "correlation_id": UUID(int=1),
        "traceparent": None,
        "tracestate": None,
    }
    return BatchRegistered(batch_id, essay_ids, **(values | fields))


def slots(number: int, batch_id: str = "b") -> list[Slot]:
    return [Slot(batch_id, f"e{position}", position) for position in range(1, number + 1)]


# -- admission


def rejections(*rejected: bool) -> list[bytes | None]:
    """Different rejections, and None for each valid record."""
    return [b"%d" % number if is_rejected else None for number, is_rejected in enumerate(rejected)]


def test_everything_is_admitted_below_the_limit() -> None:
    assert decide_admission(rejections(False, True, True, False), NONE, 3, probing=False) == Admit(4)


def test_a_topic_is_admitted_up_to_the_record_that_reaches_the_limit() -> None:
    assert decide_admission(rejections(*[True] * 5), NONE, 3, probing=False) == Admit(3)
    assert decide_admission(rejections(*[True] * 5), RejectionCounter(2, paused=False), 3, probing=False) == Admit(1)


def test_repeats_of_one_rejection_count_once() -> None:
    assert decide_admission([b"same"] * 5, NONE, 2, probing=False) == Admit(5)
    assert decide_admission([b"same", b"same", b"other", b"same"], NONE, 2, probing=False) == Admit(3)


def test_a_topic_whose_rejections_are_skipped_takes_them_all() -> None:
    skipping = RejectionCounter(2, paused=False, skips=True)
    assert decide_admission(rejections(*[True] * 5), skipping, 3, probing=False) == Admit(5)


def test_a_valid_record_restarts_the_count_of_rejections() -> None:
    assert decide_admission(rejections(True, True, False, True, True, False), NONE, 3, probing=False) == Admit(6)


def test_nothing_is_admitted_of_a_paused_topic() -> None:
    assert decide_admission([None, None], PAUSED, 1_000, probing=False) == Admit(0)


def test_a_probe_admits_one_valid_record_of_a_paused_topic() -> None:
    assert decide_admission([None, None], PAUSED, 1_000, probing=True) == Admit(1)
    assert decide_admission([b"bad", None], PAUSED, 1_000, probing=True) == Admit(0)


@given(st.lists(st.booleans(), min_size=1), st.integers(0, 5), st.integers(1, 6))
def test_a_topic_never_takes_a_record_behind_the_limit(rejected: list[bool], before: int, limit: int) -> None:
    counter = RejectionCounter(before, paused=False)
    admitted = decide_admission(rejections(*rejected), counter, limit, probing=False).count
    consecutive = before
    for number, is_rejected in enumerate(rejected, start=1):
        consecutive = consecutive + 1 if is_rejected else 0
        if is_rejected and consecutive >= limit:
            assert admitted == number
            return
    assert admitted == len(rejected)


@pytest.mark.parametrize(
    ("records", "count"),
    [
        ([], CountRejections(0, restarted=False)),
        (["rejected", "repeat", "rejected"], CountRejections(2, restarted=False)),
        (["rejected", "valid"], CountRejections(0, restarted=True)),
        (["valid", "rejected", "rejected"], CountRejections(2, restarted=True)),
    ],
)
def test_rejections_are_counted_from_the_last_valid_record_on(records: list[Any], count: CountRejections) -> None:
    assert count_rejections(records) == count


# -- new batches


def test_batches_that_fit_together_are_registered_together() -> None:
    assert list(decide_new_batches({"a": 40, "b": 60}, 100)) == []


def test_a_batch_above_the_limit_is_deferred_and_takes_no_room_from_others() -> None:
    assert kinds(*decide_new_batches({"large": 101, "a": 100}, 100)) == kinds(Defer("large"))


def test_a_batch_for_which_there_is_no_room_goes_to_the_next_transaction() -> None:
    assert kinds(*decide_new_batches({"a": 60, "b": 60, "c": 40}, 100)) == kinds(Postpone("b"))


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 150), max_size=8), st.integers(1, 100))
def test_what_stays_never_exceeds_the_limit_together(weights: dict[str, int], limit: int) -> None:
    left = {decision.batch_id for decision in decide_new_batches(weights, limit)}
    assert sum(weight for batch_id, weight in weights.items() if batch_id not in left) <= limit


# -- registrations


def test_the_first_registration_registers() -> None:
    first = registration("e1", "e2")
    assert kinds(decide_registration(None, first)) == kinds(Register(first, essay_set_of(["e1", "e2"])))


def test_the_same_essays_in_another_order_are_a_repeat() -> None:
    again = registration("e2", "e1")
    assert decide_registration(essay_set_of(["e1", "e2"]), again) == RepeatRegistration(again)


@pytest.mark.parametrize("essays", [("e1",), ("e1", "e3"), ("e1", "e2", "e3")])
def test_other_essays_are_rejected_as_conflicting(essays: tuple[str, ...]) -> None:
    other = registration(*essays)
    assert kinds(decide_registration(essay_set_of(["e1", "e2"]), other)) == kinds(RejectConflict(other))


@given(st.lists(st.text(max_size=4), unique=True), st.randoms())
def test_an_essay_set_does_not_depend_on_the_order(essays: list[str], random: Any) -> None:
    shuffled = random.sample(essays, len(essays))
    assert essay_set_of(essays) == essay_set_of(shuffled)


def test_essay_ids_that_join_to_the_same_text_are_different_sets() -> None:
    assert len({essay_set_of(["ab", "c"]), essay_set_of(["a", "bc"]), essay_set_of(["abc"]), essay_set_of([])}) == 4


# -- slots


def test_slots_are_assigned_in_slot_order_to_uploads_in_order_of_arrival() -> None:
    uploads = [content("t1"), content("t2")]
    first, second, third = slots(3)
    assigned, unassigned = assign_slots({"b": uploads}, [third, second, first][1:])
    assert kinds(*assigned) == kinds(Assign(first, uploads[0]), Assign(second, uploads[1]))
    assert unassigned == {}


def test_uploads_without_a_slot_are_returned_by_batch() -> None:
    uploads: list[Upload] = [content("t1"), content("t2"), failure("u")]
    assigned, unassigned = assign_slots({"b": uploads, "full": [content("t3", "full")]}, slots(1))
    assert [each.upload for each in assigned] == uploads[:1]
    assert unassigned == {"b": uploads[1:], "full": [content("t3", "full")]}


def test_failures_that_waited_are_assigned_as_uploads_are() -> None:
    waiting = WaitingFailure("b", "u", "name", UUID(int=1), None)
    assert assign_slots({"b": [waiting]}, slots(1)) == ([Assign(slots(1)[0], waiting)], {})


def test_without_a_slot_it_is_certain_only_for_who_has_waited() -> None:
    text, upload = content("t"), failure("u")
    assert kinds(decide_unassigned(text, certain=True)) == kinds(NoSlotLeft(text))
    assert kinds(decide_unassigned(upload, certain=True)) == kinds(NoSlotLeft(upload))
    assert kinds(decide_unassigned(text, certain=False)) == kinds(CheckCounter(text))
    assert kinds(decide_unassigned(upload, certain=False)) == kinds(DeferUpload(upload))


def test_the_counter_row_says_whether_a_slot_is_open() -> None:
    text = content("t")
    assert kinds(decide_by_counter(text, BatchCount(3, 2, 1))) == kinds(NoSlotLeft(text))
    assert kinds(decide_by_counter(text, BatchCount(3, 2, 0))) == kinds(DeferUpload(text))


# -- excess


def test_content_that_is_recorded_meanwhile_is_a_repeat_whatever_the_counters_say() -> None:
    for count in (BatchCount(1, 1, 0), BatchCount(1, 0, 0)):
        assert kinds(decide_excess(content("t"), count, is_known=True, was_not_full=False)) == kinds(
            RepeatContent(content("t"))
        )


def test_no_content_is_excess_while_a_slot_is_open() -> None:
    assert isinstance(decide_excess(content("t"), BatchCount(2, 1, 0), is_known=False, was_not_full=False), Retry)


def test_the_reason_of_an_excess_is_whether_the_batch_was_seen_full_at_first() -> None:
    full, text = BatchCount(2, 1, 1), content("t")
    assert kinds(decide_excess(text, full, is_known=False, was_not_full=False)) == kinds(
        DeclareExcess(text, "BATCH_FULL")
    )
    assert kinds(decide_excess(text, full, is_known=False, was_not_full=True)) == kinds(
        DeclareExcess(text, "NO_AVAILABLE_SLOT")
    )


def test_waiting_content_is_reconciled_in_slot_order_and_the_rest_is_excess() -> None:
    essays = ("e1", "e2")
    taken = [reconcile(content(f"t{number}"), essays, min(number, 2)) for number in range(3)]
    assert kinds(*taken) == kinds(
        Assign(Slot("b", "e1", 1), content("t0")),
        Assign(Slot("b", "e2", 2), content("t1")),
        DeclareExcess(content("t2"), "NO_AVAILABLE_SLOT"),
    )


# -- confirmations

WAITS = ConfirmableBatch("complete", "8b", is_confirmed=False)


def confirmation(class_id: str = "8b") -> AssociationsConfirmed:
    return AssociationsConfirmed("b", class_id, 2, UUID(int=1), None, None)


@pytest.mark.parametrize("state", ["registered", "complete", "ready"])
@pytest.mark.parametrize("class_id", ["8b", ""])
def test_a_confirmation_of_the_class_is_in_effect_whatever_the_batch_waits_for(state: str, class_id: str) -> None:
    given = confirmation(class_id)
    assert kinds(decide_confirmation(WAITS._replace(state=state), given)) == kinds(Confirm(given))


@pytest.mark.parametrize(
    ("batch", "class_id", "why"),
    [
        (WAITS._replace(class_id=None), "8b", "no_class"),
        (WAITS._replace(class_id=""), "", "no_class"),
        (WAITS._replace(state="failed"), "8b", "batch_failed"),
        (WAITS, "8c", "another_class"),
        (WAITS._replace(is_confirmed=True), "", "confirmed_before"),
    ],
)
def test_any_other_confirmation_changes_nothing(batch: ConfirmableBatch, class_id: str, why: Any) -> None:
    given = confirmation(class_id)
    assert kinds(decide_confirmation(batch, given)) == kinds(LeaveConfirmation(given, why))


# -- announcements


def test_a_batch_is_announced_by_the_transaction_that_takes_its_last_slot() -> None:
    counts = {
        "completed here": BatchCount(3, 2, 1),
        "failed here": BatchCount(1, 0, 1),
        "complete before": BatchCount(3, 3, 0),
        "still open": BatchCount(3, 2, 0),
    }
    taken = {"completed here": (1, 0), "failed here": (0, 1), "complete before": (0, 0), "still open": (2, 0)}
    assert kinds(*decide_announcements(counts, taken)) == kinds(Announce("completed here"), Announce("failed here"))


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=8))
def test_of_transactions_that_take_all_slots_exactly_one_announces(
    expected: int, transactions: list[tuple[int, int]]
) -> None:
    assigned = failed = announced = 0
    for content_slots, failed_slots in transactions:
        if assigned + failed + content_slots + failed_slots > expected:
            continue
        assigned, failed = assigned + content_slots, failed + failed_slots
        counts = {"b": BatchCount(expected, assigned, failed)}
        announced += len(decide_announcements(counts, {"b": (content_slots, failed_slots)}))
    assert announced == (assigned + failed == expected)


# -- all of them


def test_a_batch_is_full_when_content_and_failures_take_all_its_slots() -> None:
    assert BatchState(3, 2, 1, b"").full
    assert not BatchState(3, 2, 0, b"").full


def test_no_decision_can_be_changed() -> None:
    values = (Admit(1), CountRejections(1, restarted=True), Announce("b"), Defer("b"), Retry("why"))
    for value in values:
        field = getattr(value, "_fields", None) or [each.name for each in fields(value)]  # type: ignore[arg-type]
        with pytest.raises((FrozenInstanceError, AttributeError)):
            setattr(value, field[0], None)


def test_each_decision_is_matched_in_the_intake() -> None:
    """A new kind of decision cannot be forgotten: its name stands in a module that carries decisions out."""

    folder = Path(service.intake.__path__[0])
    carried_out = "\n".join(path.read_text() for path in folder.glob("*.py"))
    known = {"Slot", "BatchCount", "BatchState", "ConfirmableBatch"}  # facts
    kinds = [
        name
        for name, value in vars(decisions).items()
        if isinstance(value, type) and value.__module__ == decisions.__name__ and name not in known
    ]
    assert len(kinds) > 12
    assert [name for name in kinds if name not in carried_out] == []
