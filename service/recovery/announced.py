"""Resolves the announcements of one batch: the first record is authoritative, those that contradict it are listed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, get_args

from service.domain.contract import ExcessReason
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    CancelReason,
)
from service.recovery.facts import Published, text_of, time_of
from service.store.recovery import Content

_ESSAYS_OF: Final[Mapping[str, str]] = {BATCH_COMPLETED: "essays_for_processing", BATCH_READY: "ready_essays"}


@dataclass(slots=True)
class Announced:
    """What was announced about one batch, without contradictions."""

    slots: dict[str, Published] = field(default_factory=dict)
    """By essay: the announcement of its content."""
    text_of: dict[str, str] = field(default_factory=dict)
    """By essay: its content."""
    essay_of: dict[str, str] = field(default_factory=dict)
    """By content: its essay."""
    contents: dict[str, Content] = field(default_factory=dict)
    """By content: what its announcement states of it."""
    excess: dict[str, Published] = field(default_factory=dict)
    expired: dict[str, Published] = field(default_factory=dict)
    completed: Published | None = None
    ready: Published | None = None
    errors: Published | None = None
    timeout: Published | None = None
    cancelled: Published | None = None
    event_ids: set[str] = field(default_factory=set)
    contradictions: list[str] = field(default_factory=list)

    @property
    def registered(self) -> bool:
        """Whether an announcement shows that the batch was registered."""
        return bool(self.slots or self.excess or self.ended or self.timeout)

    @property
    def completed_at(self) -> datetime | None:
        """When no slot of the batch was open any more; None where that was not announced."""
        return self.ended.time if self.ended else None

    @property
    def ended(self) -> Published | None:
        """The announcement of the batch's end."""
        return self.completed or self.errors or self.ready or self.cancelled

    @property
    def endings(self) -> Mapping[str, Published | None]:
        """The announcements of the batch's end by topic; None where there is none."""
        return {
            VALIDATION_ERRORS: self.errors,
            BATCH_COMPLETED: self.completed,
            BATCH_READY: self.ready,
            BATCH_CANCELLED: self.cancelled,
        }

    @property
    def failed(self) -> bool:
        """Whether the batch was announced as failed."""
        return self.errors is not None and _is_critical(self.errors)

    @property
    def listed(self) -> Published | None:
        """The announcement that lists all content of the batch."""
        return self.completed or self.ready

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The failed uploads, in slot order, as BatchValidationErrors lists them."""
        listed = self.errors.named("failed_essays") if self.errors else []
        return [each for each in listed if text_of(each.get("essay_id"))]

    def forget(self, essay_id: str) -> None:
        """Treat a slot as not announced: its content is decided anew."""
        del self.slots[essay_id]
        del self.essay_of[self.text_of.pop(essay_id)]

    def has(self, text: str) -> bool:
        """Tell whether it was announced where this content is."""
        return text in self.essay_of or text in self.excess


def resolve(announcements: Iterable[Published]) -> Announced:
    """Resolve the announcements of a batch, by the order in which they were appended to their topics."""
    known = Announced()
    for each in sorted(announcements, key=_order):
        contradictions = len(known.contradictions)
        _ADD[each.topic](known, each)
        if len(known.contradictions) == contradictions:
            # What does not count may be announced anew, with the same id.
            known.event_ids.add(each.event_id)
    return known


def _order(each: Published) -> tuple[object, ...]:
    """Offsets of different topics say nothing: what is in a list of the same millisecond was announced before."""
    last = each.topic in (BATCH_READY, BATCH_CANCELLED)
    return each.at, last or each.topic in _ESSAYS_OF, last, each.partition, each.offset


def _slot(known: Announced, each: Published) -> None:
    _assigned(known, each, each.named("essay_id"), each.content)


def _timeout(known: Announced, each: Published) -> None:
    known.timeout = known.timeout or each


def _assigned(known: Announced, each: Published, essay_id: str, content: Content) -> None:
    text = content.text_storage_id
    if text in known.excess:
        _contradicted(known, each, f"content {text} is in slot {essay_id}, and was announced as excess")
    elif known.essay_of.get(text, essay_id) != essay_id:
        _contradicted(known, each, f"content {text} is in slot {essay_id}, and was announced in {known.essay_of[text]}")
    elif essay_id not in known.slots:
        known.slots[essay_id] = each
        known.text_of[essay_id] = text
        known.essay_of[text] = essay_id
        known.contents[text] = content
    elif known.essay_of.get(text) == essay_id:
        if each.topic == SLOT_ASSIGNED and known.slots[essay_id].topic in _ESSAYS_OF:
            known.slots[essay_id], known.contents[text] = each, content
    else:
        _contradicted(known, each, f"slot {essay_id} has content {text}, and was announced with another one")


def _excess(known: Announced, each: Published) -> None:
    text = each.named("text_storage_id")
    if each.named("reason") not in get_args(ExcessReason):
        return  # another implementation's excess may be content that only came before its registration
    if text in known.essay_of:
        _contradicted(known, each, f"content {text} is excess, and was announced in slot {known.essay_of[text]}")
    elif text not in known.excess:
        known.excess[text] = each
        known.contents[text] = each.content


def _expired(known: Announced, each: Published) -> None:
    """The last expiry counts: an operator may have restored the content after an earlier one."""
    if time_of(each.named("expired_at")) and time_of(each.named("stored_at")):
        text = each.named("text_storage_id")
        known.expired[text] = each
        known.contents.setdefault(text, each.content)


def _completed(known: Announced, each: Published) -> None:
    if known.cancelled and known.completed is None:
        _contradicted(known, each, "it is complete, and was announced as cancelled before")
        return
    _list(known, each)
    known.completed = known.completed or each


def _ready(known: Announced, each: Published) -> None:
    if known.cancelled:
        _contradicted(known, each, "it is ready, and was announced as cancelled")
        return
    _list(known, each)
    known.ready = known.ready or each


def _list(known: Announced, each: Published) -> None:
    essays = list(_essays(each))
    if known.listed is None:
        for essay_id, text in essays:
            _assigned(known, each, essay_id, Content(text))
    elif essays != list(_essays(known.listed)):
        _contradicted(known, each, "its content was announced with another list")
    if known.failed:
        _contradicted(known, each, "it is complete, and was announced as failed")


def _cancelled(known: Announced, each: Published) -> None:
    if each.named("reason") not in get_args(CancelReason):
        return
    if known.ready or known.failed:
        _contradicted(known, each, f"it is cancelled, and was announced as {'ready' if known.ready else 'failed'}")
    elif known.cancelled and known.cancelled.values != each.values:
        _contradicted(known, each, "it was announced as cancelled for another reason, or with other counts")
    known.cancelled = known.cancelled or (None if known.ready or known.failed else each)


def _errors(known: Announced, each: Published) -> None:
    if known.cancelled and known.errors is None:
        _contradicted(known, each, "its errors were not announced before it was cancelled")
        return
    known.errors = known.errors or each
    if known.listed and _is_critical(each):
        _contradicted(known, each, "it has failed, and was announced as complete")


def _is_critical(errors: Published) -> bool:
    return bool(errors.named("error_summary").get("critical_failure"))


def _essays(listing: Published) -> Iterator[tuple[str, str]]:
    for each in listing.named(_ESSAYS_OF[listing.topic]):
        essay_id, text = text_of(each.get("essay_id")), text_of(each.get("text_storage_id"))
        if essay_id and text:
            yield essay_id, text


def _contradicted(known: Announced, each: Published, what: str) -> None:
    known.contradictions.append(f"{each.topic}/{each.partition} at {each.offset}: {what}")


_ADD: Final[Mapping[str, Callable[[Announced, Published], None]]] = {
    SLOT_ASSIGNED: _slot,
    EXCESS_CONTENT: _excess,
    PENDING_EXPIRED: _expired,
    BATCH_COMPLETED: _completed,
    BATCH_READY: _ready,
    VALIDATION_ERRORS: _errors,
    READINESS_TIMEOUT: _timeout,
    BATCH_CANCELLED: _cancelled,
}
