"""The facts that topics and tables record about one batch, as values that can be compared."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

from service.domain.personal_data import BLANK

ONLY_OUTPUT: Final = "output"
"""In place of the digest of an input: only an output topic reports the content, and a recovery has stored it so."""


def digest(*values: object) -> str:
    """Return a digest of values that are only compared: 16 hexadecimal digits, the same for the same values."""
    return blake2b(orjson.dumps(values), digest_size=8).hexdigest()


def upload_digest(name: str | None, tracestate: str | None, *values: object) -> str:
    """Return a digest of values that are compared by `same`: with the name of a file, and a tracestate.

    Behind a colon is the digest of these two; nothing, where they were erased.
    """
    personal = "" if name == BLANK else digest(name, tracestate)
    return f"{digest(*values)}:{personal}"


def same(one: str, other: str) -> bool:
    """Say whether two digests are of the same values, without those that were erased in one of them."""
    (values, _, personal), (others, _, other_personal) = one.partition(":"), other.partition(":")
    return values == others and (personal == other_personal or not (personal and other_personal))


class InputFact(NamedTuple):
    """A readable input record. `subject` identifies the content, the failed upload, the class, or the set of essays."""

    topic: str
    subject: str
    content_digest: str
    """Digest of its other fields, see `describe_input`."""
    at: float
    done: bool
    """Whether the group had committed its offset before the tables were read."""
    fingerprint: str


class BatchFact(NamedTuple):
    """A registered batch. `essay_set` identifies its set of essays."""

    essay_set: str
    expected: int
    assigned: int
    failed: int
    state: str
    class_id: str
    """"" where it has none."""
    registered_at: float
    completed_at: float | None
    timed_out_at: float | None
    confirmed_at: float | None = None
    ready_announced_at: float | None = None
    """None where a release has announced it that announced no completion."""
    cancelled_at: float | None = None
    withdrawn: int = 0
    cancel_reason: str = ""
    """"" where it is not cancelled."""

    @property
    def was_complete(self) -> bool:
        """Whether the batch had announced its completion before it was cancelled, if it was cancelled."""
        return self.completed_at is not None and (self.cancelled_at is None or self.completed_at < self.cancelled_at)


class SlotFact(NamedTuple):
    """A slot, with digests of the input that took it and of the event that announces it."""

    essay_id: str
    position: int
    state: str
    text: str | None
    upload: str | None
    content_digest: str
    announced_digest: str
    taken_at: float | None
    written_by: int = 0
    """The id of the transaction that wrote the row last."""


class WaitingFact(NamedTuple):
    """Content that is pending, expired or removed."""

    text: str
    state: str
    content_digest: str
    announced_digest: str
    stored_at: float
    closed_at: float | None


class ExcessFact(NamedTuple):
    """Content that found no open slot."""

    text: str
    content_digest: str
    announced_digest: str
    declared_at: float


class FailureFact(NamedTuple):
    """A validation failure."""

    upload: str
    state: str
    stored_at: float
    origin: str | None = None


class ConfirmationFact(NamedTuple):
    """A confirmation of students."""

    class_id: str
    state: str
    stored_at: float


class EventFact(NamedTuple):
    """An event of this service, on its topic or in the outbox. `subject` is the content that it concerns, else ""."""

    topic: str
    event_id: str
    expected_id: str
    subject: str
    announced_digest: str
    stamp: str
    """The time of its commit, from its envelope."""
    essay_id: str
    record_digest: str
    """Digest of the key and the value of the record."""
    partition: int
    """-1 in the outbox."""
    place: int
    """Its offset, or its number in the outbox."""
    sent_at: float
    settled: bool
    """Whether it was on its topic before the tables were read."""

    @property
    def in_outbox(self) -> bool:
        return self.partition < 0


class ElsewhereFact(NamedTuple):
    """A row in the database of another cell than that of its batch. A split leaves history there for a while."""

    cell: int
    what: str
    subject: str
    value: str
    """The upload of a slot; otherwise ""."""
    is_history: bool
    """Whether a split may leave such a row; what waits it deletes at once."""
    is_new: bool
    """Whether no split has left the row: it is newer, or nothing of another half should be left any more."""


Fact = (
    InputFact
    | BatchFact
    | SlotFact
    | WaitingFact
    | ExcessFact
    | FailureFact
    | ConfirmationFact
    | EventFact
    | ElsewhereFact
)

KINDS: Final[tuple[type[Any], ...]] = (
    InputFact,
    BatchFact,
    SlotFact,
    WaitingFact,
    ExcessFact,
    FailureFact,
    ConfirmationFact,
    EventFact,
    ElsewhereFact,
)


@dataclass(slots=True)
class History:
    """All facts of one batch."""

    batch_id: str
    batch: BatchFact | None = None
    inputs: list[InputFact] = field(default_factory=list)
    slots: list[SlotFact] = field(default_factory=list)
    waiting: list[WaitingFact] = field(default_factory=list)
    excess: list[ExcessFact] = field(default_factory=list)
    failures: list[FailureFact] = field(default_factory=list)
    confirmations: list[ConfirmationFact] = field(default_factory=list)
    events: list[EventFact] = field(default_factory=list)
    elsewhere: list[ElsewhereFact] = field(default_factory=list)

    @classmethod
    def of(cls, batch_id: str, facts: Iterable[Fact]) -> "History":
        """Make a history of these facts."""
        history = cls(batch_id)
        lists: dict[type[Any], list[Any]] = {
            InputFact: history.inputs,
            SlotFact: history.slots,
            WaitingFact: history.waiting,
            ExcessFact: history.excess,
            FailureFact: history.failures,
            ConfirmationFact: history.confirmations,
            EventFact: history.events,
            ElsewhereFact: history.elsewhere,
        }
        for fact in facts:
            if isinstance(fact, BatchFact):
                history.batch = fact
            else:
                lists[type(fact)].append(fact)
        history.slots.sort(key=lambda slot: slot.position)
        return history

    def published(self, topic: str | None = None) -> list[EventFact]:
        """Return the events that are on their topics, or on this one."""
        return [event for event in self.events if not event.in_outbox and topic in (None, event.topic)]

    def events_by_subject(self, topic: str) -> dict[str, list[EventFact]]:
        """Return the events of this topic, published or in the outbox, by their subjects."""
        found: dict[str, list[EventFact]] = defaultdict(list)
        for event in self.events:
            if event.topic == topic:
                found[event.subject].append(event)
        return found
