"""One batch that is as it must be, and then with one thing wrong: the judge must find just that."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from service.audit.checks import UNKNOWN, Knowledge, judge
from service.domain.topics import (
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
    BatchFact,
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


def event(topic: str, about: str, told: str, place: int, **fields: Any) -> EventFact:
    identity = f"{topic}-{about}"
    whole = EventFact(
        topic, identity, identity, about, told, "t1", "", f"bytes of {identity}", 0, place, 10.0 + place, True
    )
    return whole._replace(**fields)


CAME = InputFact(CONTENT_PROVISIONED, "x1", "says x1", 1.0, True, "f1")
REGISTERED = InputFact(BATCH_REGISTERED, "set", digest(["e1", "e2"]), 1.0, True, "f2")
BATCH = BatchFact("set", 2, 1, 1, "ready", 2.0, 3.0, None)
SLOT_1 = SlotFact("e1", 1, "assigned", "x1", "u1", "says x1", "told x1", 3.0)
SLOT_2 = SlotFact("e2", 2, "failed", None, "u2", "", "", 3.0)
EXCESS = ExcessFact("x2", "says x2", "told x2", 4.0)
ASSIGNED = event(SLOT_ASSIGNED, "x1", "told x1", 0, essay_id="e1")
READY = event(BATCH_READY, "", digest([["e1", "x1"]]), 2)
ERRORS = event(VALIDATION_ERRORS, "", digest(["u2"], False), 1)

GOOD: tuple[Fact, ...] = (
    REGISTERED,
    CAME,
    InputFact(CONTENT_PROVISIONED, "x2", "says x2", 1.0, True, "f3"),
    InputFact(VALIDATION_FAILED, "u2", "", 1.0, True, "f4"),
    BATCH,
    SLOT_1,
    SLOT_2,
    EXCESS,
    FailureFact("u2", "slot", 2.0),
    ASSIGNED,
    ERRORS,
    READY,
    event(EXCESS_CONTENT, "x2", "told x2", 3),
    ASSIGNED._replace(place=9),
)
WAITING = WaitingFact("x1", "pending", "says x1", "told x1", 2.0, None)


def found(facts: Iterable[Fact], known: Knowledge = EVERYTHING) -> set[str]:
    return {finding.rule for finding in judge(History.of("b", facts), known)}


def without(*gone: Fact) -> tuple[Fact, ...]:
    return tuple(fact for fact in GOOD if fact not in gone)


def instead(old: Fact, *new: Fact) -> tuple[Fact, ...]:
    return (*without(old), *new)


def test_a_batch_that_is_as_it_must_be_is_found_so() -> None:
    assert list(judge(History.of("b", GOOD), EVERYTHING)) == []


WRONG: dict[str, tuple[tuple[Fact, ...], str]] = {
    "a content in a slot and excess": ((*GOOD, EXCESS._replace(text="x1")), "I1"),
    "a content in a slot and removed": ((*GOOD, WAITING._replace(state="removed")), "I1"),
    "a content in two slots": ((*GOOD, SLOT_1._replace(essay_id="e3", position=3)), "I1"),
    "an open slot with an upload": (instead(SLOT_2, SLOT_2._replace(state="open")), "I2"),
    "a failure in two slots": ((*GOOD, SLOT_2._replace(essay_id="e3", position=3)), "I2"),
    "a failure in a slot, not recorded": (without(FailureFact("u2", "slot", 2.0)), "I2"),
    "a recorded failure without its slot": ((*GOOD, FailureFact("u9", "slot", 2.0)), "I2"),
    "excess beside an open slot": (instead(SLOT_2, SlotFact("e2", 2, "open", None, None, "", "", None)), "I3"),
    "excess of an unknown batch": ((CAME, EXCESS), "I3"),
    "content that waits for a registered batch": ((*GOOD, WAITING), "I4"),
    "content that is expired, and its batch registered": ((*GOOD, WAITING._replace(state="expired")), "I4"),
    "a failure that waits for a registered batch": ((*GOOD, FailureFact("u9", "pending", 2.0)), "I4"),
    "a failure that is settled without a batch": ((FailureFact("u9", "surplus", 2.0),), "I4"),
    "counters that are not those of the slots": (instead(BATCH, BATCH._replace(assigned=2, failed=0)), "I5"),
    "a state that is not that of the slots": (instead(BATCH, BATCH._replace(state="registered")), "I5"),
    "slots without a batch": ((CAME, SLOT_1), "I5"),
    "positions with a gap": (instead(SLOT_2, SLOT_2._replace(position=3)), "I5"),
    "an announcement with another list": (instead(READY, READY._replace(told=digest([]))), "I5"),
    "an announcement of a batch that is not ready": (
        instead(BATCH, BATCH._replace(state="registered", completed_at=None)),
        "I5",
    ),
    "a slot that nobody was told of": (without(ASSIGNED, ASSIGNED._replace(place=9)), "I6"),
    "a ready batch that nobody was told of": (without(READY), "I6"),
    "errors that nobody was told of": (without(ERRORS), "I6"),
    "a slot told otherwise than it is": (
        (*without(ASSIGNED, ASSIGNED._replace(place=9)), ASSIGNED._replace(told="other")),
        "I6",
    ),
    "a slot told that is not there": ((*GOOD, event(SLOT_ASSIGNED, "x9", "told x9", 5)), "I6"),
    "content expired in silence": ((CAME, WAITING._replace(state="expired", closed_at=3.0)), "I6"),
    "an event under another id": ((*GOOD, READY._replace(event_id="new", place=8)), "I7"),
    "an event told again otherwise": ((*GOOD, READY._replace(content="other", place=8)), "I7"),
    "a content that got lost": ((*GOOD, CAME._replace(about="x9")), "I8"),
    "a registration that got lost": ((REGISTERED,), "I8"),
    "a contradiction that nobody keeps": ((*GOOD, REGISTERED._replace(about="other set")), "I8"),
    "a failure that got lost": ((InputFact(VALIDATION_FAILED, "u9", "", 1.0, True, "f"),), "I8"),
    "a content that nobody sent": (without(CAME), "I8"),
    "a content kept otherwise than it was sent": (instead(CAME, CAME._replace(says="other")), "I8"),
    "essays in another order than was sent": (instead(REGISTERED, REGISTERED._replace(says="other")), "I8"),
    "the announcement before its slot": (
        (*without(ASSIGNED, ASSIGNED._replace(place=9)), ASSIGNED._replace(sent_at=99.0)),
        "order",
    ),
    "the announcement while its slot is in the outbox": (
        (*without(ASSIGNED, ASSIGNED._replace(place=9)), ASSIGNED._replace(partition=-1)),
        "order",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_judge_finds(what: str) -> None:
    facts, rule = WRONG[what]
    assert rule in found(facts)


def test_slots_of_one_commit_are_told_in_their_order() -> None:
    slots = [SlotFact(f"e{n}", n, "assigned", f"x{n}", f"u{n}", "", f"told x{n}", 3.0) for n in (1, 2)]
    told = [event(SLOT_ASSIGNED, f"x{n}", f"told x{n}", 10 - n, essay_id=f"e{n}") for n in (1, 2)]
    assert "order" in found([*slots, *told])
    assert "order" not in found([*slots, *(each._replace(place=int(each.about[1:])) for each in told)])


def test_commits_of_the_same_microsecond_are_told_apart_by_who_wrote_the_slots() -> None:
    slots = [SlotFact(f"e{n}", n, "assigned", f"x{n}", f"u{n}", "", f"told x{n}", 3.0, written_by=n) for n in (1, 2)]
    told = [event(SLOT_ASSIGNED, f"x{n}", f"told x{n}", 10 - n, essay_id=f"e{n}") for n in (1, 2)]
    assert "order" not in found([*slots, *told])


def test_what_two_relays_told_at_once_was_told_first_where_it_stands_first() -> None:
    """Whatever their clocks say."""
    slots = [SlotFact(f"e{n}", n, "assigned", f"x{n}", f"u{n}", "", f"told x{n}", 3.0) for n in (1, 2)]
    told = [event(SLOT_ASSIGNED, f"x{n}", f"told x{n}", n, essay_id=f"e{n}") for n in (1, 2)]
    again = told[0]._replace(place=3, sent_at=0.0)
    assert "order" not in found([*slots, *told, again])


UNKNOWABLE: dict[str, tuple[tuple[Fact, ...], Callable[[Knowledge], Knowledge]]] = {
    "a topic that no longer reaches back so far": (
        without(ASSIGNED, ASSIGNED._replace(place=9)),
        lambda known: replace(known, since={**known.since, SLOT_ASSIGNED: 4.0}),
    ),
    "a content whose record is gone": (
        without(CAME),
        lambda known: replace(known, since={**known.since, CONTENT_PROVISIONED: float("inf")}),
    ),
    "a batch whose retention has passed": (
        (CAME, REGISTERED, ASSIGNED, READY),
        lambda known: replace(known, kept_since=100.0),
    ),
}


@pytest.mark.parametrize("what", UNKNOWABLE)
def test_what_cannot_be_known_is_no_violation(what: str) -> None:
    facts, limited = UNKNOWABLE[what]
    assert found(facts) - {UNKNOWN}
    assert found(facts, limited(EVERYTHING)) == {UNKNOWN}


def test_what_is_under_way_is_no_violation() -> None:
    """Records that are newer than the tables as they were read."""
    later = CAME._replace(about="x9", done=False)
    told = event(EXCESS_CONTENT, "x9", "told x9", 9, settled=False)
    assert found([*GOOD, later, told]) == set()


@pytest.mark.parametrize(("state", "rules"), [("open", set()), ("discarded", set()), ("replayed", {"I8"})])
def test_an_input_in_quarantine_is_not_lost_but_where_it_was_replayed_it_must_be_applied(
    state: str, rules: set[str]
) -> None:
    known = replace(EVERYTHING, quarantined=lambda _, fingerprint: state if fingerprint == "f9" else None)
    assert found([*GOOD, CAME._replace(about="x9", fingerprint="f9")], known) == rules


def test_expired_content_that_was_restored_and_seated_since_may_have_been_told_as_expired() -> None:
    expired = event(PENDING_EXPIRED, "x1", "told so once", 0)
    assert found([*GOOD, expired]) == set()
