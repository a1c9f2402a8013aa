"""Tests what a recovery changes in the rows of a batch, by what was announced, received and stored."""

from datetime import timedelta
from uuid import UUID

import pytest

from service.domain.topics import BATCH_COMPLETED, BATCH_READY, READINESS_TIMEOUT, VALIDATION_ERRORS, VALIDATION_FAILED
from service.store.recovery import AnnouncedTimes, Stored, StoredContent, StoredFailure, StoredSlot
from tests.support.builders.announcements import (
    CORRELATION,
    EXPIRED,
    MORNING,
    assigned,
    changes,
    completed,
    essays,
    excess,
    filled,
    published,
    ready,
    received,
    stamp,
    stored_batch,
    stored_content,
    texts,
)
from tests.support.builders.inputs import failure


def test_a_batch_that_is_lost_is_stored_as_announced() -> None:
    result = changes(
        [assigned("e2", "t1", 5), assigned("e1", "t2", 6), ready(7, ("e1", "t2"), ("e2", "t1")), excess("t3", 8)],
        [essays("e1", "e2"), *texts("t1", "t2", "t3")],
    )
    assert filled(result) == [("e1", 1, "assigned", "t2"), ("e2", 2, "assigned", "t1")]
    assert [slot.taken_at for slot in result.slots] == [MORNING + timedelta(seconds=6), MORNING + timedelta(seconds=5)]
    assert result.slots[0].content == stored_content("t2")
    assert [(each.state, each.stored_at, each.content) for each in result.contents] == [
        ("excess", MORNING + timedelta(seconds=8), stored_content("t3"))
    ]
    assert result.times == AnnouncedTimes(MORNING + timedelta(seconds=7), None, None, is_ready=True)
    assert result.register is not None
    assert result.register[1] <= MORNING + timedelta(seconds=5)
    assert (result.contradictions, result.incomplete, result.decide) == ([], False, [])


def test_a_completion_names_the_content_and_the_time_before_the_batch_is_ready() -> None:
    announced = [assigned("e1", "t1", 5), completed(6, ("e1", "t1"), ("e2", "t2"))]
    result = changes(announced, [essays("e1", "e2"), *texts("t1", "t2")])
    assert filled(result) == [("e1", 1, "assigned", "t1"), ("e2", 2, "assigned", "t2")]
    assert result.times == AnnouncedTimes(MORNING + timedelta(seconds=6), None, None, is_ready=False)
    assert result.announced == {BATCH_COMPLETED}
    result = changes([*announced, ready(9, ("e1", "t1"), ("e2", "t2"))], [essays("e1", "e2"), *texts("t1", "t2")])
    six, nine = (MORNING + timedelta(seconds=second) for second in (6, 9))
    assert result.times == AnnouncedTimes(six, None, nine, is_ready=True)
    assert result.announced == {BATCH_COMPLETED, BATCH_READY}


def test_a_batch_that_was_announced_as_ready_is_not_waiting_any_more() -> None:
    stored = stored_batch(("e1", "t1"), second=5)
    assert stored.batch is not None
    stored.batch = stored.batch._replace(state="complete", ready_announced_at=None)
    announced = [assigned("e1", "t1", 5), completed(5, ("e1", "t1"))]
    assert changes(announced, [essays("e1"), *texts("t1")], stored).times is None
    result = changes([*announced, ready(8, ("e1", "t1"))], [essays("e1"), *texts("t1")], stored)
    five, eight = (MORNING + timedelta(seconds=second) for second in (5, 8))
    assert (result.times, result.slots) == (AnnouncedTimes(five, None, eight, is_ready=True), [])


@pytest.mark.parametrize("state", ["complete", "ready"])
def test_the_time_of_a_completion_that_is_older_than_what_is_read_stays(state: str) -> None:
    """The batch was confirmed long after it became complete: only that it is ready is read."""
    stored = stored_batch(("e1", "t1"), second=5)
    assert stored.batch is not None
    eight = MORNING + timedelta(seconds=8)
    stored.batch = stored.batch._replace(state=state, ready_announced_at=eight if state == "ready" else None)
    result = changes([ready(8, ("e1", "t1"))], [], stored)
    assert result.slots == []
    assert result.times == (None if state == "ready" else AnnouncedTimes(None, None, eight, is_ready=True))


