"""Defines the outcome of a poll: the deliveries that are not applied yet, and the effects to count and log."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, NamedTuple
from uuid import UUID

from service.domain.delivery import Delivery
from service.domain.enveloped import Origin
from service.domain.events import ContentProvisioned, Rejection, trace_id_of
from service.domain.repeats import FileDifference
from service.runtime.tracing import LINKS, TraceContext

EffectKind = Literal[
    "batch_registered",
    "batch_completed",
    "batch_ready",
    "batch_failed",
    "content_pending",
    "content_assigned",
    "content_excess",
    "failure_pending",
    "failure_slot",
    "failure_surplus",
    "confirmation_pending",
    "confirmation_applied",
    "confirmation_unused",
    "content_repeated",
    "failure_repeated",
    "confirmation_repeated",
    "registration_repeated",
    "rejection_repeated",
]
"""What happened to an input or to a batch. It is the name of a log event, and metrics count it."""


class EffectRecord(NamedTuple):
    """What happened to one input, or to one batch. Small, since a transaction may have a hundred thousand of them."""

    kind: EffectKind
    batch_id: str | None
    upload: str | None
    """The text_storage_id of a content, the file_upload_id of a failure."""
    correlation_id: UUID | None
    delivery: Delivery | None = None
    """The delivery of the input, None where the upload had waited in the database."""
    detail: str | None = None
    """The essay id of the assigned slot, the reason of an excess, or why a confirmation is unused."""
    seconds: float | None = None
    """How long a content waited for the registration, or a batch took from that until it was ready or failed."""
    trace_id: str | None = None
    """32 hex digits."""


def record_of(kind: EffectKind, delivery: Delivery) -> EffectRecord:
    """Return the effect of a delivery that may be a rejection, with the ids that are known of it."""
    event: Any = delivery.event
    upload = getattr(event, "text_storage_id", None) or getattr(event, "file_upload_id", None)
    batch_id, correlation_id = getattr(event, "batch_id", None), getattr(event, "correlation_id", None)
    trace_id = trace_id_of(getattr(event, "traceparent", None))
    return EffectRecord(kind, batch_id, upload, correlation_id, delivery, trace_id=trace_id)


class ReconciledEffects:
    """What happened to pending contents of one registration, stored in columns. All have the same kind.

    A registration may reconcile a hundred thousand, which are kept until the commit. As records they would take 32 MiB,
    in columns they take 15 MiB.
    """

    def __init__(self, kind: EffectKind) -> None:
        self.kind = kind
        self._batch_ids: list[str] = []
        self._uploads: list[str] = []
        self._details: list[str] = []
        self._correlation_ids = bytearray()
        self._trace_ids = bytearray()
        """A trace id is never zero: that stands for None."""
        self._seconds = array("d")

    def add(self, batch_id: str, content: ContentProvisioned, detail: str, seconds: float) -> None:
        """Add one, with the fields of an `EffectRecord`. Strings that are referenced elsewhere take no memory here."""
        self._batch_ids.append(batch_id)
        self._uploads.append(content.text_storage_id)
        self._details.append(detail)
        self._correlation_ids += content.correlation_id.bytes
        self._trace_ids += bytes.fromhex(trace_id_of(content.traceparent) or "00" * 16)
        self._seconds.append(seconds)

    def __len__(self) -> int:
        return len(self._uploads)

    def __iter__(self) -> Iterator[EffectRecord]:
        columns = zip(self._batch_ids, self._uploads, self._details, self._seconds, strict=True)
        for number, (batch_id, upload, detail, seconds) in enumerate(columns):
            place = slice(number * 16, number * 16 + 16)
            correlation_id, trace_id = UUID(bytes=bytes(self._correlation_ids[place])), self._trace_ids[place]
            trace = trace_id.hex() if any(trace_id) else None
            yield EffectRecord(self.kind, batch_id, upload, correlation_id, None, detail, seconds, trace)


class EffectRecords:
    """The records of a transaction, in the order in which they were added."""

    def __init__(self, *records: EffectRecord) -> None:
        self._last = list(records)
        self._parts: list[list[EffectRecord] | ReconciledEffects] = [self._last]

    def append(self, record: EffectRecord) -> None:
        """Add one record."""
        self._last.append(record)

    def extend(self, reconciled: ReconciledEffects) -> None:
        """Add records in columns, without a copy."""
        self._last = []
        self._parts += [reconciled, self._last]

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[EffectRecord]:
        return chain.from_iterable(self._parts)


@dataclass(slots=True)
class Effects:
    """What a transaction did, to be counted and logged after its commit."""

    records: EffectRecords = field(default_factory=EffectRecords)
    joined: list[tuple[str, TraceContext]] = field(default_factory=list)
    """The first batches whose traces meet here, each with the trace context of the input that joins: at most LINKS."""
    differences: list[tuple[Delivery, list[str]]] = field(default_factory=list)
    """Repeated registrations that differ from the first of their batch, with the names of the fields."""
    other_files: list[tuple[Delivery, FileDifference]] = field(default_factory=list)
    """Repeated contents that name another file than the first."""
    rejected: list[tuple[Delivery, Rejection]] = field(default_factory=list)
    """Rejected records that were not in quarantine before."""
    erased_batches: list[str] = field(default_factory=list)
    """Batches of users whose data was erased, which were registered after that."""
    published: int = 0
    """Events written to the outbox."""

    def join(self, batch_id: str, origin: Origin | ContentProvisioned) -> None:
        """Note that the trace of an input joins the traces of a batch."""
        if origin.traceparent and len(self.joined) < LINKS:
            self.joined.append((batch_id, (origin.traceparent, origin.tracestate)))


@dataclass(slots=True)
class Outcome:
    """The outcome of a poll. Deliveries that are in none of its lists are applied, repeats, or in quarantine."""

    effects: Effects
    deferred: list[Delivery] = field(default_factory=list)
    """Other transactions hold the locks that these need: apply them again, each batch in an exclusive transaction."""
    next_transaction: list[Delivery] = field(default_factory=list)
    """There was no room for these in this transaction: apply them in the next one."""
    not_admitted: list[Delivery] = field(default_factory=list)
    """Records of a paused topic, which were not processed."""
    paused: set[str] = field(default_factory=set)
    """The topics that are paused now."""
