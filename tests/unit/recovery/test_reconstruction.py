"""Tests what a recovery changes in the rows of a batch, by what was announced, received and stored."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiokafka import ConsumerRecord

from service.domain.decisions import essay_set_of
from service.domain.enveloped import event_id
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    OUTGOING_TOPICS,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.recovery.facts import Published, Received, announcement_of, received_of
from service.recovery.reconstruction import Reconstruction, reconstruct
from service.store.recovery import (
    AnnouncedTimes,
    Content,
    Stored,
    StoredBatch,
    StoredContent,
    StoredFailure,
    StoredSlot,
)
from tests.support.builders.inputs import content, delivery, failure, registration

MORNING = datetime(2026, 11, 29, 8, 0, 0, 123456, UTC)
CORRELATION = "7d4c1f0e-2f43-4c55-9e0b-7f1f3c0b8a11"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""As in the samples of the inputs."""


def stamp(second: int) -> str:
    return (MORNING + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


def published(topic: str, second: int, partition: int = 0, **data: Any) -> Published:
    """Returns an event of batch b, of this second, as it is read from its topic."""
    value = {
        "event_id": str(UUID(int=second)),
        "event_timestamp": stamp(second),
        "correlation_id": CORRELATION,
        "data": {"batch_id": "b", **data},
        "metadata": {"traceparent": TRACEPARENT},
    }
    at = int((MORNING + timedelta(seconds=second)).timestamp() * 1000)
    found = announcement_of(ConsumerRecord(topic, partition, second, at, 0, b"b", orjson.dumps(value), None, 0, 0, ()))
    assert found is not None
    return Published(*orjson.loads(orjson.dumps(tuple(found[1]))))  # as the ledger does


def assigned(essay_id: str, text: str, second: int, partition: int = 0, **more: Any) -> Published:
    named: dict[str, Any] = {"file_upload_id": f"upload-{text}", "original_file_name": f"{text}.txt"}
    return published(SLOT_ASSIGNED, second, partition, essay_id=essay_id, text_storage_id=text, **named | more)


def excess(text: str, second: int, reason: str = "BATCH_FULL") -> Published:
    named: dict[str, Any] = {"text_storage_id": text, "original_file_name": f"{text}.txt", "reason": reason}
    return published(EXCESS_CONTENT, second, **named)


def ready(second: int, *essays: tuple[str, str]) -> Published:
    listed = [{"essay_id": essay_id, "text_storage_id": text} for essay_id, text in essays]
    return published(BATCH_READY, second, ready_essays=listed)


def completed(second: int, *essays: tuple[str, str]) -> Published:
    listed = [{"essay_id": essay_id, "text_storage_id": text} for essay_id, text in essays]
    return published(BATCH_COMPLETED, second, essays_for_processing=listed)


EXPIRED = published(
    PENDING_EXPIRED,
    9,
    text_storage_id="t1",
    file_upload_id="upload-t1",
    original_file_name="t1.txt",
    stored_at=stamp(1),
    expired_at=stamp(9),
)


def received(topic: str, value: bytes, offset: int = 0) -> Received:
    found = received_of(delivery(topic, value, offset=offset))
    assert found is not None
    return Received(*orjson.loads(orjson.dumps(tuple(found[1]))))


def texts(*names: str) -> list[Received]:
    return [received(CONTENT_PROVISIONED, content("b", name), number) for number, name in enumerate(names)]


def essays(*ids: str) -> Received:
    return received(BATCH_REGISTERED, registration("b", ids))


def changes(
    announcements: Sequence[Published], inputs: Sequence[Received] = (), stored: Stored | None = None, **more: Any
) -> Reconstruction:
    return reconstruct("b", announcements, inputs, stored or Stored(), **more)


def filled(result: Reconstruction) -> list[tuple[str, int, str, str | None]]:
    """Returns the slots that are written: essay, position, state, and content or failed upload."""
    return [
        (
            slot.essay_id,
            slot.position,
            slot.state,
            slot.content.text_storage_id if slot.content else slot.file_upload_id,
        )
        for slot in result.slots
    ]


def stored_content(text: str) -> Content:
    return received(CONTENT_PROVISIONED, content("b", text)).content


def stored_batch(*slots: tuple[str, str | None], second: int = 0, excess: Sequence[str] = ()) -> Stored:
    """Returns a batch with these slots, by essay, each with its content."""
    at = MORNING + timedelta(seconds=second)
    rows = [
        StoredSlot(essay_id, number, "assigned", stored_content(text), None, at)
        if text
        else StoredSlot(essay_id, number, "open")
        for number, (essay_id, text) in enumerate(slots, start=1)
    ]
    taken = sum(text is not None for _, text in slots)
    batch = StoredBatch(
        essay_set_of([essay_id for essay_id, _ in slots]),
        at if taken == len(slots) else None,
        None,
        taken,
        0,
        len(slots),
        "ready" if taken == len(slots) else "registered",
        at if taken == len(slots) else None,
    )
    contents = [StoredContent("excess", "BATCH_FULL", at, None, stored_content(text)) for text in excess]
    return Stored(batch, rows, contents)


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


def test_what_a_pod_has_announced_on_a_restored_database_yields_to_the_time_on_the_topic() -> None:
    stored = stored_batch(("e1", "t1"), second=5)
    assert stored.batch is not None
    stored.batch = stored.batch._replace(ready_announced_at=MORNING + timedelta(seconds=60))
    result = changes([ready(8, ("e1", "t1"))], [], stored)
    assert result.times == AnnouncedTimes(None, None, MORNING + timedelta(seconds=8), is_ready=True)


def test_a_completion_and_ready_with_different_lists_contradict_each_other() -> None:
    result = changes([completed(5, ("e1", "t1")), ready(6, ("e1", "t2"))], [essays("e1"), *texts("t1", "t2")])
    assert filled(result) == [("e1", 1, "assigned", "t1")]
    assert len(result.contradictions) == 1


def test_what_the_database_states_already_is_not_written() -> None:
    stored = stored_batch(("e1", "t1"), second=5)
    result = changes([assigned("e1", "t1", 5), ready(5, ("e1", "t1"))], [essays("e1"), *texts("t1")], stored)
    assert (result.slots, result.contents, result.cleared, result.times, result.decide) == ([], [], [], None, [])
    assert len(result.event_ids) == 1


def test_a_decision_that_contradicts_an_announcement_yields() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", "t2"), second=60, excess=["t3"])
    result = changes([assigned("e1", "t3", 5)], [], stored)
    assert filled(result) == [("e1", 1, "assigned", "t3")]
    assert set(result.cleared) == {("slot", "e1"), ("slot", "e2"), ("content", "t3")}
    assert {each.text_storage_id for each in result.decide} == {"t1", "t2"}  # type: ignore[union-attr]
    assert result.times == AnnouncedTimes(None, None, None, is_ready=False)


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


def test_the_first_registration_that_has_all_announced_essays_counts() -> None:
    others = [received(BATCH_REGISTERED, registration("b", ids), number) for number, ids in enumerate((["x"], ["e1"]))]
    result = changes([assigned("e1", "t1", 5)], [*others, *texts("t1")])
    assert filled(result) == [("e1", 1, "assigned", "t1")]
    replaced = changes([assigned("e1", "t1", 5)], [*others, *texts("t1")], stored_batch(("x", "t2")))
    assert ("batch", "b") in replaced.cleared
    assert filled(replaced) == [("e1", 1, "assigned", "t1")]
    assert [each.text_storage_id for each in replaced.decide] == ["t2"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("second", "what"),
    [
        (assigned("e1", "t2", 6), "slot e1 has content t2"),
        (assigned("e2", "t1", 6), "content t1 is in slot e2"),
        (excess("t1", 6), "content t1 is excess"),
    ],
    ids=["a slot twice", "a content twice", "in a slot and excess"],
)
def test_the_first_of_two_announcements_counts_and_the_other_is_listed(second: Published, what: str) -> None:
    result = changes([second, assigned("e1", "t1", 5)], [essays("e1", "e2"), *texts("t1", "t2")])
    assert filled(result)[0] == ("e1", 1, "assigned", "t1")
    assert [what in each for each in result.contradictions] == [True]


def test_records_of_the_same_time_have_the_order_of_partitions_and_offsets() -> None:
    result = changes(
        [assigned("e1", "t2", 5, partition=1), assigned("e1", "t1", 5)], [essays("e1"), *texts("t1", "t2")]
    )
    assert filled(result) == [("e1", 1, "assigned", "t1")]


def test_two_lists_of_a_ready_batch_contradict_each_other() -> None:
    result = changes(
        [ready(5, ("e1", "t1"), ("e2", "t2")), ready(6, ("e1", "t2"), ("e2", "t1"))],
        [essays("e1", "e2"), *texts("t1", "t2")],
    )
    assert filled(result) == [("e1", 1, "assigned", "t1"), ("e2", 2, "assigned", "t2")]
    assert len(result.contradictions) == 1


def test_an_essay_outside_the_registration_is_listed_and_its_content_decided_anew() -> None:
    waits = StoredContent("pending", None, MORNING, None, stored_content("t2"))
    result = changes(
        [assigned("e1", "t1", 5), ready(6, ("e1", "t1"), ("x", "t2"))],
        [received(BATCH_REGISTERED, registration("b", ["e1", "e2"])), *texts("t1")],
        Stored(contents=[waits]),
    )
    assert any("slot x" in each for each in result.contradictions)
    assert [each.text_storage_id for each in result.decide] == ["t2"]  # type: ignore[union-attr]


def test_a_batch_that_was_announced_with_open_slots_is_never_announced_with_another_list() -> None:
    result = changes([ready(6, ("e1", "t1"))], [essays("e1", "e2"), *texts("t1", "t2")])
    assert filled(result) == [("e1", 1, "assigned", "t1"), ("e2", 2, "withdrawn", None)]
    assert len(result.contradictions) == 1


def ended_at(second: int) -> Any:
    return MORNING + timedelta(seconds=second)


def errors(second: int, *uploads: str, critical: bool = False) -> Published:
    failed = [{"essay_id": upload, "file_name": f"{upload}.txt", "error_detail": {}} for upload in uploads]
    return published(VALIDATION_ERRORS, second, failed_essays=failed, error_summary={"critical_failure": critical})


def cancelled(second: int, failed: int = 0, reason: str = "DUPLICATE") -> Published:
    return published(BATCH_CANCELLED, second, reason=reason, failed_count=failed)


def test_a_batch_that_was_closed_is_recognised_by_its_announcement() -> None:
    announced = [assigned("e2", "t1", 5), errors(6, "f1"), completed(6, ("e2", "t1"))]
    result = changes(announced, [essays("e1", "e2", "e3"), *texts("t1", "t2")])
    assert filled(result) == [("e1", 1, "failed", "f1"), ("e2", 2, "assigned", "t1"), ("e3", 3, "withdrawn", None)]
    assert result.contradictions == []
    assert changes([errors(6, critical=True)], [essays("e1", "e2")]).contradictions == []
    assert filled(changes([errors(6, critical=True)], [essays("e1")])) == [("e1", 1, "withdrawn", None)]


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


def test_the_announcement_of_a_slot_counts_although_a_list_names_it_in_the_same_millisecond() -> None:
    slot, listed = assigned("e1", "t1", 5), ready(5, ("e1", "t1"))
    for announcements in ([slot._replace(offset=9), listed], [listed._replace(at=listed.at - 1), slot]):
        known = changes(announcements, [essays("e1")]).slots[0].content
        assert known is not None
        assert known.file_upload_id == "upload-t1"


def test_the_event_of_an_announcement_that_does_not_count_stays_in_the_outbox() -> None:
    counts, lost = assigned("e1", "t1", 5), assigned("e1", "t2", 6)
    result = changes([counts, lost], [essays("e1", "e2"), *texts("t1", "t2")])
    assert counts.event_id in result.event_ids
    assert lost.event_id not in result.event_ids


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


NAMES = ("essay_id", "text_storage_id", "file_upload_id", "original_file_name", "reason", "stored_at")
HOSTILE = [None, 7, 1e300, True, "", "\0", "x" * 300, [], {}, ["e1"], {"essay_id": 1}]


@pytest.mark.parametrize("odd", HOSTILE, ids=repr)
def test_fields_of_odd_types_count_as_missing(odd: Any) -> None:
    listed = [
        {"essay_id": odd, "text_storage_id": odd},
        odd,
        {"essay_id": "e1", "text_storage_id": "t1", "error_detail": odd, "failed_at": odd, "file_name": odd},
    ]
    for topic in OUTGOING_TOPICS:
        for name in (
            "essay_id",
            "text_storage_id",
            "file_upload_id",
            "original_file_name",
            "reason",
            "stored_at",
            "failed_count",
        ):
            good = {
                "essay_id": "e1",
                "text_storage_id": "t1",
                "file_upload_id": "u",
                "original_file_name": "f",
                "ready_essays": listed,
                "failed_essays": listed,
                "error_summary": odd,
            }
            value = {
                "event_id": odd,
                "event_timestamp": odd,
                "correlation_id": odd,
                "data": {"batch_id": "b", **good, name: odd},
                "metadata": {"traceparent": odd, "tracestate": odd},
            }
            found = announcement_of(ConsumerRecord(topic, 0, 0, 2**62, 0, b"b", orjson.dumps(value), None, 0, 0, ()))
            if found is not None:
                changes([Published(*orjson.loads(orjson.dumps(tuple(found[1]))))], [essays("e1", "e2")])


@pytest.mark.parametrize(
    "value",
    [None, b"", b"{", b"[]", b'{"data": {}}', b'{"data": {"batch_id": "b", "essay_id": ""}}', b'{"data": null}'],
)
def test_a_record_that_announces_nothing_is_left_out(value: bytes | None) -> None:
    assert announcement_of(ConsumerRecord(SLOT_ASSIGNED, 0, 0, 0, 0, b"b", value, None, 0, 0, ())) is None
