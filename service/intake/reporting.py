"""Counts and logs the effects of a transaction after its commit."""

import asyncio
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import structlog
from prometheus_client import Counter

from service.domain.delivery import Delivery
from service.domain.events import Rejection, trace_id_of
from service.domain.rejected_values import read_subject
from service.intake.outcome import EffectKind, EffectRecord, Effects
from service.runtime import metrics
from service.runtime.logging import log_many

# Created with their labels at import, so that each counter starts at 0 and its first increase is visible.
_COUNTERS: Mapping[EffectKind, Counter] = {
    "batch_registered": metrics.BATCHES_REGISTERED,
    "batch_completed": metrics.BATCHES_WAITING,
    "batch_ready": metrics.BATCHES_READY,
    "batch_failed": metrics.BATCHES_FAILED,
    "content_pending": metrics.PENDING_STORED,
    "content_assigned": metrics.SLOTS_ASSIGNED,
    "failure_pending": metrics.VALIDATION_FAILURES.labels("pending"),
    "failure_slot": metrics.VALIDATION_FAILURES.labels("slot"),
    "failure_surplus": metrics.VALIDATION_FAILURES.labels("surplus"),
    "confirmation_pending": metrics.CONFIRMATIONS.labels("pending"),
    "confirmation_applied": metrics.CONFIRMATIONS.labels("applied"),
    "confirmation_unused": metrics.CONFIRMATIONS.labels("unused"),
    "content_repeated": metrics.DUPLICATES.labels("content"),
    "failure_repeated": metrics.DUPLICATES.labels("failure"),
    "confirmation_repeated": metrics.DUPLICATES.labels("confirmation"),
    "registration_repeated": metrics.DUPLICATES.labels("registration"),
    "rejection_repeated": metrics.DUPLICATES.labels("refusal"),
}

AT_ONCE: Final = 1_000
"""How many records are counted and logged before other tasks run: a transaction may have a hundred thousand."""

_log = structlog.get_logger(__name__)


async def report(effects: Effects) -> None:
    """Count and log the effects of a transaction. Call it after the commit."""
    _count_findings(effects)
    records = iter(effects.records)
    while some := list(islice(records, AT_ONCE)):
        _count(some)
        with suppress(OSError):  # also if the log cannot be written, the effects are counted
            log_many((each.kind, _fields(each)) for each in some)
        if len(some) == AT_ONCE:
            await asyncio.sleep(0)
    _log_findings(effects)


def _count_findings(effects: Effects) -> None:
    for _, rejection in effects.rejected:
        metrics.QUARANTINED.labels(str(rejection.reason)).inc()
    for _, names in effects.differences:
        for name in names:
            metrics.REGISTRATION_DIFFERENCES.labels(name).inc()
    for _, other_file in effects.other_files:
        for name in other_file.fields:
            metrics.CONTENT_DIFFERENCES.labels(name).inc()


def _log_findings(effects: Effects) -> None:
    for delivery, names in effects.differences:
        _log.warning("registration_differs", **_known_ids(delivery), fields=names)
    for batch_id in effects.erased_batches:
        _log.warning("erased_user_registered", batch_id=batch_id)
    for delivery, (known, repeat, fields) in effects.other_files:
        _log.warning(
            "content_differs",
            **_known_ids(delivery),
            first={name: getattr(known, name) for name in fields},
            repeat={name: getattr(repeat, name) for name in fields},
        )
    for delivery, rejection in effects.rejected:
        _log.warning("input_rejected", **_known_ids(delivery), reason=rejection.reason, error=rejection.error)


def _known_ids(delivery: Delivery) -> dict[str, Any]:
    """Return where an input stands, and the ids that are known of it, also where it is rejected."""
    event = delivery.event
    known = {name: getattr(event, name, None) for name in ("batch_id", "text_storage_id", "file_upload_id")}
    if isinstance(event, Rejection):
        subject = read_subject(delivery)
        known |= {"batch_id": subject.batch_id, "correlation_id": subject.correlation_id}
    else:
        known["correlation_id"] = event.correlation_id
    known["trace_id"] = trace_id_of(getattr(event, "traceparent", None))
    ids = {name: str(value) for name, value in known.items() if value is not None}
    return ids | {"topic": delivery.topic, "partition": delivery.partition, "offset": delivery.offset}


def _fields(record: EffectRecord) -> dict[str, Any]:
    """Return the fields of a line, in the order of `logging.FIRST`."""
    kind, batch_id, upload, correlation_id, delivery, detail, seconds, trace_id = record
    fields: dict[str, Any] = {}
    if batch_id is not None:
        fields["batch_id"] = batch_id
        if upload is not None:
            fields["text_storage_id" if kind[:8] == "content_" else "file_upload_id"] = upload
        fields["correlation_id"] = correlation_id
        if trace_id is not None:
            fields["trace_id"] = trace_id
    if delivery is not None:
        fields["topic"] = delivery.topic
        fields["partition"] = delivery.partition
        fields["offset"] = delivery.offset
    if detail is not None:
        fields["essay_id" if kind == "content_assigned" else "reason"] = detail
    if seconds is not None:
        fields["seconds"] = round(seconds, 3)
    return fields


def _count(records: Sequence[EffectRecord]) -> None:
    counts: Counts[EffectKind] = Counts()
    for each in records:
        counts[each.kind] += 1
        if each.kind == "content_excess":
            metrics.EXCESS.labels(each.detail).inc()
        if each.seconds is not None:
            _observe(each.kind, each.seconds)
    for kind, count in counts.items():
        if counter := _COUNTERS.get(kind):
            counter.inc(count)


def _observe(kind: EffectKind, seconds: float) -> None:
    if kind == "batch_ready":
        metrics.BATCH_READY_SECONDS.observe(seconds)
    elif kind.startswith("content_"):
        metrics.PENDING_RECONCILED.labels(kind.removeprefix("content_")).inc()
        metrics.PENDING_AGE.observe(seconds)
