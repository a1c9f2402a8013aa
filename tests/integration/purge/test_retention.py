"""What is closed is deleted at the end of its retention, batches as a whole."""

from dataclasses import replace

import pytest

from service.domain.events import Incoming
from service.purge import policy
from service.purge.policy import PurgeReport
from service.purge.purge import count_due
from tests.support.builders.events import content, failure, registration
from tests.support.pods.purger import DAY, FOR_EVER, POLICY, SHORT, PurgeFixture, later, quarantine


async def test_expired_content_is_deleted_at_the_end_of_its_retention(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    await house.purge(1.01)
    assert await house.purge(31) == PurgeReport()
    assert await house.purge(31.02) == PurgeReport(deleted_content=1, deleted_failures=1)
    assert (house.states(), house.failures()) == ({}, {})


async def test_by_default_closed_rows_are_kept_for_90_days_and_batches_and_actions_for_400(house: PurgeFixture) -> None:
    await house.poll(registration(essays=1), content("c1"), registration("late", 1), content("c2", "unknown"))
    await house.poll(failure("f1", "unknown"))
    for table in ("pending_content", "validation_failures"):
        house.conn.execute(f"update els.{table} set state = 'removed', closed_at = now()".encode())
    quarantine(house, "discarded")
    quarantine(house, "open")
    house.conn.execute("insert into els.operator_actions (who, action, why) values ('o', 'pending remove', '')")
    await house.purge(2)
    house.conn.execute("delete from els.outbox_pages")
    assert await house.purge(89) == PurgeReport()
    assert await house.purge(91) == PurgeReport(deleted_removed=1, deleted_removed_failures=1, deleted_quarantine=1)
    assert await house.purge(399) == PurgeReport()
    assert await house.purge(401) == PurgeReport(deleted_batches=1, deleted_actions=1)
    assert await house.purge(403) == PurgeReport(deleted_batches=1)  # reported as late after two days
    assert house.rows("select state from els.quarantine") == [("open",)]


async def test_batches_are_deleted_whole_at_the_end_of_their_retention(house: PurgeFixture) -> None:
    await house.poll(registration(essays=2), content("c1"), failure("f1"))
    await house.poll(content("excess"), failure("surplus"))
    await house.poll(registration("late", 1), registration("open", 1))
    await house.purge(2, SHORT)
    house.conn.execute("update els.batches set timed_out_at = null where batch_id = 'open'")
    assert await house.purge(61, SHORT) == PurgeReport(timed_out_batches=1)  # the rest is not published yet
    house.conn.execute("delete from els.outbox_pages")
    assert await house.purge(61, SHORT) == PurgeReport(deleted_batches=1)
    assert await house.purge(63, SHORT) == PurgeReport(deleted_batches=1)
    assert house.rows("select batch_id from els.batches") == [("open",)]
    assert house.rows("select batch_id from els.slots") == [("open",)]
    assert house.rows("select count(*) from els.excess_content") == [(0,)]
    assert house.failures() == {}


@pytest.mark.parametrize(
    "held",
    [
        "select from els.batches where batch_id = 'b' for no key update",
        "select from els.slots where batch_id = 'b' limit 1 for update",
        "select pg_advisory_xact_lock(hashtextextended('b', 0))",
    ],
)
async def test_a_batch_that_another_transaction_works_on_is_not_deleted(house: PurgeFixture, held: str) -> None:
    await house.poll(registration(essays=2))
    await house.poll(registration("d", 1))
    await house.purge(2)
    house.conn.execute("delete from els.outbox_pages")
    with house.holding(held):
        assert await house.purge(63, SHORT) == PurgeReport(deleted_batches=1, passed_over=1)
    assert await house.purge(63, SHORT) == PurgeReport(deleted_batches=1)


@pytest.mark.parametrize("late", [content("excess"), failure("surplus")])
async def test_a_batch_is_kept_as_long_as_its_latest_upload_may_be_delivered_again(
    house: PurgeFixture, late: Incoming
) -> None:
    """Else that upload's next delivery would wait for a registration that was long ago."""
    await house.poll(registration(essays=1), content("c1"))
    house.conn.execute("update els.batches set completed_at = now() - interval '61 days'")
    house.conn.execute("update els.batches set changed_at = completed_at, registered_at = completed_at")
    await house.poll(late)
    house.conn.execute("delete from els.outbox_pages")
    assert await count_due(house.database, SHORT, later(59)) == await house.purge(59, SHORT) == PurgeReport()
    assert await house.purge(61, SHORT) == PurgeReport(deleted_batches=1)


async def test_closed_rows_are_deleted_at_the_end_of_their_retention_and_open_ones_stay(house: PurgeFixture) -> None:
    await house.poll(content("c1"), content("c2"), failure("f1"), failure("f2"))
    house.conn.execute("update els.pending_content set state = 'removed', closed_at = now() where arrival = 1")
    house.conn.execute("update els.validation_failures set state = 'removed', closed_at = now() where arrival = 3")
    for state in ("open", "replayed", "discarded"):
        quarantine(house, state)
    house.conn.execute("insert into els.operator_actions (who, action, why) values ('o', 'pending remove', '')")
    retention_policy = replace(FOR_EVER, closed_retention=60 * DAY, actions_retention=70 * DAY)
    assert await house.purge(59, retention_policy) == PurgeReport()
    due = PurgeReport(deleted_removed=1, deleted_removed_failures=1, deleted_quarantine=2)
    assert await count_due(house.database, retention_policy, later(61)) == due
    assert await house.purge(61, retention_policy) == due
    assert await house.purge(71, retention_policy) == PurgeReport(deleted_actions=1)
    assert house.states() == {"c2": "pending"}
    assert house.rows("select state from els.quarantine") == [("open",)]
    assert house.rows("select id from els.operator_actions") == []


async def test_what_is_closed_stays_while_it_is_delivered_again(house: PurgeFixture) -> None:
    """Its topic still has it: without the row, it would be open once more."""
    quarantine(house, "discarded")
    house.conn.execute("update els.quarantine set last_seen_at = %s", [later(30)])
    retention_policy = replace(FOR_EVER, closed_retention=60 * DAY, actions_retention=70 * DAY)
    assert (
        await count_due(house.database, retention_policy, later(61))
        == await house.purge(61, retention_policy)
        == PurgeReport()
    )
    assert await house.purge(91, retention_policy) == PurgeReport(deleted_quarantine=1)


def test_a_retention_that_is_shorter_than_that_of_an_input_topic_is_named() -> None:
    assert policy.too_short(SHORT, {"a": 7 * DAY, "b": 29 * DAY}) == []
    (message,) = policy.too_short(SHORT, {"a": 7 * DAY, "b": 31 * DAY})
    assert "ELS_EXPIRED_RETENTION_SECONDS" in message
    assert "b keeps" in message
    assert len(policy.too_short(SHORT, {"a": float("inf")})) == 3
    assert len(policy.too_short(POLICY, {"a": 89 * DAY})) == 1
