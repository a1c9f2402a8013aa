"""The state that the phases of a transaction share: the batches of its poll, its effects, and what it publishes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from psycopg import AsyncConnection

from service.domain import outgoing
from service.domain.contract import ExcessReason
from service.domain.decisions import BatchState, Slot
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.enveloped import Origin, Outgoing
from service.domain.events import AssociationsConfirmed, ContentProvisioned, Incoming, Upload, ValidationFailed
from service.domain.repeats import KnownFile, file_difference
from service.intake.outcome import EffectKind, EffectRecord, Effects, Outcome
from service.store.outbox import OutboxWriter

_T = TypeVar("_T")


@dataclass(slots=True)
class BatchWork:
    """The deliveries of a poll for one batch, each identity once, and what this transaction did to the batch.

    The identity of a content is its text, of a failure its upload, of a confirmation its class.
    """

    batch_id: str
    registrations: list[Delivery] = field(default_factory=list)
    contents: dict[str, Delivery] = field(default_factory=dict)
    failures: dict[str, Delivery] = field(default_factory=dict)
    confirmations: dict[str, Delivery] = field(default_factory=dict)
    waiting_confirmations: list[AssociationsConfirmed] = field(default_factory=list)
    """Those that came before the registration that this transaction applies."""
    state: BatchState | None = None
    """None while the batch is not registered."""
    created: bool = False
    """Registered by this transaction: no other transaction can hold a slot of it."""
    erased: bool = False
    """Its personal data was erased: what arrives of it is blanked."""
    assigned: int = 0
    failed: int = 0
    unchecked: list[ContentProvisioned] = field(default_factory=list)
    """Contents for which no slot could be claimed: the counter row says whether one is open."""
    excess: list[ContentProvisioned] = field(default_factory=list)
    surplus: list[ValidationFailed] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether the committed state had an open slot when it was read."""
        return self.state is not None and not self.state.full

    def add(self, delivery: Delivery) -> bool:
        """Add a delivery. Returns whether the poll already contained one with the same identity."""
        match delivery.event:
            case ContentProvisioned(text_storage_id=identity):
                return self.contents.setdefault(identity, delivery) is not delivery
            case ValidationFailed(file_upload_id=identity):
                return self.failures.setdefault(identity, delivery) is not delivery
            case AssociationsConfirmed(class_id=identity):
                return self.confirmations.setdefault(identity, delivery) is not delivery
            case _:
                self.registrations.append(delivery)
                return False

    def deliveries(self) -> list[Delivery]:
        """Return all deliveries of the batch."""
        uploads = [*self.contents.values(), *self.failures.values()]
        return [*self.registrations, *uploads, *self.confirmations.values()]

    @property
    def to_confirm(self) -> dict[str, AssociationsConfirmed]:
        """The confirmations of a registered batch by class, those that waited first."""
        if self.state is None:
            return {}
        waited = {each.class_id: each for each in self.waiting_confirmations}
        delivered: dict[str, Any] = {class_id: each.event for class_id, each in self.confirmations.items()}
        return {**waited, **{class_id: each for class_id, each in delivered.items() if class_id not in waited}}

    def delivery_of(self, upload: Upload) -> Delivery:
        """Return the delivery of the upload."""
        if isinstance(upload, ContentProvisioned):
            return self.contents[upload.text_storage_id]
        return self.failures[upload.file_upload_id]

    def uploads(self) -> list[Upload]:
        """Return the contents, then the failures, each in order of arrival."""
        return [*uploads_of(self.contents), *uploads_of(self.failures)]


