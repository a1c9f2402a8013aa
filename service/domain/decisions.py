"""What to do with the records of a poll, decided from what the poll contains and what the database knows.

Every decision is a frozen value, and every function here is pure: no database, no broker, no clock. `service.intake`
reads what a decision needs, asks for it, and carries it out.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import zip_longest
from typing import NamedTuple, TypeVar

from service.domain.contract import ExcessReason
from service.domain.events import (
    BatchRegistered,
    ContentProvisioned,
    Reason,
    Rejection,
    Upload,
    ValidationFailed,
    WaitingFailure,
)

_U = TypeVar("_U", Upload, WaitingFailure)

# -- what is known


class Slot(NamedTuple):
    """One expected essay of a batch; `position` counts from 1."""

    batch_id: str
    essay_id: str
    position: int


class BatchCount(NamedTuple):
    """The counters of a batch: how many slots it has, and how many are taken by content and by failures."""

    expected: int
    assigned: int
    failed: int

    @property
    def full(self) -> bool:
        return self.assigned + self.failed == self.expected


@dataclass(frozen=True, slots=True)
class BatchState:
    """What is committed about a registered batch."""

    expected: int
    assigned: int
    failed: int
    essay_set: bytes

    @property
    def full(self) -> bool:
        return self.assigned + self.failed == self.expected


@dataclass(frozen=True, slots=True)
class RejectionCounter:
    """Consecutive rejections of a topic, counted over all pods, and whether they have paused it."""

    consecutive: int
    paused: bool


# -- admission: which records of a topic are taken


@dataclass(frozen=True, slots=True)
class Admit:
    """Take the first `count` records of the topic. The others stay where they are: the topic is paused, or pauses."""

    count: int


def decide_admission(rejected: Sequence[bool], counter: RejectionCounter, limit: int, *, probing: bool) -> Admit:
    """Decide how many records of a topic to take.

    `rejected` says of each record, in order, whether it is rejected. The topic pauses with the record that makes
    `limit` consecutive rejections. Of a paused topic nothing is taken, except one valid record while it is probed.
    """
    if counter.paused:
        return Admit(1 if probing and not rejected[0] else 0)
    consecutive = counter.consecutive
    for taken, is_rejected in enumerate(rejected, start=1):
        consecutive = consecutive + 1 if is_rejected else 0
        if consecutive >= limit:
            return Admit(taken)
    return Admit(len(rejected))


@dataclass(frozen=True, slots=True)
class CountRejections:
    """Change a topic's counter: add to it, or, where `restarted`, count anew after a valid record."""

    consecutive: int
    restarted: bool


def count_rejections(rejected: Sequence[bool]) -> CountRejections:
    """Count the consecutive rejections at the end of these records."""
    last_valid = max((number for number, is_rejected in enumerate(rejected, start=1) if not is_rejected), default=0)
    return CountRejections(len(rejected) - last_valid, last_valid > 0)


# -- which batches this transaction handles


class Defer(NamedTuple):
    """Apply what came for the batch in an exclusive transaction of its own, later."""

    batch_id: str


class Postpone(NamedTuple):
    """Apply what came for the batch in the next transaction, which has room for it."""

    batch_id: str


def decide_new_batches(weights: Mapping[str, int], limit: int) -> Iterator[Defer | Postpone]:
    """Decide which of the batches to be registered do not fit into this transaction.

    A weight is the number of slots and waiting uploads of a batch. One that exceeds `limit` alone is deferred, so that
    the rest of the poll does not wait for it; together they do not exceed it either.
    """
    remaining = limit
    for batch_id, weight in weights.items():
        if weight > limit:
            yield Defer(batch_id)
        elif weight > remaining:
            yield Postpone(batch_id)
        else:
            remaining -= weight


# -- registrations


class Register(NamedTuple):
    """Create the batch with its slots, and reconcile what waits for it."""

    registration: BatchRegistered
    essay_set: bytes


class RepeatRegistration(NamedTuple):
    """The batch is registered with the same essays: compare the other fields, change nothing."""

    registration: BatchRegistered


class Reject(NamedTuple):
    """Quarantine the record."""

    rejection: Rejection


def essay_set_of(essay_ids: Iterable[str]) -> bytes:
    """The identity of a *set* of essay ids, whatever their order: SHA-256 over the sorted ids."""
    digest = sha256()
    for essay_id in sorted(essay_ids):
        encoded = essay_id.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def decide_registration(known: bytes | None, registration: BatchRegistered) -> Register | RepeatRegistration | Reject:
    """Decide about a registration. `known` is the essay set that is registered; None where the batch is not."""
    essay_set = essay_set_of(registration.essay_ids)
    if known is None:
        return Register(registration, essay_set)
    if essay_set == known:
        return RepeatRegistration(registration)
    why = f"batch {registration.batch_id} is registered with another set of essays; the first registration stands"
    return Reject(Rejection(Reason.CONFLICTING_REGISTRATION, why))


