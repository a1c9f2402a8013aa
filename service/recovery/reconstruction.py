"""Decides how the rows of one batch must be changed so that they state what was announced. Pure functions.

What was announced is stored as announced. What the database states beyond that stays, unless it contradicts an
announcement: then everything of its batch that was not announced is decided anew, by the regular decisions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from service.domain.decisions import Register
from service.domain.enveloped import event_id
from service.domain.events import ContentProvisioned, ValidationFailed
from service.domain.topics import (
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.recovery.announced import Announced, resolve
from service.recovery.facts import Published, Received, time_of
from service.recovery.sources import BEGINNING, Sources
from service.store.recovery import (
    AnnouncedTimes,
    Content,
    Stored,
    StoredBatch,
    StoredContent,
    StoredFailure,
    StoredSlot,
)


@dataclass(slots=True)
class Reconstruction:
    """The changes of one batch."""

    batch_id: str
    contradictions: list[str] = field(default_factory=list)
    incomplete: bool = False
    """Whether the batch was announced, and no registration of it is known."""
    register: tuple[Register, datetime] | None = None
    cleared: list[tuple[str, str]] = field(default_factory=list)
    """What to take out: (batch, slot, content or failure; key)."""
    slots: list[StoredSlot] = field(default_factory=list)
    contents: list[StoredContent] = field(default_factory=list)
    """Excess and expired content to write."""
    failures: list[StoredFailure] = field(default_factory=list)
    times: AnnouncedTimes | None = None
    """As announced. None: leave the batch alone."""
    event_ids: set[str] = field(default_factory=set)
    """Events to delete from the outbox."""
    decide: list[ContentProvisioned | ValidationFailed] = field(default_factory=list)
    """What is decided anew, in this order."""
    announced: frozenset[str] = frozenset()
    """Which announcements of its completion the topics contain."""

    @property
    def changes_slots(self) -> bool:
        """Whether the slots of the batch change, so that its completion may have to be announced."""
        return bool(self.register or self.slots or any(kind != "content" for kind, _ in self.cleared))


def reconstruct(
    batch_id: str,
    announcements: Sequence[Published],
    received: Iterable[Received],
    stored: Stored,
    *,
    known_since: datetime = BEGINNING,
) -> Reconstruction:
    """Decide what to change.

    What the database has stored before `known_since` may have been announced, and no topic tells: it stays.
    """
    known = resolve(announcements)
    batch = _Batch(batch_id, known, Sources(batch_id, known, received, stored), stored, known_since)
    batch.decide()
    return batch.result


def _times(known: Announced, before: StoredBatch | None) -> AnnouncedTimes:
    """Return what announcements state. `before` is the batch as it is stored, if its row stays.

    A batch may be confirmed long after it became complete, so that only the second is in what is read. Then its row
    states the first.
    """
    completed = known.completed or known.errors or (known.ready if not before or not before.completed_at else None)
    knows_completions = known.completed or (before and (before.state == "complete" or before.ready_announced_at))
    return AnnouncedTimes(
        completed.time if completed else None,
        known.timeout.time if known.timeout else None,
        known.ready.time if known.ready and knows_completions else None,
        known.ready is not None,
    )


class _Batch:
    def __init__(
        self, batch_id: str, known: Announced, sources: Sources, stored: Stored, known_since: datetime
    ) -> None:
        self.batch_id, self.known, self.sources, self.stored, self.since = batch_id, known, sources, stored, known_since
        self.result = Reconstruction(batch_id, known.contradictions, event_ids=known.event_ids)
        self.decided: set[str] = set()
        self.cleared: set[str] = set()
        """Essays whose slots are taken out."""

    def decide(self) -> None:
        if not self.known.registered:
            self.result.contents += _expired(self.known, self.sources, self.stored)
            return
        essay_ids, self.result.register = self.sources.registration(self.stored)
        if not essay_ids:
            self.result.incomplete = True
            return
        is_new = self.result.register is not None
        if is_new and self.stored.batch:
            self._clear("batch", self.batch_id)
        for essay_id in sorted(self.known.slots.keys() - set(essay_ids)):
            self.known.forget(essay_id)
            self.result.contradictions.append(f"slot {essay_id} was announced, and is not in the registration")
        contradicted = is_new or self._is_contradicted()
        self._fill(essay_ids, contradicted=contradicted)
        self._settle_contents(contradicted=contradicted, is_new=is_new)
        self._settle_failures(contradicted=contradicted, is_new=is_new)
        self._count()

    def _count(self) -> None:
        batch = self.stored.batch
        times = _times(self.known, batch if self.result.register is None else None)
        known = self.known
        before = (batch.completed_at, batch.timed_out_at, batch.ready_announced_at) if batch else (None, None, None)
        if (
            self.result.changes_slots
            or (known.ready and batch and batch.state != "ready")
            or any(time not in (None, stored) for time, stored in zip(times[:3], before, strict=True))
        ):
            self.result.times = times
        ended = {BATCH_COMPLETED: known.completed, BATCH_READY: known.ready, VALIDATION_ERRORS: known.errors}
        if self.result.changes_slots:
            self.result.event_ids |= {str(event_id(topic, self.batch_id)) for topic in ended}
        self.result.announced = frozenset(topic for topic, each in ended.items() if each is not None)

    # -- slots

    def _is_contradicted(self) -> bool:
        """Tell whether an announcement contradicts what the database states."""
        known, failed = self.known, {each["essay_id"] for each in self.known.failures}
        for slot in self.stored.slots:
            announced = known.slots.get(slot.essay_id)
            if slot.content is not None:
                text = slot.content.text_storage_id
                if known.has(text) and known.essay_of.get(text) != slot.essay_id:
                    return True
                if announced and known.essay_of.get(text) != slot.essay_id:
                    return True
                # The list of a completion names all content; without it, the slot may have been announced before that.
                if not announced and (known.listed or (known.completed_at and not self._is_older(slot))):
                    return True
            elif slot.state == "failed" and (announced or (known.errors and slot.file_upload_id not in failed)):
                return True
        return any(
            each.state == "excess" and each.content.text_storage_id in known.essay_of for each in self.stored.contents
        )

    def _fill(self, essay_ids: Sequence[str], *, contradicted: bool) -> None:
        """Fill the slots as announced. Slots that the database has filled otherwise stay or are decided anew."""
        stored = {} if self.result.register else {slot.essay_id: slot for slot in self.stored.slots}
        kept = {
            slot.essay_id: slot
            for slot in stored.values()
            if slot.state != "open" and slot.essay_id not in self.known.slots and self._stays(slot, contradicted)
        }
        if self.known.completed_at:
            kept = self._failed(essay_ids, kept)
        for position, essay_id in enumerate(essay_ids, start=1):
            before = stored.get(essay_id)
            slot = self._announced_slot(essay_id, position, before) or kept.get(essay_id)
            slot = slot or StoredSlot(essay_id, position, "open")
            if slot == before:
                continue
            if before and before.state != "open":
                self.result.cleared.append(("slot", essay_id))
                self.cleared.add(essay_id)
            if slot.state != "open" or before is None:
                self.result.slots.append(slot)

    def _announced_slot(self, essay_id: str, position: int, before: StoredSlot | None) -> StoredSlot | None:
        announcement = self.known.slots.get(essay_id)
        if announcement is None:
            return None
        text = self.known.text_of[essay_id]
        if announcement.topic != SLOT_ASSIGNED and before and before.content and before.content.text_storage_id == text:
            return before  # its own announcement is older than what is read
        content = self.sources.content(text)
        return StoredSlot(essay_id, position, "assigned", content, None, announcement.time)

    def _failed(self, essay_ids: Sequence[str], kept: dict[str, StoredSlot]) -> dict[str, StoredSlot]:
        """Return the slots of a batch that was announced as complete, besides those of announced content.

        Its failed uploads were announced in slot order. Its list names all of its content, if there is one.
        """
        kept = {} if self.known.listed else {key: slot for key, slot in kept.items() if slot.state == "assigned"}
        positions = {essay_id: position for position, essay_id in enumerate(essay_ids, start=1)}
        left = [essay_id for essay_id in essay_ids if essay_id not in self.known.slots and essay_id not in kept]
        before = {slot.essay_id: slot for slot in self.stored.slots if slot.state == "failed"}
        if not self.known.errors:  # they may have been announced before what is read
            kept |= {essay_id: before[essay_id] for essay_id in left if essay_id in before}
            left = [essay_id for essay_id in left if essay_id not in before]
        uploads = list(dict.fromkeys(each["essay_id"] for each in self.known.failures))
        if len(uploads) != len(left):
            self.result.contradictions.append(
                f"it was announced as complete with {len(uploads)} failures, and has {len(left)} slots without content"
            )
        # The slots that are left must stay without content: the batch would be announced with another list.
        uploads += [f"not announced: slot {positions[essay_id]}" for essay_id in left[len(uploads) :]]
        for essay_id, upload in zip(left, uploads, strict=False):
            failed = StoredSlot(essay_id, positions[essay_id], "failed", None, upload, self.known.completed_at)
            same = essay_id in before and before[essay_id].file_upload_id == upload
            kept[essay_id] = before[essay_id] if same else failed
        return kept

    def _stays(self, slot: StoredSlot, contradicted: bool) -> bool:
        """Tell whether a slot stays: where nothing is contradicted, or it was taken before the topics begin."""
        if slot.content is not None and self.known.has(slot.content.text_storage_id):
            return False
        return not contradicted or self._is_older(slot)

    def _is_older(self, slot: StoredSlot) -> bool:
        return slot.taken_at is not None and slot.taken_at < self.since

    # -- content in no slot, and what is decided anew

    def _settle_contents(self, *, contradicted: bool, is_new: bool) -> None:
        for slot in self.stored.slots:
            if slot.content and (is_new or slot.essay_id in self.cleared):
                self._decide_again(slot.content, SLOT_ASSIGNED)
        kept = {
            each.content.text_storage_id: each for each in self.stored.contents if not self._leaves(each, contradicted)
        }
        for text, announcement in self.known.excess.items():
            excess = StoredContent(
                "excess", announcement.named("reason"), announcement.time, None, self.sources.content(text)
            )
            if kept.get(text) != excess:
                if text in kept:
                    self._clear("content", text)
                self.result.contents.append(excess)
        for text, announcement in self.known.expired.items():
            if text not in kept and text not in self.sources.received:
                self._decide_again(announcement.content)  # the registration came late, and the input is no more

    def _leaves(self, each: StoredContent, contradicted: bool) -> bool:
        """Take out content that is in a slot now, or is decided anew. Returns whether it does not stay."""
        text, is_excess = each.content.text_storage_id, each.state == "excess"
        leaves = (
            text in self.known.essay_of
            or each.state in ("pending", "expired")
            or (is_excess and contradicted and not self.known.has(text) and each.stored_at >= self.since)
        )
        if leaves:
            self._clear("content", text)
            self._decide_again(each.content, EXCESS_CONTENT if is_excess else None)
        return leaves

    def _settle_failures(self, *, contradicted: bool, is_new: bool) -> None:
        stored = {each.failure.file_upload_id: each for each in self.stored.failures}
        placed = {slot.file_upload_id for slot in self.result.slots if slot.state == "failed"}
        in_slots = placed | {
            slot.file_upload_id
            for slot in self.stored.slots
            if slot.state == "failed" and not is_new and slot.essay_id not in self.cleared
        }
        for upload in sorted(upload for upload in placed if upload):
            if upload not in stored or stored[upload].state != "slot":
                self.result.failures.append(StoredFailure("slot", self.sources.failure(upload)))
        for upload, each in stored.items():
            waits = each.state in ("pending", "expired") or (each.state == "surplus" and contradicted)
            if upload not in in_slots and (waits or each.state == "slot"):
                self._clear("failure", upload)
                self.result.decide.append(each.failure)

    def _clear(self, kind: str, key: str) -> None:
        self.result.cleared.append((kind, key))

    def _decide_again(self, content: Content, topic: str | None = None) -> None:
        """Decide about a content anew, unless it was announced. `topic` is that of its event in the outbox."""
        text = content.text_storage_id
        if topic is not None:
            self.result.event_ids.add(str(event_id(topic, self.batch_id, text)))
        if not self.known.has(text) and text not in self.decided:
            self.decided.add(text)
            self.result.decide.append(ContentProvisioned(self.batch_id, *content))  # type: ignore[arg-type]


def _expired(known: Announced, sources: Sources, stored: Stored) -> Iterator[StoredContent]:
    """Yield the content of a batch that is not registered whose expiry was announced, and is not stored so."""
    if stored.batch:
        return
    rows = {each.content.text_storage_id: each for each in stored.contents}
    for text, each in known.expired.items():
        before = rows.get(text)
        stored_at, expired_at = (time_of(each.named(name)) or each.time for name in ("stored_at", "expired_at"))
        if before and before.state not in ("pending", "expired"):
            continue
        if before and max(before.waiting_since or BEGINNING, before.closed_at or BEGINNING) > expired_at:
            continue  # restored since then, and perhaps expired again
        since = before.waiting_since if before else None
        expired = StoredContent("expired", None, stored_at, expired_at, sources.content(text), since)
        if before != expired and expired.content.correlation_id:
            yield expired
