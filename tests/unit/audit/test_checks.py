"""Checks a batch without violations, then with one violation each, which `judge` must find."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from service.audit.checks import judge
from service.audit.findings import UNKNOWN, Knowledge
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    INCOMING_TOPICS,
    OUTGOING_TOPICS,
    PENDING_EXPIRED,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.history.facts import (
    ONLY_OUTPUT,
    BatchFact,
    ElsewhereFact,
    EventFact,
    ExcessFact,
    Fact,
    FailureFact,
    History,
    InputFact,
    SlotFact,
    WaitingFact,
    digest,
)

EVERYTHING = Knowledge(dict.fromkeys([*INCOMING_TOPICS, *OUTGOING_TOPICS], 0.0), clocks_apart=0)


def event(topic: str, subject: str, announced: str, place: int, **fields: Any) -> EventFact:
    identity = f"{topic}-{subject}"
    whole = EventFact(
        topic, identity, identity, subject, announced, "t1", "", f"bytes of {identity}", 0, place, 10.0 + place, True
    )
    return whole._replace(**fields)


RECEIVED = InputFact(CONTENT_PROVISIONED, "x1", "content x1", 1.0, True, "f1")
REGISTERED = InputFact(BATCH_REGISTERED, "set", digest(["e1", "e2"]), 1.0, True, "f2")
BATCH = BatchFact("set", 2, 1, 1, "ready", "", 2.0, 3.0, None, None, 3.0)
SLOT_1 = SlotFact("e1", 1, "assigned", "x1", "u1", "content x1", "announced x1", 3.0)
SLOT_2 = SlotFact("e2", 2, "failed", None, "u2", "", "", 3.0)
EXCESS = ExcessFact("x2", "content x2", "announced x2", 4.0)
ASSIGNED = event(SLOT_ASSIGNED, "x1", "announced x1", 0, essay_id="e1")
READY = event(BATCH_READY, "", digest([["e1", "x1"]]), 2)
COMPLETED = event(BATCH_COMPLETED, "", digest([["e1", "x1"]]), 1)
ERRORS = event(VALIDATION_ERRORS, "", digest(["u2"], False), 1)

GOOD: tuple[Fact, ...] = (
    REGISTERED,
    RECEIVED,
    InputFact(CONTENT_PROVISIONED, "x2", "content x2", 1.0, True, "f3"),
    InputFact(VALIDATION_FAILED, "u2", "", 1.0, True, "f4"),
    BATCH,
    SLOT_1,
    SLOT_2,
    EXCESS,
    FailureFact("u2", "slot", 2.0),
    ASSIGNED,
    ERRORS,
    COMPLETED,
    READY,
    event(EXCESS_CONTENT, "x2", "announced x2", 3),
    ASSIGNED._replace(place=9),
)
WAITING = WaitingFact("x1", "pending", "content x1", "announced x1", 2.0, None)


def found(facts: Iterable[Fact], known: Knowledge = EVERYTHING) -> set[str]:
    return {finding.rule for finding in judge(History.of("b", facts), known)}


def without(*left_out: Fact) -> tuple[Fact, ...]:
    return tuple(fact for fact in GOOD if fact not in left_out)


def instead(old: Fact, *new: Fact) -> tuple[Fact, ...]:
    return (*without(old), *new)


def test_a_failure_that_was_removed_may_be_of_any_batch() -> None:
    removed = (InputFact(VALIDATION_FAILED, "u9", "", 1.0, True, "f9"), FailureFact("u9", "removed", 2.0))
    assert found((*GOOD, *removed)) == found(removed) == set()


def test_a_batch_without_violations_has_no_findings() -> None:
    assert list(judge(History.of("b", GOOD), EVERYTHING)) == []


OPEN = SlotFact("e3", 3, "withdrawn", None, None, "", "", None)
CLOSED_BATCH = BATCH._replace(expected=3, withdrawn=1)
CLOSED: tuple[Fact, ...] = (
    *(fact for fact in GOOD if fact not in (REGISTERED, BATCH)),
    REGISTERED._replace(content_digest=digest(["e1", "e2", "e3"])),
    CLOSED_BATCH,
    OPEN,
)
CANCELLED_BATCH = CLOSED_BATCH._replace(
    state="cancelled", ready_announced_at=None, cancelled_at=3.0, cancel_reason="OTHER"
)
CANCELLED_EVENT = event(BATCH_CANCELLED, "", digest("OTHER", 3, 1, 1), 4)
CANCELLED: tuple[Fact, ...] = (
    *(fact for fact in CLOSED if fact not in (CLOSED_BATCH, READY, COMPLETED, ERRORS)),
    CANCELLED_BATCH,
    CANCELLED_EVENT,
)
WAITED = CANCELLED_BATCH._replace(completed_at=3.0, cancelled_at=3.5)
"""It was complete before it was cancelled."""
FAILED: tuple[Fact, ...] = (
    REGISTERED._replace(content_digest=digest(["e1"])),
    BATCH._replace(expected=1, assigned=0, failed=0, withdrawn=1, state="failed", ready_announced_at=None),
    SlotFact("e1", 1, "withdrawn", None, None, "", "", None),
    event(VALIDATION_ERRORS, "", digest([], True), 1),
)


def changed(facts: Sequence[Fact], old: Fact, *new: Fact) -> tuple[Fact, ...]:
    assert old in facts
    return (*(fact for fact in facts if fact != old), *new)


@pytest.mark.parametrize(
    "facts",
    [
        CLOSED,
        CANCELLED,
        (*changed(CANCELLED, CANCELLED_BATCH, WAITED), ERRORS, COMPLETED),
        FAILED,
    ],
)
def test_a_batch_that_an_operator_has_ended_has_no_findings(facts: Sequence[Fact]) -> None:
    assert list(judge(History.of("b", facts), EVERYTHING)) == []


LATE = InputFact(CONTENT_PROVISIONED, "x3", "content x3", 1.0, True, "f9")
TAKEN = CLOSED_BATCH._replace(assigned=2, withdrawn=0)
FORGED = CANCELLED_EVENT._replace(announced_digest="another", record_digest="another")
LATE_SLOT = SlotFact("e3", 3, "assigned", "x3", "u3", "content x3", "announced x3", 5.0)
LATE_EVENT = event(SLOT_ASSIGNED, "x3", "announced x3", 5, essay_id="e3", stamp="t2")


@pytest.mark.parametrize(
    ("facts", "rules"),
    [
        ((*changed(CLOSED, OPEN, LATE_SLOT), LATE, LATE_EVENT), {"I5", "order"}),
        ((*changed(changed(CLOSED, OPEN, LATE_SLOT), CLOSED_BATCH, TAKEN), LATE, LATE_EVENT), {"I5", "order"}),
        (changed(CLOSED, OPEN, OPEN._replace(state="open")), {"I3", "I5"}),
        (changed(CLOSED, CLOSED_BATCH, CLOSED_BATCH._replace(withdrawn=0)), {"I5"}),
        (changed(FAILED, FAILED[-1]), {"I6"}),
        (changed(CANCELLED, CANCELLED_EVENT), {"I6"}),
        (changed(CANCELLED, CANCELLED_EVENT, CANCELLED_EVENT._replace(announced_digest="another")), {"I6"}),
        ((*CANCELLED, FORGED), {"I6", "I7", "I9"}),
        ((*CANCELLED, COMPLETED._replace(sent_at=20.0)), {"I5", "order"}),
        (changed(CANCELLED, CANCELLED_BATCH, WAITED), {"I6"}),
        ((*CANCELLED, READY), {"I5", "I9"}),
        (
            (*changed(CANCELLED, CANCELLED_BATCH, CANCELLED_BATCH._replace(state="ready", cancelled_at=None)), READY),
            {"I6", "I9"},
        ),
        ((*CANCELLED, ERRORS), {"I6", "I9"}),
        ((*CLOSED, CANCELLED_EVENT), {"I6", "I9"}),
        ((*CANCELLED, LATE_EVENT._replace(sent_at=20.0)), {"I6", "order"}),
    ],
)
def test_a_batch_that_is_ended_wrongly_is_found(facts: Sequence[Fact], rules: set[str]) -> None:
    assert found(facts) == rules


WRONG: dict[str, tuple[tuple[Fact, ...], str]] = {
    "a content in a slot and excess": ((*GOOD, EXCESS._replace(text="x1")), "I1"),
    "a content in a slot and removed": ((*GOOD, WAITING._replace(state="removed")), "I1"),
    "a content in two slots": ((*GOOD, SLOT_1._replace(essay_id="e3", position=3)), "I1"),
    "an open slot with an upload": (instead(SLOT_2, SLOT_2._replace(state="open")), "I2"),
    "a failure in two slots": ((*GOOD, SLOT_2._replace(essay_id="e3", position=3)), "I2"),
    "a failure in a slot, not recorded": (without(FailureFact("u2", "slot", 2.0)), "I2"),
    "a removed failure in a slot": (instead(FailureFact("u2", "slot", 2.0), FailureFact("u2", "removed", 2.0)), "I2"),
    "a recorded failure without its slot": ((*GOOD, FailureFact("u9", "slot", 2.0)), "I2"),
    "excess beside an open slot": (instead(SLOT_2, SlotFact("e2", 2, "open", None, None, "", "", None)), "I3"),
    "excess of an unknown batch": ((RECEIVED, EXCESS), "I3"),
    "content that waits for a registered batch": ((*GOOD, WAITING), "I4"),
    "expired content of a registered batch": ((*GOOD, WAITING._replace(state="expired")), "I4"),
    "a failure that waits for a registered batch": ((*GOOD, FailureFact("u9", "pending", 2.0)), "I4"),
    "a failure that is settled without a batch": ((FailureFact("u9", "surplus", 2.0),), "I4"),
    "counters that are not those of the slots": (instead(BATCH, BATCH._replace(assigned=2, failed=0)), "I5"),
    "a state that is not that of the slots": (instead(BATCH, BATCH._replace(state="registered")), "I5"),
    "slots without a batch": ((RECEIVED, SLOT_1), "I5"),
    "positions with a gap": (instead(SLOT_2, SLOT_2._replace(position=3)), "I5"),
    "a ready event with another list": (instead(READY, READY._replace(announced_digest=digest([]))), "I5"),
    "a ready event of a batch that is not ready": (
        instead(BATCH, BATCH._replace(state="registered", completed_at=None)),
        "I5",
    ),
    "a slot that was not announced": (without(ASSIGNED, ASSIGNED._replace(place=9)), "I6"),
    "a ready batch that was not announced": (without(READY), "I6"),
    "validation errors that were not announced": (without(ERRORS), "I6"),
    "a slot event that differs from the slot": (
        (*without(ASSIGNED, ASSIGNED._replace(place=9)), ASSIGNED._replace(announced_digest="other")),
        "I6",
    ),
    "a slot event without a slot": ((*GOOD, event(SLOT_ASSIGNED, "x9", "announced x9", 5)), "I6"),
    "an expiry that was not announced": ((RECEIVED, WAITING._replace(state="expired", closed_at=3.0)), "I6"),
    "an event under another id": ((*GOOD, READY._replace(event_id="new", place=8)), "I7"),
    "an event published again with other bytes": ((*GOOD, READY._replace(record_digest="other", place=8)), "I7"),
    "a content announced in two slots": ((*GOOD, ASSIGNED._replace(essay_id="e9", place=8)), "I9"),
    "a slot announced with two contents": ((*GOOD, ASSIGNED._replace(subject="x9", place=8)), "I9"),
    "a content announced in a slot and as excess": ((*GOOD, event(EXCESS_CONTENT, "x1", "announced x1", 8)), "I9"),
    "a batch announced with two lists": ((*GOOD, READY._replace(announced_digest="other", place=8)), "I9"),
    "a lost content": ((*GOOD, RECEIVED._replace(subject="x9")), "I8"),
    "a lost registration": ((REGISTERED,), "I8"),
    "a conflicting registration that is not in quarantine": ((*GOOD, REGISTERED._replace(subject="other set")), "I8"),
    "a lost failure": ((InputFact(VALIDATION_FAILED, "u9", "", 1.0, True, "f"),), "I8"),
    "a stored content that was not received": (without(RECEIVED), "I8"),
    "a stored content that differs from what was received": (
        instead(RECEIVED, RECEIVED._replace(content_digest="other")),
        "I8",
    ),
    "essays in another order than was received": (
        instead(REGISTERED, REGISTERED._replace(content_digest="other")),
        "I8",
    ),
    "the ready event before the event of a slot": (
        (*without(ASSIGNED, ASSIGNED._replace(place=9)), ASSIGNED._replace(sent_at=99.0)),
        "order",
    ),
    "the ready event while the event of a slot is in the outbox": (
        (*without(ASSIGNED, ASSIGNED._replace(place=9)), ASSIGNED._replace(partition=-1)),
        "order",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_judge_finds(what: str) -> None:
    facts, rule = WRONG[what]
    assert rule in found(facts)


def test_what_a_split_has_left_in_another_cell_is_no_violation() -> None:
    left = [
        ElsewhereFact(1, "registration", "", "", True, False),
        ElsewhereFact(1, "slot", "e1", "x1", True, False),
        ElsewhereFact(1, "slot", "e2", "", True, False),
        ElsewhereFact(1, "excess content", "x2", "", True, False),
    ]
    assert found([*GOOD, *left]) == set()
    assert found(left) == set(), "its own cell may have deleted it"


@pytest.mark.parametrize(
    "row",
    [
        ElsewhereFact(1, "pending content", "x9", "", False, False),
        ElsewhereFact(1, "registration", "", "", True, True),
        ElsewhereFact(1, "slot", "e1", "x1", True, True),
        ElsewhereFact(1, "slot", "e1", "x9", True, False),
        ElsewhereFact(1, "slot", "e9", "x1", True, False),
    ],
    ids=lambda row: f"{row.what} {row.subject} {row.value}",
)
def test_a_batch_that_two_cells_work_on_is_found(row: ElsewhereFact) -> None:
    assert found([*GOOD, row]) == {"cell"}


def test_slots_of_one_commit_are_announced_in_slot_order() -> None:
    slots = [SlotFact(f"e{n}", n, "assigned", f"x{n}", f"u{n}", "", f"announced x{n}", 3.0) for n in (1, 2)]
    events = [event(SLOT_ASSIGNED, f"x{n}", f"announced x{n}", 10 - n, essay_id=f"e{n}") for n in (1, 2)]
    assert "order" in found([*slots, *events])
    assert "order" not in found([*slots, *(each._replace(place=int(each.subject[1:])) for each in events)])


def test_commits_of_the_same_microsecond_are_distinguished_by_transaction_id() -> None:
    slots = [
        SlotFact(f"e{n}", n, "assigned", f"x{n}", f"u{n}", "", f"announced x{n}", 3.0, written_by=n) for n in (1, 2)
    ]
    events = [event(SLOT_ASSIGNED, f"x{n}", f"announced x{n}", 10 - n, essay_id=f"e{n}") for n in (1, 2)]
    assert "order" not in found([*slots, *events])


def test_of_two_publications_in_a_partition_the_first_is_that_with_the_lower_offset() -> None:
    """The times do not matter, since the clocks of relays differ."""
    slots = [SlotFact(f"e{n}", n, "assigned", f"x{n}", f"u{n}", "", f"announced x{n}", 3.0) for n in (1, 2)]
    events = [event(SLOT_ASSIGNED, f"x{n}", f"announced x{n}", n, essay_id=f"e{n}") for n in (1, 2)]
    again = events[0]._replace(place=3, sent_at=0.0)
    assert "order" not in found([*slots, *events, again])


UNKNOWABLE: dict[str, tuple[tuple[Fact, ...], Callable[[Knowledge], Knowledge]]] = {
    "a topic that no longer reaches back that far": (
        without(ASSIGNED, ASSIGNED._replace(place=9)),
        lambda known: replace(known, since={**known.since, SLOT_ASSIGNED: 4.0}),
    ),
    "a content whose record is deleted": (
        without(RECEIVED),
        lambda known: replace(known, since={**known.since, CONTENT_PROVISIONED: float("inf")}),
    ),
    "a batch whose retention has passed": (
        (RECEIVED, REGISTERED, ASSIGNED, READY),
        lambda known: replace(known, kept_since=100.0),
    ),
}


@pytest.mark.parametrize("what", UNKNOWABLE)
def test_what_cannot_be_known_is_not_a_violation(what: str) -> None:
    facts, limited = UNKNOWABLE[what]
    assert found(facts) - {UNKNOWN}
    assert found(facts, limited(EVERYTHING)) == {UNKNOWN}


def test_records_newer_than_the_snapshot_are_not_violations() -> None:
    later = RECEIVED._replace(subject="x9", done=False)
    unsettled = event(EXCESS_CONTENT, "x9", "announced x9", 9, settled=False)
    assert found([*GOOD, later, unsettled]) == set()


@pytest.mark.parametrize(("state", "rules"), [("open", set()), ("discarded", set()), ("replayed", {"I8"})])
def test_a_quarantined_input_is_not_lost_unless_it_was_replayed_and_is_not_applied(state: str, rules: set[str]) -> None:
    known = replace(EVERYTHING, quarantined=lambda _, fingerprint: state if fingerprint == "f9" else None)
    assert found([*GOOD, RECEIVED._replace(subject="x9", fingerprint="f9")], known) == rules


def test_an_expiry_event_of_content_that_was_restored_and_assigned_since_is_no_violation() -> None:
    expired = event(PENDING_EXPIRED, "x1", "announced once", 0)
    assert found([*GOOD, expired]) == set()


def test_what_only_an_output_reports_needs_no_input() -> None:
    known = instead(SLOT_1, SLOT_1._replace(content_digest=ONLY_OUTPUT))
    assert found(fact for fact in known if fact != RECEIVED) == set()


def test_an_incomplete_batch_is_announced_without_rows() -> None:
    assert "I6" in found([RECEIVED, ASSIGNED])
    assert "I6" not in found([ASSIGNED], replace(EVERYTHING, incomplete=frozenset({"b"})))
