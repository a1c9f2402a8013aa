"""Checks one batch: compares its inputs, its rows and its events with each other. Pure functions.

Facts contain what records, rows and events have in common; `judge` finds the contradictions. What cannot be known any
more, since a topic no longer reaches back that far or a retention has passed, is reported under the rule `unknown` and
never as a violation. The other rules are the invariants I1 to I9, and `order`. Times are seconds since the epoch.
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
from service.history.facts import ONLY_OUTPUT, EventFact, History, digest


class Finding(NamedTuple):
    """A violation of a rule, or, where `rule` is `unknown`, something that cannot be known any more."""

    rule: str
    batch_id: str
    detail: str


UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How far back the topics and the tables reach."""

    since: Mapping[str, float]
    """By topic: every record about what happened from then on is still there."""
    kept_since: float = 0.0
    """Rows about what happened before may have been deleted after their retention."""
    quarantined: Callable[[str, str], str | None] = lambda _topic, _fingerprint: None
    """Returns the state of the rejected input with this topic and fingerprint, None where there is none."""
    clocks_apart: float = 5.0
    """How much the clocks of two pods may differ, where events can only be ordered by time."""
    incomplete: frozenset[str] = frozenset()
    """Batches that were announced, and whose registration a recovery has found in no topic."""

    def reaches(self, topic: str, at: float) -> bool:
        """Return whether the topic still contains everything since `at`."""
        return at >= self.since.get(topic, float("inf"))


def judge(history: History, known: Knowledge) -> Iterator[Finding]:
    """Yield every violation in the history of a batch, and what cannot be known about it."""
    for rule in (_places, _waits, _batch, _slots, _inputs, _origins, _events, _repeats, _final, _order):
        for name, detail in rule(history, known):
            yield Finding(name, history.batch_id, detail)


Findings = Iterator[tuple[str, str]]


def _places(history: History, _: Knowledge) -> Findings:
    """I1: each content is in one place."""
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
    """I4: no upload waits for a registered batch, and none is settled for an unregistered one."""
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
    """I3 and I5: the counters, the state and the excess content of a batch agree with its slots."""
    if not history.batch:
        if history.slots:
            yield "I5", f"there are {len(history.slots)} slots, and the batch is not registered"
        return
    counted = {state: sum(slot.state == state for slot in history.slots) for state in ("open", "assigned", "failed")}
    batch = history.batch
    state = "registered" if counted["open"] else "ready" if counted["assigned"] else "failed"
    wanted = (len(history.slots), counted["assigned"], counted["failed"], state)
    if (batch.expected, batch.assigned, batch.failed, batch.state) != wanted:
        yield (
            "I5",
            f"it is {batch.state} with {batch.assigned} + {batch.failed} of {batch.expected}, its slots: {counted}",
        )
    if counted["open"]:
        for excess in history.excess:
            yield "I3", f"content {excess.text} is excess, and {counted['open']} slots are open"
        for failure in history.failures:
            if failure.state == "surplus":
                yield "I3", f"failure {failure.upload} found no slot, and {counted['open']} are open"


def _slots(history: History, _: Knowledge) -> Findings:
    """I2: a slot has one upload, and an upload has one slot. I5: positions count from 1."""
    if [slot.position for slot in history.slots] != list(range(1, len(history.slots) + 1)):
        yield "I5", f"the positions of the {len(history.slots)} slots are not 1, 2, …"
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
    """I8: every input whose offset is committed is applied, a repeat, or in quarantine."""
    applied = {
        CONTENT_PROVISIONED: _texts(history).keys(),
        VALIDATION_FAILED: {failure.upload for failure in history.failures},
        BATCH_REGISTERED: {history.batch.essay_set} if history.batch else set(),
    }
    for each in history.inputs:
        if not each.done or each.subject in applied[each.topic]:
            continue
        if known.quarantined(each.topic, each.fingerprint) in ("open", "discarded"):
            continue
        what = f"{_NAMES[each.topic]} {each.subject} was received and is neither applied nor in quarantine"
        yield UNKNOWN if each.at < known.kept_since else "I8", what


