"""Counts and logs what a transaction did, once it is committed."""

import asyncio
import logging
import sys
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
from prometheus_client import Counter

from service.runtime.logging import _plain_json

if TYPE_CHECKING:
    from service.domain.delivery import Delivery
    from service.intake.outcome import Decision, Effects
from service.runtime.metrics import (
    BATCH_READY,
    BATCHES_FAILED,
    BATCHES_READY,
    BATCHES_REGISTERED,
    DUPLICATES,
    EXCESS,
    PENDING_AGE,
    PENDING_RECONCILED,
    PENDING_STORED,
    QUARANTINED,
    REGISTRATION_DIFFERENCES,
    SLOTS_ASSIGNED,
    VALIDATION_FAILURES,
    _log,
)

# Made with their labels, so that each counts from 0 and its first step is seen.
_COUNTERS: Mapping[str, Counter] = {
    "batch_registered": BATCHES_REGISTERED,
    "batch_ready": BATCHES_READY,
    "batch_failed": BATCHES_FAILED,
    "content_pending": PENDING_STORED,
    "content_assigned": SLOTS_ASSIGNED,
    **{f"failure_{outcome}": VALIDATION_FAILURES.labels(outcome) for outcome in ("pending", "slot", "surplus")},
    **{f"{kind}_repeated": DUPLICATES.labels(kind) for kind in ("content", "failure", "registration", "refusal")},
}

AT_ONCE = 1_000
"""Decisions that are counted and logged before others have their turn: a transaction may have a hundred thousand."""


async def record(effects: "Effects") -> None:
    """Count and log what a transaction did. Call it when that is committed."""
    for _, refusal in effects.refused:
        QUARANTINED.labels(str(refusal.reason)).inc()
    for _, fields in effects.differences:
        for name in fields:
            REGISTRATION_DIFFERENCES.labels(name).inc()
    decisions = iter(effects.decisions)
    while some := list(islice(decisions, AT_ONCE)):
        _count(some)
        with suppress(OSError):  # a disk that is full for the log must not cost the counts
            _tell_decisions(some)
        if len(some) == AT_ONCE:
            await asyncio.sleep(0)
    for batch_id, fields in effects.differences:
        _log.warning("registration_differs_from_the_first", batch_id=batch_id, fields=fields)
    for delivery, refusal in effects.refused:
        _log.warning(
            "input_refused",
            topic=delivery.topic,
            partition=delivery.partition,
            offset=delivery.offset,
            reason=refusal.reason,
            error=refusal.error,
            **_named(delivery),
        )


def _named(delivery: "Delivery") -> dict[str, str]:
    """The batch and the correlation that a refused input names, where it could be read."""
    event = delivery.event
    return {name: str(getattr(event, name)) for name in ("batch_id", "correlation_id") if hasattr(event, name)}


def _tell_decisions(decisions: Sequence["Decision"]) -> None:
    """A line each. They are most of what is logged: as JSON they are written together, at a tenth of the cost."""
    if not _log.is_enabled_for(logging.INFO):
        return
    if _plain_json:
        ends = {"level": "info", "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
        lines = [orjson.dumps(_fields(each) | ends) for each in decisions]
        sys.stdout.write(b"\n".join([*lines, b""]).decode())
        sys.stdout.flush()
    else:
        for each in decisions:
            fields = _fields(each)
            _log.info(**{name: str(value) if isinstance(value, UUID) else value for name, value in fields.items()})


def _fields(decision: "Decision") -> dict[str, Any]:
    what, batch_id, upload, correlation_id, delivery, detail, seconds = decision
    fields: dict[str, Any] = {"event": what}
    if batch_id is not None:
        fields["batch_id"] = batch_id
        fields["correlation_id"] = correlation_id
    if upload is not None:
        fields["text_storage_id" if what.startswith("content_") else "file_upload_id"] = upload
    if detail is not None:
        fields["essay_id" if what == "content_assigned" else "reason"] = detail
    if seconds is not None:
        fields["seconds"] = round(seconds, 3)
    if delivery is not None:
        fields["topic"] = delivery.topic
        fields["partition"] = delivery.partition
        fields["offset"] = delivery.offset
    return fields


def _count(decisions: Sequence["Decision"]) -> None:
    counts: Counts[str] = Counts()
    for each in decisions:
        counts[each.what] += 1
        if each.what == "content_excess":
            EXCESS.labels(each.detail).inc()
        if each.seconds is not None:
            _observe(each.what, each.seconds)
    for what, count in counts.items():
        if counter := _COUNTERS.get(what):
            counter.inc(count)


def _observe(what: str, seconds: float) -> None:
    if what == "batch_ready":
        BATCH_READY.observe(seconds)
    elif what.startswith("content_"):
        PENDING_RECONCILED.labels(what.removeprefix("content_")).inc()
        PENDING_AGE.observe(seconds)
