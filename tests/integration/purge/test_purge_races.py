"""A purge races with polls for one batch in every order that the locks allow, and each may crash at its commit.

After each order no invariant is violated, each content is in one place, and each event is published once and in a
possible order. What the crashed ones left undone is done again, and then nothing is missing.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import cast

import pytest
from psycopg.errors import DeadlockDetected

from service.domain.delivery import IntakeLimits
from service.domain.events import ContentProvisioned, Incoming, Upload
from service.domain.topics import BATCH_READY, PENDING_EXPIRED, READINESS_TIMEOUT, SLOT_ASSIGNED
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS
from service.purge.policy import RetentionPolicy
from service.purge.purge import _Round
from tests.support.builders.events import content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.interleaving.interleaving import Report, Stage, stage
from tests.support.selection import partly_in_test_all

LATER = datetime(2099, 1, 1, tzinfo=UTC)
POLICY = RetentionPolicy(pending_ttl=1, expired_retention=1, batch_timeout=1)


def purge(task: str, policy: RetentionPolicy = POLICY) -> Callable[[Database], Awaitable[None]]:
    """One task of a round, when everything is due."""

    async def work(database: Database) -> None:
        a_round = _Round(database, policy, IntakeLimits(), LATER, lambda _: None, lambda: False)
        while await a_round._chunk(getattr(a_round, task)):
            pass

    return work


@dataclass(frozen=True, slots=True)
class Race:
    """A task and polls that race, from what other polls left behind."""

    task: str
    polls: Mapping[str, Sequence[Incoming]]
    before: Sequence[Incoming]


c1, c2, f1 = content("c1"), content("c2"), failure("f1")

RACES = {
    "expiry and the registration": Race("expire_content", {"R": [registration(essays=1)]}, [c1]),
    "expiry and the registration with room to spare": Race("expire_content", {"R": [registration(essays=2)]}, [c1, f1]),
    "expiry and the same content once more": Race("expire_content", {"A": [c1]}, [c1]),
    "expiry and other content": Race("expire_content", {"A": [c2]}, [c1]),
    "expiry of a failure and the registration": Race("expire_failures", {"R": [registration(essays=1)]}, [f1]),
    "two expiries": Race("expire_content", {}, [c1]),
    "the report and the content that completes": Race("report_late_batches", {"A": [c1]}, [registration(essays=1)]),
    "the report and content": Race("report_late_batches", {"A": [c1]}, [registration(essays=2)]),
    "two reports": Race("report_late_batches", {}, [registration(essays=1)]),
}


async def run(played: Stage, race: Race) -> Report:
    """Every order of the race, each checked at its end."""

    async def check(played: Stage, crashed: Sequence[str]) -> list[str]:
        found = wrong(played)
        for name in crashed:
            await (played.deliver(deliveries(*race.polls[name])) if name in race.polls else again(played))
        await again(played)
        if race.task == "expire_content" and "R" not in race.polls:
            found += [f"{each} is left pending" for each in texts(played, "pending")]
        found += [f"lost: {each}" for each in missing(played, race)]
        return found + wrong(played)

    async def again(played: Stage) -> None:
        await purge(race.task)(cast("Database", played))

    await played.start_from(deliveries(*race.before))
    purges = {"P": purge(race.task)} if race.polls else {"P": purge(race.task), "Q": purge(race.task)}
    return await played.explore(
        lambda: {**purges, **{name: deliveries(*poll) for name, poll in race.polls.items()}}, check, deaths=1
    )


def texts(played: Stage, state: str) -> set[str]:
    rows = played.observer.execute("select text_storage_id from els.pending_content where state = %s", [state])
    return {text for (text,) in rows}


def missing(played: Stage, race: Race) -> set[str]:
    came = {
        event.text_storage_id
        for poll in (race.before, *race.polls.values())
        for event in poll
        if isinstance(event, ContentProvisioned)
    }
    rows = played.observer.execute("select text_storage_id from els.slots where text_storage_id is not null")
    return came - {text for (text,) in rows} - texts(played, "expired") - texts(played, "pending")


def wrong(played: Stage) -> list[str]:
    """What is wrong in the tables and the outbox."""
    found = invariants.violations(played.observer)
    found += [str(row) for row in played.observer.execute("select * from ops.invariant_violations")]
    published = played.observer.execute(
        "select topic, event::json -> 'data' ->> 'text_storage_id' from ops.outbox_events order by seq"
    ).fetchall()
    if len(set(published)) < len(published):
        found.append(f"published twice: {published}")
    types = [kind for kind, _ in published]
    for first, second in ((PENDING_EXPIRED, SLOT_ASSIGNED), (READINESS_TIMEOUT, BATCH_READY)):
        if first in types and second in types and types.index(first) > types.index(second):
            found.append(f"published in the wrong order: {types}")
    if types.count(PENDING_EXPIRED) < len(texts(played, "expired")):
        found.append(f"expired without an event: {types}")
    return found


@pytest.mark.parametrize("name", RACES)
async def test_no_order_of_a_purge_and_a_poll_violates_an_invariant(database_url: str, name: str) -> None:
    async with stage(database_url, 2) as played:
        report = await run(played, RACES[name])
    print(f"{name}: {report}")
    assert not report.violations, str(report.violations[0])
    assert not report.errors
    assert not report.waited & {"try_purge", "try_lock_batches", "expire_content", "find_late_batches"}
    assert report.orders > 1


ENDED = """
    delete from els.outbox_pages;
    update els.batches
    set registered_at = registered_at - interval '2 days',
        completed_at = completed_at - interval '2 days',
        timed_out_at = case when completed_at is null then now() - interval '2 days' end,
        changed_at = changed_at - interval '2 days'