_NAMES = {CONTENT_PROVISIONED: "content", VALIDATION_FAILED: "failure", BATCH_REGISTERED: "registration"}


def _texts(history: History) -> dict[str, tuple[str, float]]:
    """Return for each stored content its digest, and the time since when it is stored."""
    return {
        **{slot.text: (slot.content_digest, slot.taken_at or 0.0) for slot in history.slots if slot.text is not None},
        **{excess.text: (excess.content_digest, excess.declared_at) for excess in history.excess},
        **{waiting.text: (waiting.content_digest, waiting.stored_at) for waiting in history.waiting},
    }


def _origins(history: History, known: Knowledge) -> Findings:
    """I8: everything that is stored was received, with the same contents."""
    received: dict[tuple[str, str], set[str]] = defaultdict(set)
    for each in history.inputs:
        received[each.topic, each.subject].add(each.content_digest)
    for text, (stored, at) in _texts(history).items():
        if stored == ONLY_OUTPUT:
            continue
        yield from _origin(known, CONTENT_PROVISIONED, text, stored, at, received)
    for failure in history.failures:
        if failure.origin:
            continue
        yield from _origin(known, VALIDATION_FAILED, failure.upload, "", failure.stored_at, received)
    if history.batch:
        order = digest([slot.essay_id for slot in history.slots])
        yield from _origin(
            known, BATCH_REGISTERED, history.batch.essay_set, order, history.batch.registered_at, received
        )


def _origin(
    known: Knowledge, topic: str, subject: str, stored: str, at: float, received: Mapping[tuple[str, str], set[str]]
) -> Findings:
    """`stored` is the digest of what is stored, "" where it is not compared."""
    found = received.get((topic, subject))
    # The record that was stored first may have been deleted from its topic.
    rule = "I8" if known.reaches(topic, at) else UNKNOWN
    if found is None:
        yield rule, f"{_NAMES[topic]} {subject} is stored, and no such record was received"
    elif stored and stored not in found:
        yield rule, f"{_NAMES[topic]} {subject} differs from what was received"


def _events(history: History, known: Knowledge) -> Findings:
    """I5 and I6: everything that must be announced is announced, and every announcement is true."""
    wanted = _wanted_events(history)
    for topic in (SLOT_ASSIGNED, EXCESS_CONTENT, PENDING_EXPIRED, VALIDATION_ERRORS, BATCH_READY, READINESS_TIMEOUT):
        announced = history.events_by_subject(topic)
        for subject, (_, at) in wanted[topic].items():
            if subject not in announced:
                what = f"{_event_name(topic, subject)} is missing"
                yield "I6" if known.reaches(topic, at) else UNKNOWN, what
        for subject, events in announced.items():
            settled = [event for event in events if event.settled or event.in_outbox]
            if settled:
                yield from _true(topic, subject, settled, wanted[topic].get(subject), history, known)


def _true(
    topic: str,
    subject: str,
    events: Sequence[EventFact],
    wanted: tuple[str, float] | None,
    history: History,
    known: Knowledge,
) -> Findings:
    what = _event_name(topic, subject)
    if wanted is None:
        if topic == PENDING_EXPIRED and subject in _texts(history):
            return  # restored, reconciled or removed since then
        deleted = not history.batch and (
            history.batch_id in known.incomplete or all(event.sent_at < known.kept_since for event in events)
        )
        yield (
            UNKNOWN if deleted else "I5" if topic == BATCH_READY else "I6",
            f"{what} contradicts the tables",
        )
    elif any(event.announced_digest not in ("", wanted[0]) for event in events):
        yield "I5" if topic == BATCH_READY else "I6", f"{what} differs from the tables"


def _event_name(topic: str, subject: str) -> str:
    return f"{topic} of {subject}" if subject else topic


