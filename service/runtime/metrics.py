"""Metrics and logs. No label and no metric holds a batch id: numbers by batch are in the views."""

import asyncio
import io
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
import structlog
from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from service.intake.outcome import Decision, Delivery, Effects
    from service.purge.purge import Chunk

PENDING_STORED = Counter("els_pending_content_stored_total", "Contents kept for a batch not registered yet.")
PENDING_RECONCILED = Counter(
    "els_pending_content_reconciled_total", "Pending contents whose registration came.", ["outcome"]
)
PENDING_AGE = Histogram(
    "els_pending_content_age_seconds",
    "How long a content had waited when its registration came.",
    buckets=(0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600),
)
PENDING_EXPIRED = Counter("els_pending_content_expired_total", "Contents whose registration did not come in time.")
EXCESS = Counter("els_excess_content_total", "Contents beyond the slots of their batch.", ["reason"])
SLOTS_ASSIGNED = Counter("els_slots_assigned_total", "Slots that a content has taken.")
BATCHES_REGISTERED = Counter("els_batches_registered_total", "Batches registered.")
BATCHES_READY = Counter("els_batches_ready_total", "Batches announced as ready.")
BATCHES_FAILED = Counter("els_batches_failed_total", "Batches whose slots were all taken by failures.")
BATCH_READY = Histogram(
    "els_batch_ready_seconds",
    "From a batch's registration to its being ready.",
    buckets=(0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600),
)
BATCHES_TIMED_OUT = Counter("els_batches_timed_out_total", "Batches reported as not complete in time.")
PURGED = Counter("els_purged_total", "Rows that a purge has dealt with, by the count of its report.", ["chore"])
QUARANTINED = Counter("els_quarantined_total", "Inputs refused.", ["reason"])
VALIDATION_FAILURES = Counter(
    "els_validation_failures_total", "Validation failures, by what became of them.", ["outcome"]
)
DUPLICATES = Counter(
    "els_duplicates_total", "Inputs recognised as repeats: content, failure, registration, refusal.", ["event"]
)
REGISTRATION_DIFFERENCES = Counter(
    "els_registration_differences_total", "Repeated registrations that differ from the first.", ["field"]
)
OUTBOX_PUBLISHED = Counter("els_outbox_published_total", "Outbox rows that the broker has acknowledged.", ["topic"])
EVENT_TO_PUBLISH = Histogram(
    "els_event_to_publish_seconds",
    "From the commit of an outbox row to its acknowledgement by the broker.",
    buckets=(0.002, 0.004, 0.008, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300, 3600),
)
CONSUMER_LAG = Gauge("els_consumer_lag", "Records that wait in a partition of this process.", ["topic", "partition"])
TRANSACTION = Histogram(
    "els_transaction_seconds",
    "How long a transaction took, its commit included.",
    ["step"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
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
for _label in ("assigned", "excess"):
    PENDING_RECONCILED.labels(_label)
for _label in ("BATCH_FULL", "NO_AVAILABLE_SLOT"):
    EXCESS.labels(_label)

AT_ONCE = 1_000
"""Decisions that are counted and logged before others have their turn: a transaction may have a hundred thousand."""

_log = structlog.get_logger(__name__)

_plain_json = False
"""Whether lines are JSON on standard output, as `set_up_logging` has it; else structlog renders each."""


def tell_lag(topic: str, partition: int, records: int | None) -> None:
    """The lag of a partition of this process; None where it is not its partition any more."""
    if records is None:
        with suppress(KeyError):
            CONSUMER_LAG.remove(topic, str(partition))
    else:
        CONSUMER_LAG.labels(topic, str(partition)).set(records)


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


def record_purge(chunk: "Chunk") -> None:
    """Count and log what a transaction of a purge did. Call it when that is committed."""
    PURGED.labels(chunk.chore).inc(len(chunk.done))
    match chunk.chore:
        case "expired_content":
            PENDING_EXPIRED.inc(len(chunk.done))
            for batch_id, text_storage_id, correlation_id in chunk.done:
                _log.warning(
                    "content_expired",
                    batch_id=batch_id,
                    text_storage_id=text_storage_id,
                    correlation_id=str(correlation_id),
                )
        case "expired_failures":
            for batch_id, file_upload_id in chunk.done:
                _log.info("failure_expired", batch_id=batch_id, file_upload_id=file_upload_id)
        case "timed_out_batches":
            BATCHES_TIMED_OUT.inc(len(chunk.done))
            for (batch_id,) in chunk.done:
                _log.warning("batch_timed_out", batch_id=batch_id)
        case deleted:
            _log.info(deleted, rows=len(chunk.done))


def set_up_logging(level: str, form: str) -> None:
    """One JSON object a line on standard output, or lines for people (`console`)."""
    global _plain_json  # noqa: PLW0603  as structlog's own configuration is
    _plain_json = form == "json"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows no Unicode
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()]
        if form == "json"
        else [structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    )
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    # What the libraries say goes the same way. aiokafka tells of every lost connection, many times a second; psycopg of
    # what a pipeline left undone behind the statement that failed, whose error is raised.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("psycopg").setLevel(logging.ERROR)
