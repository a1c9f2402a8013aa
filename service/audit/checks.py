"""One batch held against itself: what came in for it, what is kept of it, what was told of it. Pure.

The facts are as much of each record, row and event as can contradict another one; `judge` finds the contradictions.
What can't be known, since a topic no longer reaches back so far or a retention has passed, is told as unknown and
never as a violation. Times are seconds since the epoch.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from service.domain.topics import (
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.history.facts import EventFact, History, digest


class Finding(NamedTuple):
    """What is wrong, or, where `rule` is `unknown`, what can't be known any more."""

    rule: str
    batch_id: str
    detail: str


UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How far back the topics and the tables reach."""

    since: Mapping[str, float]
    """Of each topic: every record about what happened from then on is there."""
    kept_since: float = 0.0
    """What is older may have outlived its retention and be deleted."""
    quarantined: Callable[[str, str], str | None] = lambda _topic, _fingerprint: None
    """The state of the rejected input of this topic and fingerprint; None where there is none."""
    clocks_apart: float = 5.0
    """By how much the clocks of two pods may differ, for what only their times tell."""

    def reaches(self, topic: str, at: float) -> bool:
        return at >= self.since.get(topic, float("inf"))


def judge(history: History, known: Knowledge) -> Iterator[Finding]:
    """Everything that is wrong with the batch, and what can't be known of it."""
    for rule in (_places, _waits, _batch, _slots, _inputs, _origins, _events, _repeats, _order):
        for name, detail in rule(history, known):
            yield Finding(name, history.batch_id, detail)


Findings = Iterator[tuple[str, str]]


def _places(history: History, _: Knowledge) -> Findings:
    """I1: one place for each content."""
    places: dict[str, list[str]] = defaultdict(list)
    for slot in history.slots:
        if slot.text is not None:
            places[slot.text].append(f"in slot {slot.essay_id}")
    for excess in history.excess:
        places[excess.text].append("excess")
    for waiting in history.waiting:
        places[waiting.text].append(waiting.state)
    for text, found in places.items():
        if len(found) > 1:
            yield "I1", f"content {text} is {' and '.join(found)}"


def _waits(history: History, _: Knowledge) -> Findings:
    """I4: nothing waits for a registered batch, and nothing is settled for one that is not."""
    for waiting in history.waiting:
        if history.batch and waiting.state != "removed":
            yield "I4", f"content {waiting.text} is {waiting.state}, and the batch is registered"
    for failure in history.failures:
        if bool(history.batch) == (failure.state in ("pending", "expired")):
            is_registered = "registered" if history.batch else "not registered"
            yield "I4", f"failure {failure.upload} is {failure.state}, and the batch is {is_registered}"
    if history.excess and not history.batch:
        yield "I3", f"content {history.excess[0].text} is excess, and the batch is not registered"


def _batch(history: History, _: Knowledge) -> Findings:
    """I3 and I5: counters, state and what is excess fit the slots."""
    if not history.batch:
        if history.slots:
            yield "I5", f"{len(history.slots)} slots, and the batch is not registered"
        return
    counted = {state: sum(slot.state == state for slot in history.slots) for state in ("open", "assigned", "failed")}
    batch = history.batch
    state = "registered" if counted["open"] else "ready" if counted["assigned"] else "failed"
    wanted = (len(history.slots), counted["assigned"], counted["failed"], state)
    if (batch.expected, batch.assigned, batch.failed, batch.state) != wanted:
        yield "I5", f"is {batch.state} with {batch.assigned} + {batch.failed} of {batch.expected}, its slots: {counted}"
    if counted["open"]:
        for excess in history.excess:
            yield "I3", f"content {excess.text} is excess, and {counted['open']} slots are open"
        for failure in history.failures:
            if failure.state == "surplus":
                yield "I3", f"failure {failure.upload} found no slot, and {counted['open']} are open"


