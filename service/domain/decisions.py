"""Pure decisions, and the words for them: what a poll asks for, what the database knows → what is to be done.

Nothing here touches a database, a broker or a clock.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import sha256
from itertools import zip_longest
from typing import NamedTuple

from service.domain.events import BatchRegistered, Upload


class Slot(NamedTuple):
    """One expected essay of a batch; `position` counts from 1."""

    batch_id: str
    essay_id: str
    position: int


class Seat(NamedTuple):
    """A slot and what takes it."""

    slot: Slot
    upload: Upload


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """What is committed about a registered batch."""

    expected: int
    assigned: int
    failed: int
    essay_set: bytes

    @property
    def full(self) -> bool:
        return self.assigned + self.failed == self.expected


class Verdict(Enum):
    """What a registration is, beside the one that was committed first."""

    FIRST = "first"
    REPEAT = "repeat"
    CONFLICT = "conflict"


def essay_set(essay_ids: Iterable[str]) -> bytes:
    """The identity of a *set* of essay ids, whatever their order: SHA-256 over the sorted ids."""
    digest = sha256()
    for essay_id in sorted(essay_ids):
        encoded = essay_id.encode()
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return digest.digest()


def judge_registration(known: bytes | None, announced: bytes) -> Verdict:
    """A registration with another set of essays than the first contradicts it; any other repeats it.

    Both are `essay_set`s; `known` is None while no registration has come.
    """
    if known is None:
        return Verdict.FIRST
    return Verdict.REPEAT if announced == known else Verdict.CONFLICT


def differences(first: Mapping[str, object], registration: BatchRegistered) -> list[str]:
    """The names of the fields in which a repeated registration differs from the first."""
    return [name for name, value in first.items() if getattr(registration, name) != value]


@dataclass(slots=True)
class Seating:
    """Who takes which slot, and who found none."""

    seats: list[Seat] = field(default_factory=list)
    unserved: list[Upload] = field(default_factory=list)


def seat(uploads: Mapping[str, Sequence[Upload]], claimed: Iterable[Slot]) -> Seating:
    """Give the claimed slots, in slot order, to the uploads of their batch, in the order given."""
    free: dict[str, list[Slot]] = defaultdict(list)
    for slot in claimed:
        free[slot.batch_id].append(slot)
    seating = Seating()
    for batch_id, waiting in uploads.items():
        slots = sorted(free[batch_id], key=lambda slot: slot.position)
        for upload, slot in zip_longest(waiting, slots):
            if slot is None:
                seating.unserved.append(upload)
            else:
                seating.seats.append(Seat(slot, upload))
    return seating


def admit(refused: Sequence[bool], in_a_row: int, limit: int) -> int:
    """How many of a topic's inputs to take before it stops, after so many refusals in a row.

    `refused` tells of each input, in order, whether it is refused. The topic stops with the input that
    makes `limit` refusals in a row; what comes after stays where it is.
    """
    for taken, is_refused in enumerate(refused, start=1):
        in_a_row = in_a_row + 1 if is_refused else 0
        if in_a_row >= limit:
            return taken
    return len(refused)


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """How a topic's refusals in a row go on: from what the database holds, or anew after something good."""

    in_a_row: int
    restarted: bool


def count_refusals(refused: Sequence[bool]) -> RefusalCount:
    """The refusals in a row at the end of these inputs."""
    last_good = max((number for number, is_refused in enumerate(refused, start=1) if not is_refused), default=0)
    return RefusalCount(len(refused) - last_good, last_good > 0)