class PollWork:
    """The state that the phases of a transaction share."""

    def __init__(self, conn: AsyncConnection[Any], limits: IntakeLimits, *, exclusive: bool) -> None:
        """With `exclusive` the transaction handles one batch and waits for locks that others hold."""
        self.conn = conn
        self.limits = limits
        self.exclusive = exclusive
        self.now = datetime.min.replace(tzinfo=UTC)
        self.batches: dict[str, BatchWork] = {}
        self.outcome = Outcome(Effects())
        self.effects = self.outcome.effects
        self.outbox = OutboxWriter(conn)
        self.repeated: list[Delivery] = []
        """Repeated contents whose files are to be compared with those that are recorded."""
        self.has_erasures = False
        """Whether there are tombstones, as of the reads behind the locks."""

    def batch(self, batch_id: str) -> BatchWork:
        """Return the work on a batch, created where there is none yet."""
        batch = self.batches.get(batch_id)
        if batch is None:
            batch = self.batches[batch_id] = BatchWork(batch_id)
        return batch

    def defer(self, batch_id: str) -> None:
        """Leave all deliveries of a batch to an exclusive transaction."""
        self.outcome.deferred += self.batches.pop(batch_id).deliveries()

    def postpone(self, batch_id: str) -> None:
        """Leave all deliveries of a batch to the next transaction."""
        self.outcome.next_transaction += self.batches.pop(batch_id).deliveries()

    def defer_upload(self, upload: Upload) -> None:
        """Leave one upload to an exclusive transaction."""
        self.outcome.deferred.append(self.batches[upload.batch_id].delivery_of(upload))

    # -- effects, to be counted and logged after the commit

    def record(self, kind: EffectKind, delivery: Delivery, detail: str | None = None) -> None:
        """Add the effect of a delivery."""
        event: Incoming = delivery.event  # type: ignore[assignment]  # never called for a rejection
        upload = getattr(event, "text_storage_id", None) or getattr(event, "file_upload_id", None)
        trace_id = event.traceparent and event.traceparent[3:35]  # `trace_id_of`, for which a call is saved
        self.effects.records.append(
            EffectRecord(kind, event.batch_id, upload, event.correlation_id, delivery, detail, None, trace_id)
        )

    def record_repeat(self, delivery: Delivery, file: KnownFile | None = None) -> None:
        """Add the effect that a delivery repeats a known input. `file` is that of a content, where it has been read."""
        match delivery.event:
            case ContentProvisioned():
                self.record("content_repeated", delivery)
                if file is None:
                    self.repeated.append(delivery)
                else:
                    self.compare(file, delivery)
            case ValidationFailed():
                self.record("failure_repeated", delivery)
            case AssociationsConfirmed():
                self.record("confirmation_repeated", delivery)
            case _:
                self.record("registration_repeated", delivery)

    def compare(self, file: KnownFile, repeat: Delivery) -> None:
        """Note, for the log, whether a repeated content names another file than the first, which remains in effect."""
        content: ContentProvisioned = repeat.event  # type: ignore[assignment]
        if difference := file_difference(file, content):
            self.effects.other_files.append((repeat, difference))

    # -- events

    async def publish(self, events: Sequence[Outgoing]) -> None:
        """Add events to the outbox, in this order. The counter rows of their batches must be locked."""
        await self.outbox.add(events)
        self.effects.published += len(events)

    def slot_assigned(self, slot: Slot, content: ContentProvisioned) -> Outgoing:
        """Build EssaySlotAssigned. Raises Unpublishable."""
        return outgoing.slot_assigned(
            content.batch_id,
            slot.essay_id,
            content.text_storage_id,
            content.file_upload_id,
            content.original_file_name,
            Origin(content.correlation_id, content.traceparent, content.tracestate),
            self.now,
            max_bytes=self.limits.event_bytes,
        )

    def excess(self, content: ContentProvisioned, reason: ExcessReason) -> Outgoing:
        """Build ExcessContentProvisioned. Raises Unpublishable."""
        return outgoing.excess_content(
            content.batch_id,
            content.text_storage_id,
            content.original_file_name,
            reason,
            Origin(content.correlation_id, content.traceparent, content.tracestate),
            self.now,
            max_bytes=self.limits.event_bytes,
        )


def uploads_of(deliveries: dict[str, Delivery]) -> list[Any]:
    """Return the contents or the failures of the deliveries, in order of arrival."""
    return [delivery.event for delivery in deliveries.values()]


def all_uploads(batches: Iterable[BatchWork], kind: Callable[[BatchWork], dict[str, Delivery]]) -> list[Any]:
    """Return the contents, or the failures, of all these batches."""
    return [delivery.event for batch in batches for delivery in kind(batch).values()]


def in_pages(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yield the items in slices of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
