"""Closes and cancels batches, and tests what is announced, what comes later, and what is not possible."""

from typing import Any

import psycopg
import pytest

from service.domain.delivery import IntakeLimits
from service.domain.events import Incoming
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.operators.batches import BatchActions
from service.operators.endings import Ending
from service.operators.errors import Conflict, Contention, NotFound
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.purge.policy import RetentionPolicy
from service.purge.purge import purge_once
from service.store.operator_actions import Operator
from tests.support.builders.events import confirmation, content, failure, registration
from tests.support.builders.samples import sample
from tests.support.checks import invariants
from tests.support.checks.readers import read_strictly
from tests.support.pods.applier import ApplyFixture

BY = Operator("a test", "three essays were not written")
REGULAR = registration(essays=3, class_id="8a")
c1, c2, f1, f2 = content("c1"), content("c2"), failure("f1"), failure("f2")


async def close(applier: ApplyFixture, batch_id: str = "b", **options: Any) -> Ending:
    return await BatchActions(applier.database, IntakeLimits()).close(BY, batch_id, **options)


async def cancel(applier: ApplyFixture, batch_id: str = "b", **options: Any) -> Ending:
    return await BatchActions(applier.database, IntakeLimits()).cancel(BY, batch_id, "WRONG_REGISTRATION", **options)


def healthy(applier: ApplyFixture) -> None:
    """Assert that no invariant is violated, by the tables, by the view and by strict readers."""
    assert invariants.violations(applier.conn) == []
    assert applier.rows("select * from ops.invariant_violations") == []
    for topic, event in applier.rows("select topic, event from ops.outbox_events"):
        read_strictly(topic, event)


@pytest.mark.parametrize(
    ("before", "state", "topics"),
    [
        ([registration(essays=3), c1], "ready", [SLOT_ASSIGNED, BATCH_COMPLETED, BATCH_READY]),
        ([registration(essays=3), c1, f1], "ready", [SLOT_ASSIGNED, VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY]),
        ([REGULAR, c1], "complete", [SLOT_ASSIGNED, BATCH_COMPLETED]),
        ([REGULAR, confirmation(), c1], "ready", [SLOT_ASSIGNED, BATCH_COMPLETED, BATCH_READY]),
        ([registration(essays=3), f1], "failed", [VALIDATION_ERRORS]),
        ([registration(essays=3)], "failed", [VALIDATION_ERRORS]),
    ],
)
async def test_a_batch_is_closed_with_what_is_there(
    applier: ApplyFixture, before: list[Incoming], state: str, topics: list[str]
) -> None:
    await applier.poll(*before)
    expected = await close(applier, dry_run=True)
    assert applier.row("batches")["state"] == "registered"
    ending = await close(applier)
    assert ending == expected
    row = applier.row("batches")
    assert (row["state"], ending.state, ending.before) == (state, state, "registered")
    assert (row["withdrawn"], ending.withdrawn) == (3 - row["assigned"] - row["failed"],) * 2
    assert applier.rows("select open from ops.batches") == [(0,)]
    assert applier.topics() == topics
    assert [event.topic for event in ending.events] == [topic for topic in topics if topic != SLOT_ASSIGNED]
    events = {event["event_type"]: event for event in applier.outbox()}
    assert {str(event.event_id) for event in ending.events} <= {event["event_id"] for event in events.values()}
    if BATCH_COMPLETED in events:
        data = events[BATCH_COMPLETED]["data"]
        assert (data["provisioned_count"], data["expected_count"]) == (1, 3)
    if state == "failed":
        data = events[VALIDATION_ERRORS]["data"]
        failed = [each.file_upload_id for each in before if each == f1]
        assert [each["essay_id"] for each in data["failed_essays"]] == failed
        assert data["error_summary"]["critical_failure"] is True
    healthy(applier)


async def test_what_comes_for_a_closed_batch_is_excess_and_repeats_change_nothing(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR, c1, f1)
    await close(applier)
    before = invariants.state(applier.conn)
    await applier.poll(REGULAR, c1, f1)
    assert invariants.state(applier.conn) == before
    await applier.poll(c2, f2)
    assert applier.rows("select text_storage_id, reason from els.excess_content") == [("c2", "BATCH_FULL")]
    assert applier.rows("select file_upload_id, state from els.validation_failures order by 1") == [
        ("f1", "slot"),
        ("f2", "surplus"),
    ]
    await applier.poll(confirmation())
    assert applier.row("batches")["state"] == "ready"
    assert applier.topics()[-2:] == [EXCESS_CONTENT, BATCH_READY]
    healthy(applier)


@pytest.mark.parametrize(
    ("before", "counts", "topics"),
    [
        ([REGULAR, c1], (1, 0, 2), [SLOT_ASSIGNED]),
        ([REGULAR, c1, f1], (1, 1, 1), [SLOT_ASSIGNED]),
        ([REGULAR], (0, 0, 3), []),
        ([REGULAR, c1, c2, f1], (2, 1, 0), [SLOT_ASSIGNED, SLOT_ASSIGNED, VALIDATION_ERRORS, BATCH_COMPLETED]),
    ],
)
async def test_a_cancelled_batch_publishes_that_and_nothing_else(
    applier: ApplyFixture, before: list[Incoming], counts: tuple[int, int, int], topics: list[str]
) -> None:
    await applier.poll(*before)
    expected = await cancel(applier, dry_run=True)
    ending = await cancel(applier)
    assert ending == expected
    assert (ending.assigned, ending.failed, ending.withdrawn) == counts
    assert applier.topics() == [*topics, BATCH_CANCELLED]
    event = applier.outbox()[-1]
    data = {"reason": "WRONG_REGISTRATION", "expected_count": 3, "assigned_count": counts[0], "failed_count": counts[1]}
    assert event["data"] == sample("out.batch_cancelled")["data"] | data | {
        "batch_id": "b",
        "correlation_id": str(REGULAR.correlation_id),
        "timestamp": event["event_timestamp"],
    }
    await applier.poll(content("late"), failure("late"), confirmation(), REGULAR)
    assert applier.row("batches")["state"] == "cancelled"
    assert applier.rows("select reason from els.excess_content") == [("BATCH_FULL",)]
    assert applier.rows("select state from els.confirmations") == [("unused",)]
    assert applier.topics() == [*topics, BATCH_CANCELLED, EXCESS_CONTENT]
    healthy(applier)