def test_what_the_database_states_already_is_not_written() -> None:
    stored = stored_batch(("e1", "t1"), second=5)
    result = changes([assigned("e1", "t1", 5), ready(5, ("e1", "t1"))], [essays("e1"), *texts("t1")], stored)
    assert (result.slots, result.contents, result.cleared, result.times, result.decide) == ([], [], [], None, [])
    assert len(result.event_ids) == 1


def test_what_was_stored_before_the_topics_begin_stays() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", "t2"), second=0)
    stored.slots[1] = stored.slots[1]._replace(taken_at=MORNING + timedelta(hours=2))
    known_since = MORNING + timedelta(hours=1)
    result = changes([assigned("e2", "t9", 7200)], texts("t9"), stored, known_since=known_since)
    assert filled(result) == [("e2", 2, "assigned", "t9")]
    assert result.cleared == [("slot", "e2")]


def test_texts_that_change_places_are_taken_out_first() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", "t2"), second=60)
    result = changes([assigned("e1", "t2", 5), assigned("e2", "t1", 6)], [], stored)
    assert filled(result) == [("e1", 1, "assigned", "t2"), ("e2", 2, "assigned", "t1")]
    assert set(result.cleared) == {("slot", "e1"), ("slot", "e2")}
    assert result.decide == []


def test_failures_have_the_slots_that_are_left_in_the_order_in_which_they_were_announced() -> None:
    listed = [{"essay_id": upload, "file_name": "f", "failed_at": stamp(1)} for upload in ("f2", "f1")]
    errors = published(VALIDATION_ERRORS, 9, failed_essays=listed, error_summary={"critical_failure": False})
    result = changes(
        [assigned("e2", "t1", 5), errors, ready(9, ("e2", "t1"))],
        [
            essays("e1", "e2", "e3"),
            *texts("t1"),
            *(received(VALIDATION_FAILED, failure("b", upload), number) for number, upload in enumerate(("f1", "f2"))),
        ],
    )
    assert filled(result) == [
        ("e1", 1, "failed", "f2"),
        ("e2", 2, "assigned", "t1"),
        ("e3", 3, "failed", "f1"),
    ]
    assert {(each.state, each.failure.file_upload_id) for each in result.failures} == {("slot", "f1"), ("slot", "f2")}


def test_a_failure_that_only_the_announcement_knows_is_stored_with_nulls() -> None:
    listed = [{"essay_id": "f1", "file_name": "f.txt", "failed_at": stamp(1), "error_detail": {"message": "empty"}}]
    errors = published(VALIDATION_ERRORS, 9, failed_essays=listed, error_summary={"critical_failure": True})
    result = changes([errors], [essays("e1")])
    ((state, stored),) = result.failures
    assert (state, stored.original_file_name, stored.failed_at) == ("slot", "f.txt", MORNING + timedelta(seconds=1))
    assert [getattr(stored, name) for name in ("raw_file_storage_id", "file_size_bytes")] == [None, None]
    assert result.announced == {VALIDATION_ERRORS}


def test_content_that_only_an_output_knows_is_stored_with_nulls() -> None:
    result = changes([assigned("e1", "t1", 5)], [essays("e1", "e2")])
    known = result.slots[0].content
    assert known is not None
    assert (known.text_storage_id, known.file_upload_id, known.correlation_id) == ("t1", "upload-t1", UUID(CORRELATION))
    assert (known.raw_file_storage_id, known.file_size_bytes) == (None, None)


def test_content_that_waited_for_a_lost_registration_is_decided_anew_unless_it_was_announced() -> None:
    waiting = [
        StoredContent("pending", None, MORNING, None, stored_content("t1")),
        StoredContent("expired", None, MORNING, MORNING, stored_content("t2")),
        StoredContent("removed", None, MORNING, MORNING, stored_content("t3")),
    ]
    result = changes([assigned("e1", "t1", 5)], [essays("e1", "e2")], Stored(contents=waiting))
    assert [each.text_storage_id for each in result.decide] == ["t2"]  # type: ignore[union-attr]
    assert set(result.cleared) == {("content", "t1"), ("content", "t2")}


def test_failures_that_waited_for_a_lost_registration_are_decided_anew() -> None:
    waits = received(VALIDATION_FAILED, failure("b", "f1")).failure("b")
    stored = Stored(failures=[StoredFailure("pending", waits)])
    result = changes([assigned("e1", "t1", 5)], [essays("e1", "e2"), *texts("t1")], stored)
    assert (result.decide, result.cleared) == ([waits], [("failure", "f1")])


