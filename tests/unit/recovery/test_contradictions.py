"""Tests which of several announcements, inputs and rows that contradict each other counts in a recovery."""

from datetime import timedelta

import pytest

from service.domain.topics import BATCH_REGISTERED
from service.recovery.facts import Published
from service.store.recovery import AnnouncedTimes, Stored, StoredContent
from tests.support.builders.announcements import (
    MORNING,
    assigned,
    changes,
    completed,
    essays,
    excess,
    filled,
    ready,
    received,
    stored_batch,
    stored_content,
    texts,
)
from tests.support.builders.inputs import registration


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


def test_a_decision_that_contradicts_an_announcement_yields() -> None:
    stored = stored_batch(("e1", "t1"), ("e2", "t2"), second=60, excess=["t3"])
    result = changes([assigned("e1", "t3", 5)], [], stored)
    assert filled(result) == [("e1", 1, "assigned", "t3")]
    assert set(result.cleared) == {("slot", "e1"), ("slot", "e2"), ("content", "t3")}
    assert {each.text_storage_id for each in result.decide} == {"t1", "t2"}  # type: ignore[union-attr]
    assert result.times == AnnouncedTimes(None, None, None, is_ready=False)


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
