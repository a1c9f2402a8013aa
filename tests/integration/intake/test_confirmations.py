"""A batch with a class is complete with its last slot, and ready with the confirmation of its class."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from service.domain.delivery import IntakeLimits
from service.domain.events import Incoming, Reason, Rejection
from service.domain.topics import BATCH_COMPLETED, BATCH_READY, BATCH_REGISTERED, SLOT_ASSIGNED, VALIDATION_ERRORS
from service.http.gauges import HEALTH
from service.purge.policy import PurgeReport, RetentionPolicy
from service.purge.purge import count_due, purge_once
from service.store.batches import BatchFilter, list_batches
from service.store.monitoring import read_gauges
from service.store.search import list_batches_of
from tests.support.builders.events import confirmation, content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.pods.applier import ApplyFixture

DAY = 86_400
REGULAR = registration(essays=1, class_id="8a")
ANNOUNCED = [SLOT_ASSIGNED, BATCH_COMPLETED, BATCH_READY]


def states(applier: ApplyFixture) -> dict[str, str]:
    return dict(applier.rows("select class_id, state from els.confirmations"))


@pytest.mark.parametrize(
    "polls",
    [
        [[REGULAR], [content("c1")], [confirmation()]],
        [[REGULAR], [confirmation()], [content("c1")]],
        [[confirmation()], [REGULAR], [content("c1")]],
        [[confirmation()], [content("c1")], [REGULAR]],
        [[confirmation(), content("c1")], [REGULAR]],
        [[confirmation()], [content("c1"), REGULAR]],
        [[confirmation(), content("c1"), REGULAR]],
        [[REGULAR], [content("c1"), confirmation()]],
        [[REGULAR], [content("c1"), confirmation(), confirmation("")]],
        [[confirmation("")], [REGULAR, confirmation()], [content("c1")]],
    ],
)
async def test_the_batch_is_announced_once_as_complete_and_once_as_ready_in_any_order(
    applier: ApplyFixture, polls: list[list[Incoming]]
) -> None:
    for poll in polls:
        await applier.poll(*poll)
    assert applier.topics() == ANNOUNCED
    row = applier.row("batches")
    assert row["state"] == "ready"
    assert row["registered_at"] <= row["confirmed_at"]
    assert row["ready_announced_at"] == max(row["completed_at"], row["confirmed_at"])
    before = invariants.state(applier.conn)
    for poll in polls:
        await applier.poll(*poll)
    assert invariants.state(applier.conn) == before


async def test_a_batch_waits_for_its_confirmation_and_says_so(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR)
    outcome = await applier.once(*deliveries(content("c1")))
    assert applier.topics() == ANNOUNCED[:2]
    assert [each.kind for each in outcome.effects.records] == ["content_assigned", "batch_completed"]
    (row,) = applier.rows("select state, completed_at is null, confirmed_at, ready_at from ops.batches")
    assert row == ("complete", False, None, None)
    outcome = await applier.once(*deliveries(confirmation()))
    assert [each.kind for each in outcome.effects.records] == ["confirmation_applied", "batch_ready"]
    again = await applier.once(*deliveries(confirmation(), confirmation()))
    assert Counter(each.kind for each in again.effects.records) == {"confirmation_repeated": 2}


async def test_a_batch_without_a_class_is_ready_at_once(applier: ApplyFixture) -> None:
    await applier.poll(confirmation(), registration(essays=1, class_id=""), content("c1"))
    assert applier.topics() == ANNOUNCED
    assert states(applier) == {"8a": "unused"}
    assert applier.row("batches")["confirmed_at"] is None


async def test_the_confirmation_of_another_class_changes_nothing(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR, content("c1"))
    outcome = await applier.once(*deliveries(confirmation("8b")))
    assert [(each.kind, each.detail) for each in outcome.effects.records] == [("confirmation_unused", "another_class")]
    assert applier.row("batches")["state"] == "complete"
    await applier.poll(confirmation(), confirmation(""))
    assert states(applier) == {"8b": "unused", "8a": "applied", "": "unused"}
    assert applier.topics() == ANNOUNCED


async def test_a_failed_batch_gets_neither_event(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=2, class_id="8a"), failure("f1"))
    await applier.poll(confirmation(), failure("f2"))
    await applier.poll(confirmation(""))
    assert applier.topics() == [VALIDATION_ERRORS]
    assert (applier.row("batches")["state"], states(applier)) == ("failed", {"8a": "unused", "": "unused"})


async def test_a_confirmation_that_is_applied_before_the_batch_fails_announces_nothing(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR, confirmation())
    await applier.poll(failure("f1"))
    assert (applier.topics(), states(applier)) == ([VALIDATION_ERRORS], {"8a": "applied"})


async def test_a_batch_with_failures_is_completed_with_the_rest(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=2, class_id="8a"), failure("f1"), content("c1"))
    assert applier.topics() == [SLOT_ASSIGNED, VALIDATION_ERRORS, BATCH_COMPLETED]
    data = applier.outbox()[-1]["data"]
    assert (data["provisioned_count"], data["expected_count"], data["class_id"]) == (1, 2, "8a")
    assert [each["text_storage_id"] for each in data["essays_for_processing"]] == ["c1"]
    await applier.poll(confirmation())
    assert applier.topics()[-1] == BATCH_READY


async def test_what_a_release_without_completions_has_announced_is_not_announced_again(applier: ApplyFixture) -> None:
    applier.limits = replace(IntakeLimits(), ready_waits=False)
    await applier.poll(REGULAR, content("c1"))
    # The release before makes a batch with a class ready at once, and publishes nothing else.
    applier.conn.execute("update els.batches set ready_announced_at = null")
    applier.conn.execute("delete from els.outbox_pages")
    applier.limits = IntakeLimits()
    await applier.once(*deliveries(confirmation(), content("c2")))
    assert "excess" in applier.topics()[0]
    assert len(applier.topics()) == 1
    row = applier.row("batches")
    assert (row["state"], row["confirmed_at"] is None, row["ready_announced_at"]) == ("ready", False, None)
    assert applier.rows("select ready_at = completed_at from ops.batches") == [(True,)]


async def test_without_the_setting_a_batch_is_ready_at_once(applier: ApplyFixture) -> None:
    applier.limits = replace(IntakeLimits(), ready_waits=False)
    await applier.poll(REGULAR, content("c1"))
    assert applier.topics() == ANNOUNCED
    await applier.poll(confirmation())
    assert (applier.topics(), states(applier)) == (ANNOUNCED, {"8a": "applied"})


async def test_what_waits_when_the_setting_is_turned_off_is_announced_by_the_next_purge(applier: ApplyFixture) -> None:
    policy = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=DAY)
    await applier.poll(REGULAR, registration("d", 1, class_id="8a"), content("c1"), content("c2", "d"))
    assert await purge_once(applier.database, policy) == PurgeReport()
    await applier.poll(confirmation("8a", "d"))
    off = replace(policy, ready_waits=False)
    assert await purge_once(applier.database, off) == PurgeReport(ended_waits=1)
    assert applier.topics() == ANNOUNCED
    assert applier.topics("d") == ANNOUNCED
    assert invariants.violations(applier.conn) == []
    assert await purge_once(applier.database, off) == PurgeReport()
    await applier.poll(confirmation())
    assert (applier.topics(), states(applier)) == (ANNOUNCED, {"8a": "applied"})


async def test_an_early_confirmation_waits_until_the_retention_of_batches_is_over(applier: ApplyFixture) -> None:
    never = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=DAY, batch_retention=9_999 * DAY)
    months = replace(never, batch_retention=90 * DAY)
    await applier.poll(confirmation())

    def after(days: float) -> datetime:
        return datetime.now(UTC) + timedelta(days=days)

    assert await purge_once(applier.database, never, now=after(4_000)) == PurgeReport()
    assert await purge_once(applier.database, months, now=after(89.9)) == PurgeReport()
    assert await purge_once(applier.database, months, now=after(90.1)) == PurgeReport(deleted_confirmations=1)


async def test_an_early_confirmation_waits_while_registrations_may_be_unread_or_are_in_quarantine(
    applier: ApplyFixture,
) -> None:
    policy = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=DAY, batch_retention=DAY)
    await applier.poll(confirmation())
    applier.conn.execute("update els.confirmations set stored_at = now() - interval '2 days'")
    assert (await purge_once(applier.database, policy)).deleted_confirmations == 0  # no partition is applied
    (rejected,) = deliveries(Rejection(Reason.INVALID_FIELD, "no"))
    await applier.once(replace(rejected, topic=BATCH_REGISTERED, key=b"b"))
    late = datetime.now(UTC) + timedelta(days=2)
    assert (await purge_once(applier.database, policy, now=late)).deleted_confirmations == 0
    applier.conn.execute("update els.quarantine set state = 'discarded', closed_at = now()")
    assert (await count_due(applier.database, policy, now=late)).deleted_confirmations == 1
    assert (await purge_once(applier.database, policy, now=late)).deleted_confirmations == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_what_a_pod_without_confirmations_has_registered_is_settled_by_the_purge(
    applier: ApplyFixture, fails: bool
) -> None:
    policy = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=DAY)
    await applier.poll(confirmation("", "early"))
    await applier.poll(REGULAR, failure("f1") if fails else content("c1"))
    applier.conn.execute(
        "insert into els.confirmations (batch_id, class_id, state, associations, correlation_id, stored_at)"
        " select 'b', class_id, 'pending', 1, gen_random_uuid(), now() from unnest(array['8a', '8b', '']) as class_id"
    )
    (violation,) = {rule for rule, *_ in applier.rows("select invariant from ops.invariant_violations")}
    assert violation == "I4"
    assert await purge_once(applier.database, policy) == PurgeReport(settled_confirmations=3)
    assert invariants.violations(applier.conn) == []
    assert Counter(states(applier).values())["applied"] == (not fails)
    assert applier.topics() == ([VALIDATION_ERRORS] if fails else ANNOUNCED)
    assert await purge_once(applier.database, policy) == PurgeReport()


async def test_a_recent_confirmation_keeps_its_batch(applier: ApplyFixture) -> None:
    policy = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=DAY, batch_retention=90 * DAY)
    await applier.poll(registration(essays=1), content("c1"))
    applier.conn.execute("delete from els.outbox_pages")
    await applier.once(*deliveries(confirmation()))
    applier.conn.execute("update els.confirmations set stored_at = now() + interval '89 days'")
    late = datetime.now(UTC) + timedelta(days=91)
    assert (await count_due(applier.database, policy, now=late)).deleted_batches == 0
    assert await purge_once(applier.database, policy, now=late) == PurgeReport()
    applier.conn.execute("update els.confirmations set stored_at = now()")
    assert await purge_once(applier.database, policy, now=late) == PurgeReport(deleted_batches=1)


async def test_a_batch_that_waits_is_not_deleted(applier: ApplyFixture) -> None:
    policy = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=DAY, batch_retention=90 * DAY)
    await applier.poll(REGULAR, content("c1"))
    applier.conn.execute("delete from els.outbox_pages")
    late = datetime.now(UTC) + timedelta(days=4_000)
    assert await purge_once(applier.database, policy, now=late) == PurgeReport()
    assert applier.row("batches")["state"] == "complete"


async def test_a_batch_that_is_deleted_takes_its_confirmations_along(applier: ApplyFixture) -> None:
    policy = RetentionPolicy(pending_ttl=DAY, expired_retention=DAY, batch_timeout=DAY, batch_retention=90 * DAY)
    await applier.poll(REGULAR, content("c1"), confirmation(), confirmation("8b"))
    applier.conn.execute("delete from els.outbox_pages")
    report = await purge_once(applier.database, policy, now=datetime.now(UTC) + timedelta(days=91))
    assert report == PurgeReport(deleted_batches=1)
    assert states(applier) == {}


async def test_a_late_confirmation_is_a_line_of_health_a_gauge_and_a_list(applier: ApplyFixture) -> None:
    late = "batches are complete, and the confirmation of their class is late"

    async def reported() -> tuple[bool, float, list[str], list[str]]:
        [(line,)] = applier.rows("select array_to_string(attention, ', ') from ops.health")
        condition = BatchFilter(unconfirmed=True, class_id="8a")
        async with applier.database.transaction() as conn:
            gauges = dict(zip(HEALTH, await read_gauges(conn, "read_health"), strict=True))
            lists = [await read(conn, condition, 10) for read in (list_batches, list_batches_of)]
        plain, of_class = ([row["batch_id"] for row in rows] for rows in lists)
        return late in line, gauges["els_batches_unconfirmed"], plain, of_class

    registered = registration("registered", essays=1, class_id="8a")
    await applier.poll(REGULAR, content("c1"), registered)
    assert await reported() == (False, 0, [], [])
    applier.conn.execute("update els.batches set completed_at = now() - interval '25 hours' where state = 'complete'")
    applier.conn.execute("update els.batches set timed_out_at = now() where state = 'registered'")
    assert await reported() == (True, 1, ["b"], ["b"])
    await applier.poll(confirmation())
    assert await reported() == (False, 0, [], [])


async def test_a_confirmation_of_a_hundred_thousand_students_keeps_their_number(applier: ApplyFixture) -> None:
    await applier.poll(REGULAR, content("c1"), confirmation(associations=100_000))
    assert applier.rows("select class_id, state, associations from ops.confirmations") == [("8a", "applied", 100_000)]
