"""Checks one batch: compares its inputs, its rows and its events with each other. Pure functions.

Facts contain what records, rows and events have in common; `judge` finds the contradictions. What cannot be known any
more, since a topic no longer reaches back that far or a retention has passed, is reported under the rule `unknown` and
never as a violation. The other rules are the invariants I1 to I9, `order` and `cell`. Times are seconds since the
epoch.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from service.audit.findings import UNKNOWN, Finding, Findings, Knowledge
from service.audit.places import elsewhere
from service.audit.publications import final, order, repeats
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    OUTGOING_TOPICS,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.history.facts import ONLY_OUTPUT, BatchFact, EventFact, History, digest, same


def judge(history: History, known: Knowledge) -> Iterator[Finding]:
    """Yield every violation in the history of a batch, and what cannot be known about it."""
    for rule in _RULES:
        for name, detail in rule(history, known):
            yield Finding(name, history.batch_id, detail)


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
        if failure.state != "removed" and bool(history.batch) == (failure.state in ("pending", "expired")):
            is_registered = "registered" if history.batch else "not registered"
            yield "I4", f"failure {failure.upload} is {failure.state}, and the batch is {is_registered}"
    if history.excess and not history.batch:
        yield "I3", f"content {history.excess[0].text} is excess, and the batch is not registered"


def _confirmations(history: History, _: Knowledge) -> Findings:
    """I4: no confirmation waits for a registered batch, and none that is in effect is without its batch."""
    for each in history.confirmations:
        if bool(history.batch) == (each.state == "pending"):
            is_registered = "registered" if history.batch else "not registered"
            yield "I4", f"confirmation {each.class_id} is {each.state}, and the batch is {is_registered}"
        elif each.state == "applied" and history.batch and history.batch.confirmed_at is None:
            yield "I4", f"confirmation {each.class_id} is applied, and the batch is not confirmed"
        elif history.batch and history.batch.state == "complete" and each.class_id in ("", history.batch.class_id):
            yield "I4", f"confirmation {each.class_id} is {each.state}, and the batch waits for it"


def _batch(history: History, _: Knowledge) -> Findings:
    """I3 and I5: the counters, the state and the excess content of a batch agree with its slots."""
    if not history.batch:
        if history.slots:
            yield "I5", f"there are {len(history.slots)} slots, and the batch is not registered"
        return
    states = ("open", "assigned", "failed", "withdrawn")
    counted = {state: sum(slot.state == state for slot in history.slots) for state in states}
    batch = history.batch
    wanted = (len(history.slots), *(counted[state] for state in states[1:]), _state_of(batch, counted))
    if (batch.expected, batch.assigned, batch.failed, batch.withdrawn, batch.state) != wanted:
        counts = f"{batch.assigned} + {batch.failed} + {batch.withdrawn} of {batch.expected}"
        yield "I5", f"it is {batch.state} with {counts}, its slots: {counted}"
    if counted["open"]:
        for excess in history.excess:
            yield "I3", f"content {excess.text} is excess, and {counted['open']} slots are open"
        for failure in history.failures:
            if failure.state == "surplus":
                yield "I3", f"failure {failure.upload} found no slot, and {counted['open']} are open"


def _state_of(batch: BatchFact, counted: Mapping[str, int]) -> str:
    """Return the state that a batch with these slots must have."""
    if counted["open"]:
        return "registered"
    if batch.cancelled_at is not None:
        return "cancelled"
    if not counted["assigned"]:
        return "failed"
    return "complete" if batch.state == "complete" and batch.class_id and batch.confirmed_at is None else "ready"


def _slots(history: History, _: Knowledge) -> Findings:
    """I2: a slot has one upload, and an upload has one slot. I5: positions count from 1."""
    if [slot.position for slot in history.slots] != list(range(1, len(history.slots) + 1)):
        yield "I5", f"the positions of the {len(history.slots)} slots are not 1, 2, …"
    failed: dict[str | None, int] = defaultdict(int)
    for slot in history.slots:
        if (slot.text is not None) != (slot.state == "assigned") or (slot.upload is None) != (
            slot.state in ("open", "withdrawn")
        ):
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
        ASSOCIATIONS_CONFIRMED: {confirmation.class_id for confirmation in history.confirmations},
    }
    for each in history.inputs:
        if not each.done or each.subject in applied[each.topic]:
            continue
        if known.quarantined(each.topic, each.fingerprint) in ("open", "discarded"):
            continue
        what = f"{_NAMES[each.topic]} {each.subject} was received and is neither applied nor in quarantine"
        yield UNKNOWN if each.at < known.kept_since else "I8", what


_NAMES = {
    CONTENT_PROVISIONED: "content",
    VALIDATION_FAILED: "failure",
    BATCH_REGISTERED: "registration",
    ASSOCIATIONS_CONFIRMED: "confirmation",
}


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
    for record in history.inputs:
        received[record.topic, record.subject].add(record.content_digest)
    for text, (stored, at) in _texts(history).items():
        if stored == ONLY_OUTPUT:
            continue
        yield from _origin(known, CONTENT_PROVISIONED, text, stored, at, received)
    for failure in history.failures:
        if failure.origin:
            continue
        yield from _origin(known, VALIDATION_FAILED, failure.upload, "", failure.stored_at, received)
    for each in history.confirmations:
        yield from _origin(known, ASSOCIATIONS_CONFIRMED, each.class_id, "", each.stored_at, received)
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
    elif stored and not any(same(stored, each) for each in found):
        yield rule, f"{_NAMES[topic]} {subject} differs from what was received"


def _events(history: History, known: Knowledge) -> Findings:
    """I5 and I6: everything that must be announced is announced, and every announcement is true."""
    wanted = _wanted_events(history)
    for topic in OUTGOING_TOPICS:
        announced = history.events_by_subject(topic)
        for subject, (_, at) in wanted[topic].items():
            if subject not in announced:
                what = f"{_event_name(topic, subject)} is missing"
                yield "I6" if known.reaches(topic, at) else UNKNOWN, what
        for subject, events in announced.items():
            settled = [event for event in events if event.settled or event.in_outbox]
            if settled:
                yield from _true(topic, subject, settled, wanted[topic].get(subject), history, known)


_LISTING: Final = (BATCH_COMPLETED, BATCH_READY)
"""The topics whose events list all content of a batch."""


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
            UNKNOWN if deleted else "I5" if topic in _LISTING else "I6",
            f"{what} contradicts the tables",
        )
    elif any(event.announced_digest and not same(event.announced_digest, wanted[0]) for event in events):
        yield "I5" if topic in _LISTING else "I6", f"{what} differs from the tables"


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
    if batch and batch.completed_at is not None and batch.was_complete:
        listed = digest([[each.essay_id, each.text] for each in assigned])
        if batch.state in ("complete", "cancelled") or batch.ready_announced_at:
            wanted[BATCH_COMPLETED][""] = listed, batch.completed_at
        if batch.state == "ready":
            wanted[BATCH_READY][""] = listed, batch.ready_announced_at or batch.completed_at
        if failed or batch.state == "failed":
            wanted[VALIDATION_ERRORS][""] = digest(failed, not assigned), batch.completed_at
    if batch and batch.cancelled_at is not None:
        counts = digest(batch.cancel_reason, batch.expected, len(assigned), len(failed))
        wanted[BATCH_CANCELLED][""] = counts, batch.cancelled_at
    if batch and batch.timed_out_at is not None:
        wanted[READINESS_TIMEOUT][""] = "", batch.timed_out_at
    return wanted


_RULES: Final = (
    *(_places, _waits, _confirmations, _batch, _slots, _inputs, _origins, _events),
    *(repeats, final, order, elsewhere),
)
