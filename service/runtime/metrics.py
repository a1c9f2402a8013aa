"""Metrics and logs. No label and no metric holds a batch id: numbers by batch are in the views."""

from contextlib import suppress

from aiokafka import TopicPartition
from prometheus_client import Counter, Gauge, Histogram

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
QUARANTINED = Counter("els_quarantined_total", "Inputs rejected.", ["reason"])
VALIDATION_FAILURES = Counter(
    "els_validation_failures_total", "Validation failures, by what became of them.", ["outcome"]
)
DUPLICATES = Counter(
    "els_duplicates_total", "Inputs recognised as repeats: content, failure, registration, rejection.", ["event"]
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

for _label in ("assigned", "excess"):
    PENDING_RECONCILED.labels(_label)
for _label in ("BATCH_FULL", "NO_AVAILABLE_SLOT"):
    EXCESS.labels(_label)


def set_lag(tp: TopicPartition, records: int | None) -> None:
    """Set the lag of a partition of this process; None removes it, since the partition is not ours any more."""
    if records is None:
        with suppress(KeyError):
            CONSUMER_LAG.remove(tp.topic, str(tp.partition))
    else:
        CONSUMER_LAG.labels(tp.topic, str(tp.partition)).set(records)