def _slots(history: History, _: Knowledge) -> Findings:
    """I2: a slot holds one upload, an upload one slot; positions count from 1."""
    if [slot.position for slot in history.slots] != list(range(1, len(history.slots) + 1)):
        yield "I5", f"its {len(history.slots)} slots have other positions than 1, 2, …"
    failed: dict[str | None, int] = defaultdict(int)
    for slot in history.slots:
        if (slot.text is not None) != (slot.state == "assigned") or (slot.upload is None) != (slot.state == "open"):
            yield "I2", f"slot {slot.essay_id} is {slot.state} with content {slot.text} of upload {slot.upload}"
        if slot.state == "failed":
            failed[slot.upload] += 1
    recorded = {failure.upload for failure in history.failures if failure.state == "slot"}
    for upload, count in failed.items():
        if count > 1:
            yield "I2", f"failure {upload} has {count} slots"
    for upload in {str(upload) for upload in failed} ^ recorded:
        yield "I2", f"failure {upload} is {'without its slot' if upload in recorded else 'in a slot and not recorded'}"


def _inputs(history: History, known: Knowledge) -> Findings:
    """I8: whatever was delivered and done with is applied, a repeat, or in quarantine."""
    applied = {
        CONTENT_PROVISIONED: _texts(history).keys(),
        VALIDATION_FAILED: {failure.upload for failure in history.failures},
        BATCH_REGISTERED: {history.batch.about} if history.batch else set(),
    }
    for came in history.came:
        if not came.done or came.about in applied[came.topic]:
            continue
        if known.quarantined(came.topic, came.fingerprint) in ("open", "discarded"):
            continue
        what = f"{_NAMES[came.topic]} {came.about} came and is neither applied nor in quarantine"
        yield UNKNOWN if came.at < known.kept_since else "I8", what


_NAMES = {CONTENT_PROVISIONED: "content", VALIDATION_FAILED: "failure", BATCH_REGISTERED: "registration"}


def _texts(history: History) -> dict[str, tuple[str, float]]:
    """Where each content is kept: what it says, and since when."""
    return {
        **{slot.text: (slot.says, slot.taken_at or 0.0) for slot in history.slots if slot.text is not None},
        **{excess.text: (excess.says, excess.declared_at) for excess in history.excess},
        **{waiting.text: (waiting.says, waiting.stored_at) for waiting in history.waiting},
    }


def _origins(history: History, known: Knowledge) -> Findings:
    """Nothing is kept that nobody sent, nor otherwise than it was sent."""
    sent: dict[tuple[str, str], set[str]] = defaultdict(set)
    for came in history.came:
        sent[came.topic, came.about].add(came.says)
    for text, (says, at) in _texts(history).items():
        yield from _origin(known, CONTENT_PROVISIONED, text, says, at, sent)
    for failure in history.failures:
        yield from _origin(known, VALIDATION_FAILED, failure.upload, "", failure.stored_at, sent)
    if history.batch:
        order = digest([slot.essay_id for slot in history.slots])
        yield from _origin(known, BATCH_REGISTERED, history.batch.about, order, history.batch.registered_at, sent)


def _origin(
    known: Knowledge, topic: str, about: str, says: str, at: float, sent: Mapping[tuple[str, str], set[str]]
) -> Findings:
    found = sent.get((topic, about))
    # A record of a topic that no longer reaches back may be the one that was kept first.
    rule = "I8" if known.reaches(topic, at) else UNKNOWN
    if found is None:
        yield rule, f"{_NAMES[topic]} {about} is kept, and nobody sent it"
    elif says and says not in found:
        yield rule, f"{_NAMES[topic]} {about} is kept otherwise than it was sent"


def _events(history: History, known: Knowledge) -> Findings:
    """I5 and I6: what is so was told, and what was told is so."""
    wanted = _to_be_told(history)
    for topic in (SLOT_ASSIGNED, EXCESS_CONTENT, PENDING_EXPIRED, VALIDATION_ERRORS, BATCH_READY, READINESS_TIMEOUT):
        told = history.told(topic)
        for about, (_, at) in wanted[topic].items():
            if about not in told:
                what = f"{topic}{about and f' about {about}'} must be told, and was not"
                yield "I6" if known.reaches(topic, at) else UNKNOWN, what
        for about, events in told.items():
            settled = [event for event in events if event.settled or event.in_outbox]
            if settled:
                yield from _so(topic, about, settled, wanted[topic].get(about), history, known)


def _so(
    topic: str,
    about: str,
    events: Sequence[EventFact],
    wanted: tuple[str, float] | None,
    history: History,
    known: Knowledge,
) -> Findings:
    what = f"{topic}{about and f' about {about}'}"
    if wanted is None:
        if topic == PENDING_EXPIRED and about in _texts(history):
            return  # restored, reconciled or removed since
        deleted = all(event.sent_at < known.kept_since for event in events) and not history.batch
        yield UNKNOWN if deleted else "I5" if topic == BATCH_READY else "I6", f"{what} is told, and is not so"
    elif any(event.told not in ("", wanted[0]) for event in events):
        yield "I5" if topic == BATCH_READY else "I6", f"{what} tells otherwise than it is"


