"""Decides what to do with the records of a poll, from the records and from what is committed in the database.

Every decision is a frozen value, and every function is pure: no database, no broker, no clock. `service.intake` reads
what a decision needs, calls the function, and executes the decision.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import zip_longest
from typing import Literal, NamedTuple, TypeVar

from service.domain.contract import ExcessReason
from service.domain.events import (
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Upload,
    ValidationFailed,
    WaitingFailure,
)

_U = TypeVar("_U", Upload, WaitingFailure)

# -- states


class Slot(NamedTuple):
    """One expected essay of a batch; `position` counts from 1."""

    batch_id: str
    essay_id: str
    position: int


class BatchCount(NamedTuple):
    """The counters of a batch: its slots, and how many are taken by content and by failures, or are withdrawn."""

    expected: int
    assigned: int
    failed: int
    withdrawn: int = 0
    erased_at: datetime | None = None
    """When personal data of the batch was erased last."""

    @property
    def full(self) -> bool:
        """Whether no slot is open."""
        return self.assigned + self.failed + self.withdrawn == self.expected


@dataclass(frozen=True, slots=True)
class BatchState:
    """The committed state of a registered batch. `essay_set` is the result of `essay_set_of`."""

    expected: int
    assigned: int
    failed: int
    essay_set: bytes
    withdrawn: int = 0
    erased_at: datetime | None = None

    @property
    def full(self) -> bool:
        """Whether no slot is open."""
        return self.assigned + self.failed + self.withdrawn == self.expected


# -- new batches: which of them this transaction registers


class Defer(NamedTuple):
    """Apply the records of the batch later, in an exclusive transaction."""

    batch_id: str


class Postpone(NamedTuple):
    """Apply the records of the batch in the next transaction, which has room for them."""

    batch_id: str


def decide_new_batches(weights: Mapping[str, int], limit: int) -> Iterator[Defer | Postpone]:
    """Decide which of the batches to be registered do not fit into this transaction.

    The weight of a batch is the number of its slots and waiting uploads. A batch that exceeds `limit` alone is
    deferred, so that the rest of the poll does not wait for it. The sum of the others does not exceed `limit`, either.
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
    """Create the batch with its slots, and reconcile the uploads that wait for it."""

    registration: BatchRegistered
    essay_set: bytes


class RepeatRegistration(NamedTuple):
    """The batch is registered with the same essays: compare the other fields, change nothing."""

    registration: BatchRegistered


class RejectConflict(NamedTuple):
    """The batch is registered with another set of essays: quarantine the record."""

    registration: BatchRegistered


def essay_set_of(essay_ids: Iterable[str]) -> bytes:
    """Return the identity of a *set* of essay ids, independent of their order: SHA-256 over the sorted ids."""
    digest = sha256()
    for essay_id in sorted(essay_ids):
        encoded = essay_id.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def decide_registration(
    known: bytes | None, registration: BatchRegistered
) -> Register | RepeatRegistration | RejectConflict:
    """Decide about a registration. `known` is the registered essay set, None where the batch is not registered."""
    essay_set = essay_set_of(registration.essay_ids)
    if known is None:
        return Register(registration, essay_set)
    return RepeatRegistration(registration) if essay_set == known else RejectConflict(registration)


# -- slots


class Assign(NamedTuple):
    """Put the upload into the slot."""

    slot: Slot
    upload: Upload | WaitingFailure


class NoSlotLeft(NamedTuple):
    """Every slot of the batch is taken: content may be excess, a failure is recorded without a slot."""

    upload: Upload


class CheckCounter(NamedTuple):
    """No slot could be claimed, but other transactions may hold open ones: read the batch's counter row."""

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
    """What was read before is no longer true: roll back, and run the transaction again."""

    why: str


def assign_slots(
    uploads: Mapping[str, Sequence[_U]], claimed: Iterable[Slot]
) -> tuple[list[Assign], dict[str, list[_U]]]:
    """Assign the claimed slots, in slot order, to the uploads of their batch, in the given order.

    Returns the assignments, and by batch the uploads without a slot.
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

    A claim skips slots that another transaction holds, and they may become open again. It is `certain` that no slot is
    left if this transaction has waited for those slots, or has created the batch.
    """
    if certain:
        return NoSlotLeft(upload)
    return DeferUpload(upload) if isinstance(upload, ValidationFailed) else CheckCounter(upload)


