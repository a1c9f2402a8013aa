"""What a poll brings, and what became of it."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal, NamedTuple
from uuid import UUID

from service.domain.decisions import BatchFacts
from service.domain.delivery import Delivery
from service.domain.events import ContentProvisioned, Refusal, Upload, ValidationFailed


@dataclass(slots=True)
class Batch:
    """What a poll brings for one batch, each identity once, and how the batch stands."""

    batch_id: str
    registrations: list[Delivery] = field(default_factory=list)
    contents: dict[str, Delivery] = field(default_factory=dict)
    failures: dict[str, Delivery] = field(default_factory=dict)
    facts: BatchFacts | None = None
    fresh: bool = False
    """Registered by this transaction: nobody else can hold a slot of it."""
    assigned: int = 0
    failed: int = 0
    unserved: list[ContentProvisioned] = field(default_factory=list)
    """Content that found every open slot in somebody's hands, or none at all: the deciding row tells."""
    excess: list[ContentProvisioned] = field(default_factory=list)
    surplus: list[ValidationFailed] = field(default_factory=list)

    def deliveries(self) -> list[Delivery]:
        return [*self.registrations, *self.contents.values(), *self.failures.values()]

    @property
    def open(self) -> bool:
        """Whether a slot was open, committed, when the batch was looked at."""
        return self.facts is not None and not self.facts.full

    def mark_not_full(self) -> None:
        """Remember it with the contents: they may come here again when it is."""
        for delivery in self.contents.values():
            delivery.was_not_full = True

    def uploads(self) -> list[Upload]:
        """Content first, then failures, each in order of arrival."""
        return self.arrived(self.contents) + self.arrived(self.failures)

    @staticmethod
    def arrived(deliveries: dict[str, Delivery]) -> list[Upload]:
        """The contents or the failures themselves, in order of arrival."""
        return [delivery.event for delivery in deliveries.values()]  # type: ignore[misc]

    def add(self, delivery: Delivery) -> bool:
        """Returns whether this poll brought the same before."""
        match delivery.event:
            case ContentProvisioned(text_storage_id=identity):
                return self.contents.setdefault(identity, delivery) is not delivery
            case ValidationFailed(file_upload_id=identity):
                return self.failures.setdefault(identity, delivery) is not delivery
            case _:
                self.registrations.append(delivery)
                return False


Decided = Literal[
    "batch_registered",
    "batch_ready",
    "batch_failed",
    "content_pending",
    "content_assigned",
    "content_excess",
    "failure_pending",
    "failure_slot",
    "failure_surplus",
    "content_repeated",
    "failure_repeated",
    "registration_repeated",
    "refusal_repeated",
]
"""What can become of an input or of a batch; a line of the log has this name, and the metrics are counts of it."""


class Decision(NamedTuple):
    """What became of one input, or of one batch. Small: a transaction may take a hundred thousand of them."""

    what: Decided
    batch_id: str | None
    upload: str | None
    """The text_storage_id of a content, the file_upload_id of a failure."""
    correlation_id: UUID | None
    delivery: Delivery | None = None
    """The record that brought it; None where it had waited."""
    detail: str | None = None
    """The essay whose slot it took, or the reason of an excess."""
    seconds: float | None = None
    """How long a content had waited for the registration; how long a batch took from there to its end."""


class Reconciled:
    """What became of contents that had waited: one decision for all, and the rest in columns.

    A registration may reconcile a hundred thousand, and all are remembered until it is committed: as decisions they
    would be 32 MiB, in columns they are 13.
    """

    def __init__(self, what: Decided) -> None:
        self.what = what
        self._batch_ids: list[str] = []
        self._uploads: list[str] = []
        self._details: list[str] = []
        self._correlation_ids = bytearray()
        self._seconds = array("d")

    def add(self, batch_id: str, content: ContentProvisioned, detail: str, seconds: float) -> None:
        """As a `Decision` has them. Texts that others hold as well cost nothing here."""
        self._batch_ids.append(batch_id)
        self._uploads.append(content.text_storage_id)
        self._details.append(detail)
        self._correlation_ids += content.correlation_id.bytes
        self._seconds.append(seconds)

    def __len__(self) -> int:
        return len(self._uploads)

    def __iter__(self) -> Iterator[Decision]:
        columns = zip(self._batch_ids, self._uploads, self._details, self._seconds, strict=True)
        for number, (batch_id, upload, detail, seconds) in enumerate(columns):
            correlation_id = UUID(bytes=bytes(self._correlation_ids[number * 16 : number * 16 + 16]))
            yield Decision(self.what, batch_id, upload, correlation_id, None, detail, seconds)


class Decisions:
    """What became of each input, and of each batch, in this order."""

    def __init__(self, *decisions: Decision) -> None:
        self._some = list(decisions)
        self._parts: list[list[Decision] | Reconciled] = [self._some]

    def append(self, decision: Decision) -> None:
        """One more."""
        self._some.append(decision)

    def extend(self, reconciled: Reconciled) -> None:
        """Some more, as they are."""
        self._some = []
        self._parts += [reconciled, self._some]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Decision]:
        return chain.from_iterable(self._parts)


@dataclass(slots=True)
class Effects:
    """What a transaction did, to be counted and logged once it is committed."""

    decisions: Decisions = field(default_factory=Decisions)
    waited: list[tuple[str | None, str | None]] = field(default_factory=list)
    """The trace contexts of the first contents that had waited, as many as a span has links."""
    differences: list[tuple[str, list[str]]] = field(default_factory=list)
    refused: list[tuple[Delivery, Refusal]] = field(default_factory=list)
    """Those that were not in quarantine before."""
    published: int = 0
    """Outbox rows written."""


@dataclass(slots=True)
class Outcome:
    """What became of a poll. Deliveries that are in none of the lists are dealt with."""

    effects: Effects
    aside: list[Delivery] = field(default_factory=list)
    """Somebody holds what these need: again, each batch alone, waiting."""
    again: list[Delivery] = field(default_factory=list)
    """There was no room for these in this transaction: again, in the next."""
    left: list[Delivery] = field(default_factory=list)
    """Of a stopped topic: not taken at all."""
    stopped: set[str] = field(default_factory=set)
    """The topics that are stopped now."""
