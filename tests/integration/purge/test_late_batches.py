"""A batch that is late is reported once, and can still become ready."""

import pytest

from service.domain.topics import READINESS_TIMEOUT
from service.purge import purge
from service.purge.policy import PurgeReport
from tests.support.builders.events import content, failure, registration
from tests.support.pods.purger import DAY, PurgeFixture


async def test_a_late_batch_is_reported_once_and_can_still_become_ready(house: PurgeFixture) -> None:
    await house.poll(registration(essays=3), registration("d", 1), content("c3", "d"))
    await house.poll(content("c1"), failure("f1"))
    assert await house.purge(1.01) == PurgeReport(timed_out_batches=1)
    assert await house.purge(3) == PurgeReport()
    (published,) = house.events(READINESS_TIMEOUT)
    assert published["data"]["batch_id"] == "b"
    assert published["data"]["ready_essays"] == [{"essay_id": "e1", "text_storage_id": "c1"}]
    assert published["data"]["missing_essay_ids"] == ["e3"]
    assert (published["data"]["expected_count"], published["data"]["actual_count"]) == (3, 1)
    assert published["data"]["timeout_duration_seconds"] == DAY
    await house.poll(content("c2"))
    assert house.rows("select state from ops.batches where batch_id = 'b' and timed_out_at is not null") == [("ready",)]
    assert len(house.events(READINESS_TIMEOUT)) == 1


async def test_a_late_batch_that_another_transaction_works_on_is_left_to_the_next_round(house: PurgeFixture) -> None:
    await house.poll(registration(essays=1), registration("d", 1))
    with house.holding("select from els.batches where batch_id = 'b' for no key update"):
        assert await house.purge(1.01) == PurgeReport(timed_out_batches=1)
        assert house.subjects(READINESS_TIMEOUT) == ["d"]
    assert await house.purge(1.01) == PurgeReport(timed_out_batches=1)


async def test_a_large_batch_is_reported_completely_in_a_transaction_of_its_own(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "SLOTS_PER_CHUNK", 10)
    monkeypatch.setattr(purge, "BATCHES_PER_CHUNK", 3)
    await house.poll(registration("large", 5_000))
    await house.poll(content("c1", "large"))
    await house.poll(*(registration(f"small{number}", 4) for number in range(6)))
    assert await house.purge(1.01) == PurgeReport(timed_out_batches=7)
    assert [len(chunk.done) for chunk in house.chunks if chunk.task == "timed_out_batches"] == [1, 2, 2, 2]
    data = house.events(READINESS_TIMEOUT)[0]["data"]
    assert data["missing_essay_ids"] == [f"e{number}" for number in range(2, 5_001)]
    assert len(data["ready_essays"]) == 1