def decide_by_counter(content: ContentProvisioned, count: BatchCount) -> NoSlotLeft | DeferUpload:
    """Decide about a content by the counters of its batch, whose row is locked, so that they are final."""
    return NoSlotLeft(content) if count.full else DeferUpload(content)


def decide_excess(
    content: ContentProvisioned, count: BatchCount, *, is_known: bool, was_not_full: bool
) -> RepeatContent | DeclareExcess | Retry:
    """Decide about content that may be excess, while its batch's counter row is locked.

    `is_known` was read under that lock. `was_not_full` says that the batch was not full when the content was first
    evaluated, so that other inputs took the last slots.
    """
    if is_known:
        return RepeatContent(content)
    if not count.full:
        return Retry("a slot is open again, so that no content is excess")
    return DeclareExcess(content, "NO_AVAILABLE_SLOT" if was_not_full else "BATCH_FULL")


def reconcile(content: ContentProvisioned, essay_ids: Sequence[str], assigned: int) -> Assign | DeclareExcess:
    """Decide about content that waited for its registration. The first `assigned` of the slots are taken."""
    if assigned < len(essay_ids):
        return Assign(Slot(content.batch_id, essay_ids[assigned], assigned + 1), content)
    return DeclareExcess(content, "NO_AVAILABLE_SLOT")


# -- confirmations


class ConfirmableBatch(NamedTuple):
    """What decides about the confirmation of a batch. Its counter row is locked."""

    state: str
    class_id: str | None
    is_confirmed: bool


class Confirm(NamedTuple):
    """The confirmation is in effect: a complete batch is announced as ready."""

    confirmation: AssociationsConfirmed
    state: Literal["applied"] = "applied"


class LeaveConfirmation(NamedTuple):
    """The confirmation is recorded, and changes nothing."""

    confirmation: AssociationsConfirmed
    why: Literal["no_class", "batch_failed", "batch_cancelled", "another_class", "confirmed_before"]
    state: Literal["unused"] = "unused"


def decide_confirmation(batch: ConfirmableBatch, confirmation: AssociationsConfirmed) -> Confirm | LeaveConfirmation:
    """Decide about a confirmation of a registered batch."""
    if not batch.class_id:
        return LeaveConfirmation(confirmation, "no_class")
    if batch.state == "failed":
        return LeaveConfirmation(confirmation, "batch_failed")
    if batch.state == "cancelled":
        return LeaveConfirmation(confirmation, "batch_cancelled")
    if confirmation.class_id not in ("", batch.class_id):
        return LeaveConfirmation(confirmation, "another_class")
    return LeaveConfirmation(confirmation, "confirmed_before") if batch.is_confirmed else Confirm(confirmation)


def decide_confirmations(
    confirmations: Iterable[tuple[AssociationsConfirmed, ConfirmableBatch]],
) -> list[Confirm | LeaveConfirmation]:
    """Decide about several, of any batches: the first that is in effect confirms its batch."""
    decisions: list[Confirm | LeaveConfirmation] = []
    confirmed: set[str] = set()
    for confirmation, batch in confirmations:
        is_confirmed = batch.is_confirmed or confirmation.batch_id in confirmed
        decision = decide_confirmation(batch._replace(is_confirmed=is_confirmed), confirmation)
        if isinstance(decision, Confirm):
            confirmed.add(confirmation.batch_id)
        decisions.append(decision)
    return decisions


# -- announcements


class Announce(NamedTuple):
    """This transaction took the last slot of the batch: publish the events of its completion."""

    batch_id: str


def decide_announcements(counts: Mapping[str, BatchCount], taken: Mapping[str, tuple[int, int]]) -> list[Announce]:
    """Decide which batches to announce: those that are full, and of which this transaction has taken slots.

    `taken` counts these slots by batch: (assigned, failed). The counter rows are locked, so that exactly one
    transaction announces each batch.
    """
    return [Announce(batch_id) for batch_id, slots in taken.items() if any(slots) and counts[batch_id].full]
