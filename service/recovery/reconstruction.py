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
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
)
from service.recovery.announced import Announced, resolve
from service.recovery.endings import slots_of_an_end
from service.recovery.facts import Published, Received, time_of
from service.recovery.sources import BEGINNING, Sources
from service.recovery.times import times_of
from service.store.recovery import (
    AnnouncedTimes,
    Content,
    Stored,
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

    ends_otherwise: bool = False
    """Whether the batch is cancelled from now on, or is not any more."""

    @property
    def changes_slots(self) -> bool:
        """Whether the slots of the batch change, or how it ended, so that its end may have to be announced."""
        cleared = any(kind != "content" for kind, _ in self.cleared)
        return bool(self.register or self.slots or cleared or self.ends_otherwise)


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
        times = times_of(self.known, batch if self.result.register is None else None)
        known = self.known
        before = (batch.completed_at, batch.timed_out_at, batch.ready_announced_at) if batch else (None, None, None)
        self.result.ends_otherwise = batch is not None and times.cancelled_at != batch.cancelled_at
        if (
            self.result.changes_slots
            or (known.ready and batch and batch.state != "ready")
            or any(time not in (None, stored) for time, stored in zip(times[:3], before, strict=True))
        ):
            self.result.times = times
        if self.result.changes_slots:
            self.result.event_ids |= {str(event_id(topic, self.batch_id)) for topic in known.endings}
        self.result.announced = frozenset(topic for topic, each in known.endings.items() if each is not None)

    # -- slots

    def _is_contradicted(self) -> bool:
        """Tell whether an announcement contradicts what the database states."""
        known = self.known
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
            elif slot.state != "open" and (announced or self._has_failed_otherwise(slot)):
                return True
        batch = self.stored.batch
        if batch and batch.cancelled_at and times_of(known, batch).cancelled_at is None:
            return True
        return any(
            each.state == "excess" and each.content.text_storage_id in known.essay_of for each in self.stored.contents
        )

    def _has_failed_otherwise(self, slot: StoredSlot) -> bool:
        """Tell whether a failure has the slot that is not among those that were announced."""
        known = self.known
        return bool(slot.state == "failed" and known.errors) and all(
            each["essay_id"] != slot.file_upload_id for each in known.failures
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
            kept, contradictions = slots_of_an_end(self.known, self.sources.failed, self.stored.slots, essay_ids, kept)
            self.result.contradictions += contradictions
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
        listed = announcement.topic != SLOT_ASSIGNED
        return StoredSlot(essay_id, position, "assigned", content, None, announcement.time, listed)

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
