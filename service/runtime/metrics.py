"""Defines the Prometheus metrics of a process. No label holds a batch id: numbers per batch are in views of `ops`."""

from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from aiokafka import TopicPartition
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Metric, generate_latest

# A quantile is interpolated within a bucket, so its error may be as large as that: each bound is at most 2.5 times the
# one before it. Bounds of earlier releases stay, since rules may name them (`le`).
_TO_A_SECOND: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_TO_AN_HOUR: Final = (2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 2400, 3600)
WAITING_BUCKETS: Final = (*_TO_A_SECOND, *_TO_AN_HOUR, *(hours * 3600 for hours in (2, 4, 6, 12, 24, 48, 96, 168)))
"""For what may wait until somebody has registered a batch or uploaded a file: up to a week."""

PENDING_STORED = Counter("els_pending_content_stored_total", "Contents stored for a batch that was not registered yet.")
PENDING_RECONCILED = Counter(
    "els_pending_content_reconciled_total", "Pending contents whose batch was registered, by outcome.", ["outcome"]
)
PENDING_AGE = Histogram(
    "els_pending_content_age_seconds",
    "Time that a content had waited when its batch was registered.",
    buckets=WAITING_BUCKETS,
)
EXPIRED = Counter("els_pending_content_expired_total", "Contents whose batch was not registered in time.")
EXCESS = Counter("els_excess_content_total", "Contents that found no open slot in their batch.", ["reason"])
SLOTS_ASSIGNED = Counter("els_slots_assigned_total", "Slots assigned to a content.")
BATCHES_REGISTERED = Counter("els_batches_registered_total", "Batches registered.")
BATCHES_WAITING = Counter(
    "els_batches_waiting_for_class_total", "Batches that became complete before their class was confirmed."
)
CONFIRMATIONS = Counter(
    "els_confirmations_total", "Confirmations of students, by outcome: pending, applied, unused.", ["outcome"]
)
BATCHES_READY = Counter("els_batches_ready_total", "Batches announced as ready.")
BATCHES_FAILED = Counter("els_batches_failed_total", "Batches whose slots were all taken by failures.")
BATCH_READY_SECONDS = Histogram(
    "els_batch_ready_seconds",
    "Time from the registration of a batch until it is ready.",
    buckets=WAITING_BUCKETS,
)
BATCHES_TIMED_OUT = Counter("els_batches_timed_out_total", "Batches reported because they were not complete in time.")
PURGED = Counter("els_purged_total", "Rows handled by purge rounds, by purge task.", ["chore"])
QUARANTINED = Counter("els_quarantined_total", "Rejected inputs (dead letters).", ["reason"])
VALIDATION_FAILURES = Counter("els_validation_failures_total", "Validation failures, by outcome.", ["outcome"])
DUPLICATES = Counter(
    "els_duplicates_total",
    "Duplicate inputs, by kind: content, failure, confirmation, registration, refusal (rejection).",
    ["event"],
)
REGISTRATION_DIFFERENCES = Counter(
    "els_registration_differences_total", "Repeated registrations that differ from the first.", ["field"]
)
CONTENT_DIFFERENCES = Counter(
    "els_content_differences_total", "Repeated contents that name another file than the first.", ["field"]
)
LOST_INPUTS = Counter("els_inputs_lost_total", "Records that a topic no longer has, although unread.", ["topic"])
OTHER_CELLS_INPUTS = Counter(
    "els_inputs_of_other_cells_total", "Records that were skipped because they belong to other cells."
)
THROTTLED = Counter(
    "els_kafka_throttled_seconds_total", "Time for which brokers delayed a client because of a quota.", ["client"]
)
OUTBOX_PUBLISHED = Counter("els_outbox_published_total", "Events acknowledged by the broker.", ["topic"])
EVENT_TO_PUBLISH = Histogram(
    "els_event_to_publish_seconds",
    "Time from the commit of an event until the broker acknowledged it.",
    buckets=(0.002, 0.004, 0.008, 0.015, *_TO_A_SECOND[1:], *_TO_AN_HOUR),
)
CONSUMER_LAG = Gauge(
    "els_consumer_lag", "Consumer lag in records, for each partition of this process.", ["topic", "partition"]
)
TRANSACTION = Histogram(
    "els_transaction_seconds",
    "Duration of a transaction, including its commit.",
    ["step"],
    buckets=(0.001, 0.0025, 0.005, *_TO_A_SECOND, 2.5, 5, 10, 20, 30, 60),
)

HTTP_REJECTED = Counter(
    "els_http_rejected_total",
    "Requests and connections that were rejected: malformed, token, connections, origin.",
    ["reason"],
)
LOOP_BLOCKED = Gauge(
    "els_event_loop_blocked_seconds",
    "Longest time since the start for which the process computed and did not answer.",
)

for _label in ("malformed", "token", "connections", "origin"):
    HTTP_REJECTED.labels(_label)
for _label in ("assigned", "excess"):
    PENDING_RECONCILED.labels(_label)
for _label in ("BATCH_FULL", "NO_AVAILABLE_SLOT"):
    EXCESS.labels(_label)


class _WithCell:
    """The metrics of the process, each with the label `cell`: those of all cells may be in one Prometheus."""

    def __init__(self, cell: int) -> None:
        self._cell = str(cell)

    def collect(self) -> Iterator[Metric]:
        for metric in REGISTRY.collect():
            labelled = Metric(metric.name, metric.documentation, metric.type, metric.unit)
            labelled.samples = [each._replace(labels={**each.labels, "cell": self._cell}) for each in metric.samples]
            yield labelled


def exposition(cell: int | None = None) -> bytes:
    """Return all metrics as Prometheus reads them, of one cell of several with its number as a label."""
    return generate_latest(REGISTRY if cell is None else _WithCell(cell))


def set_lag(tp: TopicPartition, records: int | None) -> None:
    """Set the lag of a partition in records. None removes it, when the partition is no longer assigned."""
    if records is None:
        with suppress(KeyError):
            CONSUMER_LAG.remove(tp.topic, str(tp.partition))
    else:
        CONSUMER_LAG.labels(tp.topic, str(tp.partition)).set(records)


def observe_many(histogram: Histogram, value: float, number: int) -> None:
    """Observe the same value so many times, as one change. The library has no such method."""
    histogram._sum.inc(value * number)  # noqa: SLF001
    bucket = bisect_left(histogram._upper_bounds, value)  # noqa: SLF001
    histogram._buckets[bucket].inc(number)  # noqa: SLF001