def differences(first: Mapping[str, object], registration: BatchRegistered) -> list[str]:
    """The names of the fields in which a repeated registration differs from the first."""
    return [name for name, value in first.items() if getattr(registration, name) != value]


# -- slots


class Assign(NamedTuple):
    """Put the upload into the slot."""

    slot: Slot
    upload: Upload | WaitingFailure


class NoSlotLeft(NamedTuple):
    """Every slot of the batch is taken: content is a candidate for excess, a failure is recorded without a slot."""

    upload: Upload


class CheckCounter(NamedTuple):
    """No slot could be claimed; other transactions may hold open ones. The batch's counter row tells."""

    content: ContentProvisioned


class DeferUpload(NamedTuple):
    """Other transactions hold open slots: apply the upload in an exclusive transaction, which waits for them."""

    upload: Upload


class DeclareExcess(NamedTuple):
    """The batch is full, and the content is in none of its slots."""

    content: ContentProvisioned
    reason: ExcessReason


class RepeatContent(NamedTuple):
    """The content is recorded already."""

    content: ContentProvisioned


class Retry(NamedTuple):
    """What was read no longer holds: roll back, and run the transaction again."""

    why: str


def assign_slots(
    uploads: Mapping[str, Sequence[_U]], claimed: Iterable[Slot]
) -> tuple[list[Assign], dict[str, list[_U]]]:
    """Give the claimed slots, in slot order, to the uploads of their batch, in the order given.

    Returns the assignments, and by batch the uploads that got no slot.
    """
    free: dict[str, list[Slot]] = defaultdict(list)
    for slot in claimed:
        free[slot.batch_id].append(slot)
    assigned: list[Assign] = []
    unassigned: dict[str, list[_U]] = {}
    for batch_id, waiting in uploads.items():
        slots = sorted(free[batch_id], key=lambda slot: slot.position)
        for upload, slot in zip_longest(waiting, slots):
            if slot is None:
                unassigned.setdefault(batch_id, []).append(upload)
            else:
                assigned.append(Assign(slot, upload))
    return assigned, unassigned


def decide_unassigned(upload: Upload, *, certain: bool) -> NoSlotLeft | CheckCounter | DeferUpload:
    """Decide about an upload for which no slot was claimed.

    A slot that another transaction holds is skipped by a claim and may be open again. It is `certain` that none is
    left where this transaction has waited for those slots, or has created the batch.
    """
    if certain:
        return NoSlotLeft(upload)
    return DeferUpload(upload) if isinstance(upload, ValidationFailed) else CheckCounter(upload)


def decide_by_counter(content: ContentProvisioned, count: BatchCount) -> NoSlotLeft | DeferUpload:
    """Decide about a content by its batch's counters, while their row is locked: full is then a fact."""
    return NoSlotLeft(content) if count.full else DeferUpload(content)


def decide_excess(
    content: ContentProvisioned, count: BatchCount, *, is_known: bool, was_not_full: bool
) -> RepeatContent | DeclareExcess | Retry:
    """Decide about a candidate for excess, while its batch's counter row is locked.

    `is_known` was read under that lock. `was_not_full`: when the content was first evaluated, its batch was not seen
    full, so that other inputs took the last slots.
    """
    if is_known:
        return RepeatContent(content)
    if not count.full:
        return Retry("a slot is open again: nothing is excess")
    return DeclareExcess(content, "NO_AVAILABLE_SLOT" if was_not_full else "BATCH_FULL")


def reconcile(content: ContentProvisioned, essay_ids: Sequence[str], assigned: int) -> Assign | DeclareExcess:
    """Decide about a content that waited for its registration, of whose slots the first `assigned` are taken."""
    if assigned < len(essay_ids):
        return Assign(Slot(content.batch_id, essay_ids[assigned], assigned + 1), content)
    return DeclareExcess(content, "NO_AVAILABLE_SLOT")


# -- announcements


class Announce(NamedTuple):
    """This transaction took the last slot of the batch: publish what its completion announces."""

    batch_id: str


def decide_announcements(counts: Mapping[str, BatchCount], taken: Mapping[str, tuple[int, int]]) -> list[Announce]:
    """Decide which batches to announce: those that are full, and of which this transaction `taken` (assigned, failed)
    slots. The counter rows are locked, so there is exactly one such transaction for each batch.
    """
    return [Announce(batch_id) for batch_id, slots in taken.items() if any(slots) and counts[batch_id].full]
