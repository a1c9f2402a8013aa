"""Checks the publications of one batch among each other: repeats, contradictions and order."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from service.audit.findings import UNKNOWN, Findings, Knowledge
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.history.facts import EventFact, History


def repeats(history: History, _: Knowledge) -> Findings:
    """I7: an event that is published again has the same id and the same bytes."""
    first: dict[str, EventFact] = {}
    for event in history.events:
        if event.event_id != event.expected_id:
            yield "I7", f"{event.topic} has the id {event.event_id}, not {event.expected_id}"
        known = first.setdefault(event.event_id, event)
        if known.record_digest != event.record_digest:
            yield "I7", f"{event.topic} {event.event_id} is published again with other bytes"


def final(history: History, known: Knowledge) -> Findings:
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
    for topic in (BATCH_COMPLETED, BATCH_READY, VALIDATION_ERRORS, BATCH_CANCELLED):
        if len({event.announced_digest for event in history.published(topic)}) > 1:
            yield "I9", f"{topic} was announced with two different lists"
    yield from _cancelled(history, known)


def _cancelled(history: History, known: Knowledge) -> Findings:
    cancelled, errors = history.published(BATCH_CANCELLED), history.published(VALIDATION_ERRORS)
    if cancelled and history.published(BATCH_READY):
        yield "I9", "it was announced as ready and as cancelled"
    # Errors without a completion are those of a batch that has failed.
    if cancelled and errors and not history.published(BATCH_COMPLETED):
        rule = "I9" if known.reaches(BATCH_COMPLETED, min(event.sent_at for event in errors)) else UNKNOWN
        yield rule, "it was announced as failed and as cancelled"


def order(history: History, known: Knowledge) -> Findings:
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
    yield from _completion_comes_last(history, published, known)


_BEFORE: Final[Mapping[str, tuple[str, ...]]] = {
    BATCH_COMPLETED: (SLOT_ASSIGNED, VALIDATION_ERRORS),
    BATCH_READY: (SLOT_ASSIGNED, VALIDATION_ERRORS, BATCH_COMPLETED),
    BATCH_CANCELLED: (SLOT_ASSIGNED, VALIDATION_ERRORS, BATCH_COMPLETED),
}


def _completion_comes_last(history: History, published: Sequence[EventFact], known: Knowledge) -> Findings:
    """Order: a completion is published after the batch's slots and its validation errors, and before it is ready."""
    for last in (event for event in published if event.topic in _BEFORE):
        published_ids = {event.event_id for event in published}
        for event in history.events:
            if event.topic not in _BEFORE[last.topic]:
                continue
            if event.in_outbox and event.event_id not in published_ids:
                yield (
                    "order",
                    f"{last.topic} is announced, and {event.topic} {event.subject} is not published yet",
                )
        for event in published:
            late = event.sent_at - last.sent_at
            if event.topic in _BEFORE[last.topic] and late > known.clocks_apart:
                yield (
                    "order",
                    f"{event.topic} {event.subject} was published {late:.3f} s after {last.topic}",
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