async def test_a_closed_batch_that_waits_for_its_class_can_be_cancelled(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR, c1)
    await close(applier)
    assert (await cancel(applier)).withdrawn == 2
    assert applier.topics() == [SLOT_ASSIGNED, BATCH_COMPLETED, BATCH_CANCELLED]
    row = applier.row("batches")
    assert row["completed_at"] < row["cancelled_at"]
    healthy(applier)


async def test_a_terminal_state_is_not_overwritten(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=1), c1)
    await applier.poll(registration("d", 1), failure("f", "d"))
    await applier.poll(registration("e", 1))
    await cancel(applier, "e")
    before = invariants.state(applier.conn)
    for batch_id, state in (("b", "ready"), ("d", "failed"), ("e", "cancelled")):
        for action in (close, cancel):
            for dry_run in (True, False):
                with pytest.raises(Conflict, match=f"batch {batch_id} is {state}"):
                    await action(applier, batch_id, dry_run=dry_run)
    with pytest.raises(NotFound, match="x is not registered"):
        await close(applier, "x")
    assert invariants.state(applier.conn) == before


async def test_neither_is_possible_while_pods_of_the_previous_release_may_be_alive(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=1))
    applier.conn.execute("update els.outbox_format set pages = false")
    for action in (close, cancel):
        with pytest.raises(Conflict, match="pods of the previous release"):
            await action(applier)
    assert applier.row("batches")["state"] == "registered"


async def test_the_log_of_operator_actions_has_what_is_needed_to_do_it_again(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR, c1)
    await cancel(applier)
    ((who, action, batch_id, why, details),) = applier.rows(
        "select who, action, batch_id, why, details from ops.operator_actions"
    )
    assert (who, action, batch_id, why) == (BY.who, "batches cancel", "b", BY.why)
    assert details.pop("events")[0]["topic"] == BATCH_CANCELLED
    assert details == {
        "before": "registered",
        "state": "cancelled",
        "reason": "WRONG_REGISTRATION",
        "expected": 3,
        "assigned": 1,
        "failed": 0,
        "withdrawn": 2,
        "essay_ids": ["e2", "e3"],
    }


async def test_who_holds_a_slot_for_long_is_reported_and_nothing_is_changed(
    applier: ApplyFixture, database_url: str
) -> None:
    await applier.poll(registration(essays=2))
    database = Database(database_url, timeouts=Timeouts(lock_timeout=50))
    with psycopg.connect(database_url) as other:
        other.execute("select from els.slots where essay_id = 'e2' for update")
        with pytest.raises(Contention, match="try again"):
            await BatchActions(database, IntakeLimits()).close(BY, "b")
    await database.close()
    assert applier.row("batches")["state"] == "registered"
    assert applier.rows("select count(*) from ops.operator_actions") == [(0,)]
    await close(applier)


async def test_what_is_ended_is_neither_late_nor_waited_for(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR, c1, registration("d", 1), registration("e", 1, class_id="8a"), content("x", "e"))
    await close(applier)
    await cancel(applier, "d")
    await cancel(applier, "e")
    applier.conn.execute("update els.batches set registered_at = registered_at - interval '2 days'")
    policy = RetentionPolicy(86_400, 86_400, 86_400, ready_waits=False)
    report = await purge_once(applier.database, policy)
    assert (report.timed_out_batches, report.ended_waits) == (0, 1)
    assert applier.rows("select batch_id, state from els.batches order by 1") == [
        ("b", "ready"),
        ("d", "cancelled"),
        ("e", "cancelled"),
    ]
    healthy(applier)


async def test_ended_batches_are_deleted_after_their_retention(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=2), c1, registration("d", 1))
    await close(applier)
    await cancel(applier, "d")
    applier.conn.execute(
        "delete from els.outbox_pages; update els.batches set registered_at = registered_at - interval '9 days',"
        " completed_at = completed_at - interval '9 days', cancelled_at = cancelled_at - interval '9 days',"
        " ready_announced_at = ready_announced_at - interval '9 days', changed_at = changed_at - interval '9 days'"
    )
    report = await purge_once(applier.database, RetentionPolicy(1, 1, 86_400, batch_retention=86_400))
    assert report.deleted_batches == 2
    assert applier.rows("select count(*) from els.slots") == [(0,)]


async def test_a_batch_of_many_slots_is_closed(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=20_000), c1)
    ending = await close(applier)
    assert (ending.state, ending.withdrawn) == ("ready", 19_999)
    ((details,),) = applier.rows("select details from ops.operator_actions")
    assert len(details["essay_ids"]) == 1_000
    healthy(applier)