def _to_be_told(history: History) -> dict[str, dict[str, tuple[str, float]]]:
    """By topic: what there is an event about, what it must tell, and when that came to be."""
    assigned = [slot for slot in history.slots if slot.state == "assigned"]
    failed = [slot.upload for slot in history.slots if slot.state == "failed"]
    wanted: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)
    wanted[SLOT_ASSIGNED] = {slot.text or "": (slot.told, slot.taken_at or 0.0) for slot in assigned}
    wanted[EXCESS_CONTENT] = {excess.text: (excess.told, excess.declared_at) for excess in history.excess}
    wanted[PENDING_EXPIRED] = {
        waiting.text: (waiting.told, waiting.closed_at or 0.0)
        for waiting in history.waiting
        if waiting.state == "expired"
    }
    batch = history.batch
    if batch and batch.completed_at is not None:
        if assigned:
            wanted[BATCH_READY][""] = digest([[each.essay_id, each.text] for each in assigned]), batch.completed_at
        if failed:
            wanted[VALIDATION_ERRORS][""] = digest(failed, not assigned), batch.completed_at
    if batch and batch.timed_out_at is not None:
        wanted[READINESS_TIMEOUT][""] = "", batch.timed_out_at
    return wanted


def _repeats(history: History, _: Knowledge) -> Findings:
    """I7: what is told again is told under its old id, and is the same to the last byte."""
    first: dict[str, EventFact] = {}
    for event in history.events:
        if event.event_id != event.expected_id:
            yield "I7", f"{event.topic} has the id {event.event_id}, not {event.expected_id}"
        known = first.setdefault(event.event_id, event)
        if known.content != event.content:
            yield "I7", f"{event.topic} {event.event_id} is told again, and otherwise"


def _order(history: History, known: Knowledge) -> Findings:
    """Within a batch, events are first acknowledged in the order of their commits, as far as it can be told."""
    published = _first(history.published())
    slots = {slot.essay_id: slot for slot in history.slots}
    commits: dict[tuple[str, int], list[EventFact]] = defaultdict(list)
    for event in published:
        if event.topic == SLOT_ASSIGNED and (slot := slots.get(event.essay_id)):
            # Two transactions of two pods may begin in the same microsecond, and commit in either order.
            commits[event.stamp, slot.written_by].append(event)
    for (stamp, _), events in commits.items():
        taken = [slots[event.essay_id].position for event in sorted(events, key=lambda event: event.place)]
        # Where the topic has got more partitions since, its places do not compare.
        if taken != sorted(taken) and len({event.partition for event in events}) == 1:
            yield "order", f"the slots of {stamp} were told in the order {taken[:20]}"
    yield from _closing(history, published, known)


def _closing(history: History, published: Sequence[EventFact], known: Knowledge) -> Findings:
    """BatchEssaysReady comes behind its slots, and behind the batch's errors."""
    for ready in (event for event in published if event.topic == BATCH_READY):
        out = {event.event_id for event in published}
        for event in history.events:
            if event.topic not in (SLOT_ASSIGNED, VALIDATION_ERRORS):
                continue
            if event.in_outbox and event.event_id not in out:
                yield "order", f"the batch is told as ready, and {event.topic} {event.about} still is not told"
        for event in published:
            late = event.sent_at - ready.sent_at
            if event.topic in (SLOT_ASSIGNED, VALIDATION_ERRORS) and late > known.clocks_apart:
                yield "order", f"{event.topic} {event.about} was told {late:.3f} s behind the batch's being ready"


def _first(events: Iterable[EventFact]) -> list[EventFact]:
    """Each event once, as it was told first: within a partition by its place, since clocks of relays differ."""
    first: dict[str, EventFact] = {}
    for event in events:
        known = first.get(event.event_id)
        if known is None or _is_before(event, known):
            first[event.event_id] = event
    return list(first.values())


def _is_before(one: EventFact, other: EventFact) -> bool:
    if one.partition == other.partition:
        return one.place < other.place
    return one.sent_at < other.sent_at
