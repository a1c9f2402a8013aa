"""Tests which rows and events a poll writes, whatever its mix of records."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from service.domain.events import Incoming, Reason, Rejection
from service.domain.incoming import decode
from service.domain.repeats import FileDifference, KnownFile
from service.domain.topics import (
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.intake import registrations
from service.intake import transaction as applying
from service.intake.outcome import Outcome
from service.store import pending_content
from tests.support.builders.events import content, deliveries, failure, registration
from tests.support.checks import invariants
from tests.support.pods.applier import ApplyFixture, deliver

CONTRACT = Path(__file__).parents[2] / "data" / "contract"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-11111111111111111111111111111111-2222222222222222-01"


def sample(name: str) -> Any:
    return json.loads((CONTRACT / f"{name}.json").read_text())


def arrived(topic: str, name: str, **data: Any) -> Incoming:
    """A sample of the contract, decoded, with some fields changed."""
    document = sample(name)
    document["data"].update(data)
    event = decode(topic, json.dumps(document).encode(), max_bytes=1_000_000)
    assert not isinstance(event, Rejection), event
    return event


def timeless(event: Any) -> Any:
    """An event without the fields that differ in every run: its id and our times."""
    event = json.loads(json.dumps(event))
    for part in (event, event["data"], event["data"].get("metadata", {})):
        part.pop("event_timestamp", None)
        part.pop("timestamp", None)
    del event["event_id"]
    return event


# -- rule 1: content of an unknown batch


async def test_content_of_an_unknown_batch_is_stored_with_all_its_fields(applier: ApplyFixture) -> None:
    event = content("c1", traceparent=TRACE, tracestate="vendor=1", file_size_bytes=2**40)
    await applier.poll(event)
    kept = applier.row("pending_content")
    assert {name: kept[name] for name in event._fields} == event._asdict()
    assert kept["state"] == "pending"
    assert applier.outbox() == []


async def test_content_without_an_md5_is_accepted(applier: ApplyFixture) -> None:
    await applier.poll(content("c1", content_md5_hash=None))
    await applier.poll(registration(essays=2), content("c2", content_md5_hash=None))
    await applier.poll(content("c3", content_md5_hash=None))
    assert applier.slots() == ["c1", "c2"]
    assert applier.excess() == {"c3": "BATCH_FULL"}


# -- rule 2: registration


async def test_a_registration_assigns_pending_content_in_the_order_in_which_it_was_stored(
    applier: ApplyFixture,
) -> None:
    await applier.poll(content("c3"), content("c1"))
    await applier.poll(content("c2"))
    await applier.poll(registration(essays=4))
    assert applier.slots() == ["c3", "c1", "c2", None]
    assert applier.rows("select * from els.pending_content") == []
    assert applier.topics() == [SLOT_ASSIGNED] * 3
    assert applier.row("batches")["state"] == "registered"


async def test_pending_content_beyond_the_slots_is_excess_and_the_batch_is_ready(applier: ApplyFixture) -> None:
    await applier.poll(content("c1"), content("c2"), content("c3"))
    await applier.poll(registration(essays=2))
    assert applier.slots() == ["c1", "c2"]
    assert applier.excess() == {"c3": "NO_AVAILABLE_SLOT"}
    assert applier.topics() == [SLOT_ASSIGNED, SLOT_ASSIGNED, EXCESS_CONTENT, BATCH_COMPLETED, BATCH_READY]


async def test_slots_have_the_order_of_the_registration(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=["z", "a", "m"]), content("c1"), content("c2"), content("c3"))
    assert [event["data"].get("essay_id") for event in applier.outbox()[:3]] == ["z", "a", "m"]
    ready = applier.outbox()[-1]["data"]["ready_essays"]
    assert [essay["essay_id"] for essay in ready] == ["z", "a", "m"]


async def test_in_one_poll_pending_content_is_assigned_before_content_of_the_poll(applier: ApplyFixture) -> None:
    await applier.poll(content("early"))
    await applier.poll(content("c2"), content("c1"), registration(essays=2), content("c3"))
    assert applier.slots() == ["early", "c2"]
    assert applier.excess() == {"c1": "NO_AVAILABLE_SLOT", "c3": "NO_AVAILABLE_SLOT"}
    assert applier.topics() == [
        SLOT_ASSIGNED,
        SLOT_ASSIGNED,
        EXCESS_CONTENT,
        EXCESS_CONTENT,
        BATCH_COMPLETED,
        BATCH_READY,
    ]


async def test_expired_content_is_found_by_a_late_registration_and_removed_content_is_not(
    applier: ApplyFixture,
) -> None:
    await applier.poll(content("c1"), content("c2"))
    applier.conn.execute(
        "update els.pending_content set closed_at = now(),"
        " state = case text_storage_id when 'c1' then 'removed' else 'expired' end"
    )
    await applier.poll(registration(essays=2), content("c1"))
    await applier.poll(content("c1"))
    assert applier.slots() == ["c2", None]
    assert applier.row("pending_content")["state"] == "removed"


# -- rules 3 and 4: content of a registered batch, and the last slot


async def test_content_takes_the_first_open_slot_in_order_of_arrival(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=3))
    await applier.poll(content("c2"), content("c1"))
    assert applier.slots() == ["c2", "c1", None]
    assert applier.topics() == [SLOT_ASSIGNED, SLOT_ASSIGNED]


async def test_events_equal_the_samples_of_the_contract(applier: ApplyFixture) -> None:
    batch = sample("in.batch_essays_registered")["data"]["batch_id"]
    names = {"text_storage_id": "text-0003", "file_upload_id": "u3", "original_file_name": "third.txt"}
    third = arrived(CONTENT_PROVISIONED, "in.essay_content_provisioned.newer", **names)
    await applier.poll(arrived(CONTENT_PROVISIONED, "in.essay_content_provisioned"))
    await applier.poll(arrived(BATCH_REGISTERED, "in.batch_essays_registered"))
    await applier.poll(arrived(VALIDATION_FAILED, "in.essay_validation_failed"))
    assigned, errors, completed, ready = applier.outbox(batch)
    assert timeless(assigned) == timeless(sample("out.essay_slot_assigned"))
    assert timeless(errors) == timeless(sample("out.batch_validation_errors"))
    expected = timeless(sample("out.batch_content_provisioning_completed"))
    del expected["data"]["essays_for_processing"][1]
    expected["data"]["provisioned_count"] = 1
    assert timeless(completed) == expected
    expected = timeless(sample("out.batch_essays_ready"))
    del expected["data"]["ready_essays"][1]
    assert timeless(ready) == expected
    await applier.poll(third)
    expected = timeless(sample("out.excess_content_provisioned"))
    expected["data"]["reason"] = "BATCH_FULL"
    assert timeless(applier.outbox(batch)[-1]) == expected


async def test_content_of_a_full_batch_is_excess(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=1), content("c1"))
    await applier.poll(content("c2"))
    assert applier.excess() == {"c2": "BATCH_FULL"}
    assert applier.topics() == [SLOT_ASSIGNED, BATCH_COMPLETED, BATCH_READY, EXCESS_CONTENT]


async def test_content_whose_poll_takes_the_last_slot_for_another_has_no_available_slot(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=1))
    await applier.poll(content("c1"), content("c2"))
    assert applier.excess() == {"c2": "NO_AVAILABLE_SLOT"}


async def test_a_poll_that_takes_the_last_slot_declares_excess_in_the_same_transaction(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=1))
    outcome = await applier.once(*deliveries(content("c1"), content("c2")))
    assert outcome.deferred == []
    assert applier.excess() == {"c2": "NO_AVAILABLE_SLOT"}
    assert applier.topics() == [SLOT_ASSIGNED, EXCESS_CONTENT, BATCH_COMPLETED, BATCH_READY]


async def test_records_of_held_batches_are_deferred_and_the_rest_of_the_poll_is_committed(
    applier: ApplyFixture,
) -> None:
    await applier.poll(registration("held", 1))
    with applier.conn.transaction():
        applier.conn.execute("select pg_advisory_xact_lock_shared(hashtextextended('locked', 0))")
        applier.conn.execute("select from els.slots where batch_id = 'held' for update")
        arrived = deliveries(
            content("c1", "held"), registration("locked", 1), registration("free", 1), content("c2", "free")
        )
        outcome = await applier.once(*arrived)
    assert {delivery.event.batch_id for delivery in outcome.deferred} == {"held", "locked"}  # type: ignore[union-attr]
    assert applier.slots("free") == ["c2"]
    await deliver(applier.database, outcome.deferred)
    assert applier.slots("held") == ["c1"]
    assert applier.slots("locked") == [None]
    assert invariants.violations(applier.conn) == []


# -- rule 5: validation failures


async def test_a_failure_takes_a_slot_after_all_content(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=3))
    await applier.poll(failure("f1"), content("c1"))
    await applier.poll(content("c2"))
    assert applier.slots() == ["c1", "failed:f1", "c2"]
    assert applier.topics() == [SLOT_ASSIGNED, SLOT_ASSIGNED, VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY]
    errors, _, ready = (event["data"] for event in applier.outbox()[-3:])
    assert [essay["essay_id"] for essay in errors["failed_essays"]] == ["f1"]
    assert errors["error_summary"] == {
        "total_errors": 1,
        "error_categories": {"EMPTY_CONTENT": 1},
        "critical_failure": False,
    }
    assert ready["ready_essays"] == [
        {"essay_id": "e1", "text_storage_id": "c1"},
        {"essay_id": "e3", "text_storage_id": "c2"},
    ]


async def test_early_failures_wait_and_take_slots_after_all_content(applier: ApplyFixture) -> None:
    await applier.poll(failure("f1"), failure("f2"))
    assert applier.rows("select state from els.validation_failures") == [("pending",), ("pending",)]
    assert applier.outbox() == []
    await applier.poll(content("c1"))
    await applier.poll(content("c2"), registration(essays=3))
    assert applier.slots() == ["c1", "c2", "failed:f1"]
    states = dict(applier.rows("select file_upload_id, state from els.validation_failures"))
    assert states == {"f1": "slot", "f2": "surplus"}


async def test_early_failures_take_slots_before_the_failures_of_the_registrations_poll(applier: ApplyFixture) -> None:
    await applier.poll(failure("early"))
    await applier.poll(failure("late"), registration(essays=1))
    assert applier.slots() == ["failed:early"]


async def test_a_batch_of_failures_only_is_failed_and_full(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=2))
    await applier.poll(failure("f1"), failure("f2"))
    await applier.poll(content("c1"), failure("f3"))
    assert applier.row("batches")["state"] == "failed"
    assert applier.topics() == [VALIDATION_ERRORS, EXCESS_CONTENT]
    assert applier.outbox()[0]["data"]["error_summary"]["critical_failure"] is True
    assert applier.excess() == {"c1": "BATCH_FULL"}
    states = dict(applier.rows("select file_upload_id, state from els.validation_failures"))
    assert states == {"f1": "slot", "f2": "slot", "f3": "surplus"}


async def test_content_and_failure_of_one_upload_are_independent(applier: ApplyFixture) -> None:
    await applier.poll(failure("same"), content("c1", file_upload_id="same"))
    await applier.poll(registration(essays=2))
    assert applier.slots() == ["c1", "failed:same"]
    await applier.poll(registration("d", 2))
    await applier.poll(failure("same", "d"), content("c1", "d", file_upload_id="same"))
    assert applier.slots("d") == ["c1", "failed:same"]


# -- rule 6: repeats

HISTORIES = {
    "pending": [[content("c1"), failure("f1")]],
    "reconciled": [[content("c1"), content("c2"), failure("f1")], [registration(essays=2)]],
    "half filled": [[registration(essays=3)], [content("c1"), failure("f1")]],
    "full": [[registration(essays=2)], [content("c1"), content("c2")], [content("c3"), failure("f1")]],
    "failed": [[registration(essays=1), failure("f1")], [content("c1")]],
}


def repeats(outcome: Outcome) -> Counter[str]:
    """How many inputs of each kind were recognised as repeats."""
    return Counter(each.kind for each in outcome.effects.records if each.kind.endswith("_repeated"))


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
async def test_repeats_change_no_row_and_publish_no_event(
    applier: ApplyFixture, history: Sequence[Sequence[Incoming]]
) -> None:
    for poll in history:
        await applier.poll(*poll)
    before = invariants.state(applier.conn)
    everything = [event for poll in history for event in poll]
    await applier.poll(*everything)
    await applier.poll(*reversed(everything), *everything)
    for event in everything:
        await applier.poll(event)
    assert invariants.state(applier.conn) == before


async def test_an_input_that_is_twice_in_a_poll_counts_once(applier: ApplyFixture) -> None:
    once: list[Incoming] = [content("c1"), failure("f1"), registration(essays=3)]
    twice = [*once, *once]
    outcome = await applier.once(*deliveries(*twice))
    assert applier.slots() == ["c1", "failed:f1", None]
    assert repeats(outcome) == {"content_repeated": 1, "failure_repeated": 1, "registration_repeated": 1}
    again = await applier.once(*deliveries(*twice))
    assert repeats(again) == {"content_repeated": 2, "failure_repeated": 2, "registration_repeated": 2}
    assert again.effects.published == 0


async def test_a_registration_with_another_set_is_quarantined_and_changes_nothing(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=2), content("c1"))
    before = applier.rows("select b.*, s.* from els.batches as b join els.slots as s using (batch_id)")
    await applier.poll(registration(essays=["e1", "other"]), content("c2"))
    await applier.poll(registration(essays=["e1", "other"]))
    rejected = applier.row("quarantine")
    assert rejected["reason"] == Reason.CONFLICTING_REGISTRATION
    assert "1 of its 2 ids (e2) are missing in this one, and 1 of its 2 ids (other) in the first" in rejected["error"]
    assert rejected["deliveries"] == 2
    after = applier.rows("select b.*, s.* from els.batches as b join els.slots as s using (batch_id)")
    assert [row[5] for row in after] == [row[5] for row in before]  # essay_set
    assert applier.slots() == ["c1", "c2"]


async def test_of_two_registrations_in_one_poll_the_first_is_valid(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=["x"]), registration(essays=["y"]), content("c1"))
    assert applier.slots() == ["c1"]
    assert applier.outbox()[0]["data"]["essay_id"] == "x"
    assert applier.row("quarantine")["reason"] == Reason.CONFLICTING_REGISTRATION


async def test_a_repeated_registration_with_other_fields_is_reported_and_changes_nothing(applier: ApplyFixture) -> None:
    await applier.poll(registration(essays=["x", "y"]))
    before = invariants.state(applier.conn)
    other = registration(essays=["y", "x"], course_code="SV1", user_id="other", class_id="7", essay_instructions="!")
    (repeat,) = deliveries(other)
    outcome = await applier.once(repeat)
    different = ["course_code", "user_id", "essay_instructions", "class_id", "essay_ids"]
    assert outcome.effects.differences == [(repeat, different)]
    assert invariants.state(applier.conn) == before


async def test_an_identical_repeated_registration_has_no_differences(applier: ApplyFixture) -> None:
    outcome = await applier.once(*deliveries(registration(essays=["x", "y"]), registration(essays=["x", "y"])))
    again = await applier.once(*deliveries(registration(essays=["x", "y"])))
    assert (outcome.effects.differences, again.effects.differences) == ([], [])
    assert repeats(again).total() == 1


@pytest.mark.parametrize("history", ["slot", "excess", "pending", "removed", "poll"])
async def test_a_repeated_content_with_another_file_is_reported_and_changes_nothing(
    applier: ApplyFixture, history: str
) -> None:
    first = content("c1", file_upload_id="first", file_size_bytes=1, content_md5_hash=None)
    again = content("c1", file_upload_id="again", file_size_bytes=2, content_md5_hash="given now")
    if history == "excess":
        await applier.poll(registration(essays=1), content("c0"))
    if history == "slot":
        await applier.poll(registration(essays=1))
    together = [first] if history == "poll" else []
    if not together:
        await applier.poll(first)
    if history == "removed":
        applier.conn.execute("update els.pending_content set state = 'removed', closed_at = now()")
    before = None if together else invariants.state(applier.conn)
    outcome = await applier.once(*deliveries(*together, again, first))
    difference = FileDifference(KnownFile("first", None, 1), again, ("file_upload_id", "file_size_bytes"))
    assert [(repeat.event, found) for repeat, found in outcome.effects.other_files] == [(again, difference)]
    assert before is None or invariants.state(applier.conn) == before


# -- traces and correlations


async def test_events_carry_the_trace_of_their_input(applier: ApplyFixture) -> None:
    await applier.poll(content("c1", traceparent=TRACE, tracestate="a=1"), content("c2"))
    await applier.poll(registration(essays=1, traceparent=OTHER_TRACE), content("c3", traceparent=TRACE))
    assert applier.topics() == [SLOT_ASSIGNED, EXCESS_CONTENT, EXCESS_CONTENT, BATCH_COMPLETED, BATCH_READY]
    assert [event["metadata"] for event in applier.outbox()] == [
        {"traceparent": TRACE, "tracestate": "a=1"},
        None,
        {"traceparent": TRACE},
        {"traceparent": OTHER_TRACE},
        {"traceparent": OTHER_TRACE},
    ]
    batch, first = registration().correlation_id, content("c1").correlation_id
    correlations = [event["correlation_id"] for event in applier.outbox()]
    assert correlations[0] == str(first)
    assert correlations[-1] == str(batch)


# -- mixes, and polls that do not fit into one transaction


async def test_a_poll_of_many_batches_treats_each_like_a_poll_of_its_own(applier: ApplyFixture) -> None:
    await applier.poll(registration("open", 2), registration("full", 1), content("x", "full"), content("y", "late"))
    await applier.poll(
        content("c1", "full"),
        content("c2", "unknown"),
        content("c3", "open"),
        Rejection(Reason.NOT_JSON, "no"),
        registration("late", 1),
        failure("f1", "open"),
        content("c2", "unknown"),
        registration("new", 1),
        failure("f2", "new"),
    )
    assert {name: applier.slots(name) for name in ("open", "full", "late", "new")} == {
        "open": ["c3", "failed:f1"],
        "full": ["x"],
        "late": ["y"],
        "new": ["failed:f2"],
    }
    assert applier.excess() == {"c1": "BATCH_FULL"}
    assert applier.row("pending_content")["text_storage_id"] == "c2"
    assert applier.row("quarantine")["reason"] == Reason.NOT_JSON
    assert applier.topics("open") == [SLOT_ASSIGNED, VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY]
    assert applier.topics("new") == [VALIDATION_ERRORS]


async def test_unknown_batches_beyond_the_limit_of_locks_are_applied_in_the_next_transaction(
    applier: ApplyFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "MAX_LOCKS", 3)
    arrived = deliveries(*(content(f"c{n}", f"b{n}") for n in range(8)))
    outcome = await applier.once(*arrived)
    assert outcome.next_transaction == arrived[3:]
    await applier.poll(*(content(f"c{n}", f"b{n}") for n in range(8)))
    assert applier.rows("select count(*) from els.pending_content") == [(8,)]


async def test_a_large_registration_is_deferred_to_a_transaction_of_its_own(
    applier: ApplyFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registrations, "LARGE_REGISTRATION", 10)
    large, small, more = deliveries(registration("large", 11), registration("small", 6), registration("more", 6))
    outcome = await applier.once(large, small, more)
    assert (outcome.deferred, outcome.next_transaction) == ([large], [more])
    await deliver(applier.database, [large, small, more])
    assert dict(applier.rows("select batch_id, count(*) from els.slots group by batch_id")) == {
        "large": 11,
        "small": 6,
        "more": 6,
    }


async def test_a_batch_of_many_pages_ends_like_a_small_one(
    applier: ApplyFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.postgres.queries.PAGE", 7)
    await applier.poll(*(content(f"c{n}") for n in range(20)), *(failure(f"f{n}") for n in range(20)))
    await applier.poll(registration(essays=30), content("last"))
    assert applier.slots() == [*(f"c{n}" for n in range(20)), "last", *(f"failed:f{n}" for n in range(9))]
    assert applier.topics() == [SLOT_ASSIGNED] * 21 + [VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY]
    errors, _, ready = (event["data"] for event in applier.outbox()[-3:])
    assert len(ready["ready_essays"]) == 21
    assert [essay["essay_id"] for essay in errors["failed_essays"]] == [f"f{n}" for n in range(9)]


async def test_an_event_that_is_built_again_has_the_same_id(applier: ApplyFixture) -> None:
    early: list[Incoming] = [content("c1"), content("c2")]
    late: list[Incoming] = [registration(essays=2), content("c3"), failure("f1")]
    ids: list[list[str]] = []
    for _ in range(2):
        await applier.poll(*early)
        await applier.poll(*late)
        ids.append([event["event_id"] for event in applier.outbox()])
        applier.conn.execute(
            "truncate els.batches, els.slots, els.excess_content, els.validation_failures, els.outbox_pages"
        )
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0]) == 5


async def test_pages_of_pending_content_are_bounded_in_bytes(applier: ApplyFixture) -> None:
    long = 900_000
    applier.conn.execute(
        """insert into els.pending_content (
            batch_id, text_storage_id, arrival, file_upload_id, original_file_name, raw_file_storage_id,
            file_size_bytes, correlation_id, stored_at, waiting_since
        )
        select 'b', 't' || number, number, 'u', repeat('x', %s), 'r', 1, gen_random_uuid(), now(), now()
        from generate_series(1, 20) as number""",
        [long],
    )
    async with applier.database.transaction() as conn:
        pages = [page async for page in pending_content.read_pending_content(conn, ["b"])]
    assert [content.text_storage_id for page in pages for content, _ in page] == [f"t{n}" for n in range(1, 21)]
    assert max(len(page) for page in pages) == pending_content.PAGE_BYTES // long