"""
"""All that is there was published, and ended long ago."""

DELETIONS: Mapping[str, Sequence[Incoming]] = {
    "content": [c2],
    "content that it has": [c1],
    "a failure": [f1],
    "content and a failure": [c2, f1],
    "the registration": [registration(essays=1)],
}


async def run_deletion(played: Stage, poll: Sequence[Incoming], essays: int = 1) -> Report:
    """Every order of the deletion of two ended batches and a poll for one of them; of two essays it is late."""
    policy = replace(POLICY, batch_retention=int((LATER - datetime.now(UTC)).total_seconds()) + 86_400)

    async def check(played: Stage, crashed: Sequence[str]) -> list[str]:
        uploads = [event for event in poll if isinstance(event, Upload) and event != c1]
        brought = {kind_and_name(event) for event in uploads} if "A" not in crashed else set()
        lost = brought - set(played.observer.execute(KEPT).fetchall())
        if "P" not in crashed and played.observer.execute("select from els.batches where batch_id = 'd'").fetchone():
            return ["d, for which nothing comes, is still there"]
        # Events from before the batch ended are published and deleted.
        found = [each for each in invariants.violations(played.observer) if each[:2] in ("I1", "I2", "I3", "I4")]
        return found + [f"{kind} {name} is nowhere" for kind, name in sorted(lost)]

    beside = deliveries(registration("d", 2), content("d1", "d"), content("d2", "d"))
    await played.start_from(deliveries(registration(essays=essays), c1), beside, then=ENDED)
    return await played.explore(lambda: {"P": purge("delete_batches", policy), "A": deliveries(*poll)}, check, deaths=1)


def kind_and_name(upload: Upload) -> tuple[str, str]:
    if isinstance(upload, ContentProvisioned):
        return "content", upload.text_storage_id
    return "failure", upload.file_upload_id


KEPT = """
    select 'content', text_storage_id from els.slots
    union all
    select 'content', text_storage_id from els.pending_content
    union all
    select 'content', text_storage_id from els.excess_content
    union all
    select 'failure', file_upload_id from els.validation_failures
"""


@pytest.mark.parametrize("essays", partly_in_test_all([1, 2], {2}, "deletions of a batch of two essays"))
@pytest.mark.parametrize("name", DELETIONS)
async def test_no_order_of_a_deletion_and_a_poll_loses_what_the_poll_brings(
    database_url: str, name: str, essays: int
) -> None:
    async with stage(database_url, 2) as played:
        report = await run_deletion(played, DELETIONS[name], essays)
    print(f"deletion and {name}: {report}")
    assert not report.violations, str(report.violations[0])
    assert not report.errors.keys() - {"SerializationFailure"}
    assert not report.waited & {"try_purge", "try_lock_batches", "hold_batches", "delete_batches"}
    assert report.orders > 1


def without_the_lock(patch: pytest.MonkeyPatch) -> None:
    """The purge takes no lock of a batch."""
    everything = "select batch_id, true from unnest(%(exclusive)s::text[] || %(shared)s::text[]) as free (batch_id)"
    patch.setitem(STATEMENTS, "try_lock_batches", everything)


def without_the_counter_row(patch: pytest.MonkeyPatch) -> None:
    """The report is written while another transaction completes the batch."""
    held = "for no key update skip locked"
    patch.setitem(STATEMENTS, "find_late_batches", STATEMENTS["find_late_batches"].replace(held, ""))


@pytest.mark.parametrize(
    ("name", "removed"),
    [
        ("expiry and the registration", without_the_lock),
        ("the report and the content that completes", without_the_counter_row),
    ],
)
async def test_the_races_detect_that_a_guard_is_removed(
    database_url: str, monkeypatch: pytest.MonkeyPatch, name: str, removed: Callable[[pytest.MonkeyPatch], None]
) -> None:
    removed(monkeypatch)
    async with stage(database_url, 2) as played:
        report = await run(played, RACES[name])
    assert report.violations or report.errors or "expire_content" in report.waited


async def test_the_deletion_races_detect_that_conditions_are_not_checked_again_under_the_locks(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = STATEMENTS["delete_batches"]
    blind = re.sub(r"els.ended_batches(.*\n.*)\n        and case .* end", r"els.batches\1", statement)
    assert blind != statement
    monkeypatch.setitem(STATEMENTS, "delete_batches", blind)
    async with stage(database_url, 2) as played:
        assert (await run_deletion(played, [c2])).tells("c2 is nowhere")
        assert (await run_deletion(played, [f1])).tells("f1 is nowhere")


async def test_the_deletion_races_detect_that_slots_are_counted_over_all_batches(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = STATEMENTS["hold_batches"]
    blind = statement.replace("and held_batches.expected = counted.slots", "")
    assert blind != statement
    monkeypatch.setitem(STATEMENTS, "hold_batches", blind)
    async with stage(database_url, 2) as played:
        with pytest.raises(DeadlockDetected):  # it deletes what somebody holds, who waits for what it holds
            await run_deletion(played, [c2], essays=2)