def _wanted_events(history: History) -> dict[str, dict[str, tuple[str, float]]]:
    """Return the events that must exist, by topic and subject: the digest of each, and since when it must exist."""
    assigned = [slot for slot in history.slots if slot.state == "assigned"]
    failed = [slot.upload for slot in history.slots if slot.state == "failed"]
    wanted: dict[str, dict[str, tuple[str, float]]] = defaultdict(dict)
    wanted[SLOT_ASSIGNED] = {slot.text or "": (slot.announced_digest, slot.taken_at or 0.0) for slot in assigned}
    wanted[EXCESS_CONTENT] = {excess.text: (excess.announced_digest, excess.declared_at) for excess in history.excess}
    wanted[PENDING_EXPIRED] = {
        waiting.text: (waiting.announced_digest, waiting.closed_at or 0.0)
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
    """I7: an event that is published again has the same id and the same bytes."""
    first: dict[str, EventFact] = {}
    for event in history.events:
        if event.event_id != event.expected_id:
            yield "I7", f"{event.topic} has the id {event.event_id}, not {event.expected_id}"
        known = first.setdefault(event.event_id, event)
        if known.record_digest != event.record_digest:
            yield "I7", f"{event.topic} {event.event_id} is published again with other bytes"


def _final(history: History, _: Knowledge) -> Findings:
    """I9: no two published events contradict each other, whatever the tables state."""
    essays, texts = defaultdict(set), defaultdict(set)
    for event in history.published(SLOT_ASSIGNED):
        essays[event.subject].add(event.essay_id)
        texts[event.essay_id].add(event.subject)
    for text, of_text in essays.items():
        if len(of_text) > 1:
            yield "I9", f"content {text} was announced in the slots {', '.join(sorted(of_text))}"
    for essay_id, of_slot in texts.items():
        if len(of_slot) > 1:
            yield "I9", f"slot {essay_id} was announced with the contents {', '.join(sorted(of_slot))}"
    for text in sorted(essays.keys() & {event.subject for event in history.published(EXCESS_CONTENT)}):
        yield "I9", f"content {text} was announced in a slot and as excess"
    for topic in (BATCH_READY, VALIDATION_ERRORS):
        if len({event.announced_digest for event in history.published(topic)}) > 1:
            yield "I9", f"{topic} was announced with two different lists"


def _order(history: History, known: Knowledge) -> Findings:
    """Order: within a batch, events are first acknowledged in the order of their commits, as far as it can be known."""
    published = _first(history.published())
    slots = {slot.essay_id: slot for slot in history.slots}
    commits: dict[tuple[str, int], list[EventFact]] = defaultdict(list)
    for event in published:
        if event.topic == SLOT_ASSIGNED and (slot := slots.get(event.essay_id)):
            # Transactions of two pods may begin in the same microsecond and commit in either order.
            commits[event.stamp, slot.written_by].append(event)
    for (stamp, _), events in commits.items():
        taken = [slots[event.essay_id].position for event in sorted(events, key=lambda event: event.place)]
        # Offsets of different partitions cannot be compared, after partitions were added to the topic.
        if taken != sorted(taken) and len({event.partition for event in events}) == 1:
            yield "order", f"the slots of {stamp} were announced in the order {taken[:20]}"
    yield from _ready_comes_last(history, published, known)


def _ready_comes_last(history: History, published: Sequence[EventFact], known: Knowledge) -> Findings:
    """Order: BatchEssaysReady is published after the batch's slots and after its validation errors."""
    for ready in (event for event in published if event.topic == BATCH_READY):
        published_ids = {event.event_id for event in published}
        for event in history.events:
            if event.topic not in (SLOT_ASSIGNED, VALIDATION_ERRORS):
                continue
            if event.in_outbox and event.event_id not in published_ids:
                yield (
                    "order",
                    f"the batch is announced, and {event.topic} {event.subject} is not published yet",
                )
        for event in published:
            late = event.sent_at - ready.sent_at
            if event.topic in (SLOT_ASSIGNED, VALIDATION_ERRORS) and late > known.clocks_apart:
                yield (
                    "order",
                    f"{event.topic} {event.subject} was published {late:.3f} s after BatchEssaysReady",
                )


def _first(events: Iterable[EventFact]) -> list[EventFact]:
    """Return the first publication of each event: within a partition by offset, since the clocks of relays differ."""
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
