"""What is recorded about one batch, as values that can be compared."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson


def digest(*values: object) -> str:
    """What stands for values that need only be compared: 16 hexadecimal digits, the same for the same values."""
    return blake2b(orjson.dumps(values), digest_size=8).hexdigest()


class InputFact(NamedTuple):
    """An input that can be read. `about` is the text, the upload or, of a registration, the set of essays."""

    topic: str
    about: str
    says: str
    at: float
    done: bool
    """The group had committed its offset before the tables were read."""
    fingerprint: str


class BatchFact(NamedTuple):
    """A registered batch; `about` is its set of essays."""

    about: str
    expected: int
    assigned: int
    failed: int
    state: str
    registered_at: float
    completed_at: float | None
    timed_out_at: float | None


class SlotFact(NamedTuple):
    """`says` is what came for it, `told` what its event tells."""

    essay_id: str
    position: int
    state: str
    text: str | None
    upload: str | None
    says: str
    told: str
    taken_at: float | None
    written_by: int = 0
    """The transaction that wrote it last."""


class WaitingFact(NamedTuple):
    """Content that is pending, expired or removed."""

    text: str
    state: str
    says: str
    told: str
    stored_at: float
    closed_at: float | None


class ExcessFact(NamedTuple):
    """Content that found no open slot."""

    text: str
    says: str
    told: str
    declared_at: float


class FailureFact(NamedTuple):
    """A validation failure."""

    upload: str
    state: str
    stored_at: float


class EventFact(NamedTuple):
    """One of ours, on its topic or in the outbox. `about` is the text that it is about, if it is about one."""

    topic: str
    event_id: str
    expected_id: str
    about: str
    told: str
    stamp: str
    """The moment of its commit, as it says itself."""
    essay_id: str
    content: str
    """Stands for every byte of the record."""
    partition: int
    """-1 in the outbox."""
    place: int
    """Its offset, or its number in the outbox."""
    sent_at: float
    settled: bool
    """It was on its topic before the tables were read."""

    @property
    def in_outbox(self) -> bool:
        return self.partition < 0


Fact = InputFact | BatchFact | SlotFact | WaitingFact | ExcessFact | FailureFact | EventFact

KINDS: Final[tuple[type[Any], ...]] = (InputFact, BatchFact, SlotFact, WaitingFact, ExcessFact, FailureFact, EventFact)


@dataclass(slots=True)
class History:
    """All facts of one batch."""

    batch_id: str
    batch: BatchFact | None = None
    came: list[InputFact] = field(default_factory=list)
    slots: list[SlotFact] = field(default_factory=list)
    waiting: list[WaitingFact] = field(default_factory=list)
    excess: list[ExcessFact] = field(default_factory=list)
    failures: list[FailureFact] = field(default_factory=list)
    events: list[EventFact] = field(default_factory=list)

    @classmethod
    def of(cls, batch_id: str, facts: Iterable[Fact]) -> "History":
        """The history that these facts make."""
        history = cls(batch_id)
        for fact in facts:
            match fact:
                case BatchFact():
                    history.batch = fact
                case InputFact():
                    history.came.append(fact)
                case SlotFact():
                    history.slots.append(fact)
                case WaitingFact():
                    history.waiting.append(fact)
                case ExcessFact():
                    history.excess.append(fact)
                case FailureFact():
                    history.failures.append(fact)
                case EventFact():
                    history.events.append(fact)
        history.slots.sort(key=lambda slot: slot.position)
        return history

    def published(self, topic: str | None = None) -> list[EventFact]:
        """Those on their topics."""
        return [event for event in self.events if not event.in_outbox and topic in (None, event.topic)]

    def told(self, topic: str) -> dict[str, list[EventFact]]:
        """Published or about to be, by what they are about."""
        told: dict[str, list[EventFact]] = defaultdict(list)
        for event in self.events:
            if event.topic == topic:
                told[event.about].append(event)
        return told