def test_a_batch_whose_registration_is_in_no_topic_is_incomplete() -> None:
    result = changes([assigned("e1", "t1", 5)], texts("t1"))
    assert (result.incomplete, result.slots, result.decide) == (True, [], [])


def test_excess_for_a_reason_that_is_not_ours_counts_as_not_announced() -> None:
    result = changes([excess("t1", 5, "batch_not_registered")], [essays("e1"), *texts("t1")])
    assert (result.slots, result.contents, result.register) == ([], [], None)


def test_expired_content_is_stored_as_announced_while_its_batch_is_not_registered() -> None:
    stored = Stored(contents=[StoredContent("pending", None, MORNING, None, stored_content("t1"))])
    for result in (changes([EXPIRED], texts("t1")), changes([EXPIRED], [], stored)):
        (row,) = result.contents
        assert row == StoredContent(
            "expired", None, MORNING + timedelta(seconds=1), MORNING + timedelta(seconds=9), stored_content("t1")
        )
    assert changes([EXPIRED, assigned("e1", "t1", 10)], [essays("e1"), *texts("t1")]).contents == []


def test_a_report_of_a_late_batch_is_not_repeated() -> None:
    late = published(READINESS_TIMEOUT, 9)
    result = changes([late], [], stored_batch(("e1", None)))
    assert result.times == AnnouncedTimes(None, MORNING + timedelta(seconds=9), None, is_ready=False)
    assert result.slots == []


def test_failures_that_were_stored_before_the_topics_begin_keep_their_slots() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", None))
    stored.slots[1] = StoredSlot("e2", 2, "failed", None, "f2", MORNING)
    waits = received(VALIDATION_FAILED, failure("b", "f2")).failure("b")
    stored.failures.append(StoredFailure("slot", waits))
    result = changes([ready(6, ("e1", "t1"))], [], stored, known_since=MORNING + timedelta(hours=1))
    assert (result.slots, result.cleared, result.failures, result.contradictions) == ([], [], [], [])


def test_a_batch_of_which_the_topics_have_only_the_errors_stays_as_it_is() -> None:
    """What was announced of its slots, and that it was ready, is older than what is read."""
    stored = stored_batch(("e1", "t1"), ("e2", None))
    stored.slots[1] = StoredSlot("e2", 2, "failed", None, "f2", MORNING)
    for state, upload in (("slot", "f2"), ("surplus", "f3")):
        waits = received(VALIDATION_FAILED, failure("b", upload)).failure("b")
        stored.failures.append(StoredFailure(state, waits))
    listed = [{"essay_id": "f2", "file_name": "f2.txt", "failed_at": stamp(1)}]
    errors = published(VALIDATION_ERRORS, 6, failed_essays=listed, error_summary={"critical_failure": False})
    result = changes([errors], [], stored, known_since=MORNING + timedelta(hours=1))
    assert (result.slots, result.cleared, result.failures, result.decide) == ([], [], [], [])
    # Where the topics reach back to the slot, the content in it was never announced, and is decided anew.
    assert ("slot", "e1") in changes([errors], [], stored).cleared


def test_a_slot_that_only_a_list_names_keeps_its_row() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", None), second=0)
    result = changes([ready(900, ("e1", "t1"), ("e2", "t2")), assigned("e2", "t2", 899)], texts("t2"), stored)
    assert filled(result) == [("e2", 2, "assigned", "t2")]
    assert result.cleared == []


def test_content_that_was_restored_after_its_expiry_waits() -> None:
    later = MORNING + timedelta(seconds=60)
    restored = StoredContent("pending", None, MORNING, None, stored_content("t1"), later)
    again = StoredContent("expired", None, MORNING, later, stored_content("t1"), MORNING)
    for row in (restored, again):
        assert changes([EXPIRED], [], Stored(contents=[row])).contents == []


def test_a_large_batch_with_a_contradiction_is_compared_in_time_that_grows_with_it() -> None:
    names = [(f"e{number}", f"t{number}") for number in range(20_000)]
    stored = stored_batch(*names, second=60)
    result = changes([assigned("e0", "t1", 5)], [], stored)
    assert len(result.decide) == len(names) - 1
