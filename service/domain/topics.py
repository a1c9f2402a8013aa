"""Names the topics, the size limits of their records, and the format of times."""

from datetime import datetime
from functools import lru_cache
from typing import Literal

BATCH_REGISTERED = "huleedu.batch.essays.registered.v1"

CONTENT_PROVISIONED = "huleedu.file.essay.content.provisioned.v1"

VALIDATION_FAILED = "huleedu.file.essay.validation.failed.v1"

ASSOCIATIONS_CONFIRMED = "huleedu.class.student.associations.confirmed.v1"

SLOT_ASSIGNED = "huleedu.els.essay.slot.assigned.v1"

BATCH_COMPLETED = "huleedu.batch.content.provisioning.completed.v1"

BATCH_READY = "huleedu.els.batch.essays.ready.v1"

EXCESS_CONTENT = "huleedu.els.excess.content.provisioned.v1"

VALIDATION_ERRORS = "huleedu.els.batch.validation.errors.v1"

PENDING_EXPIRED = "huleedu.els.pending.content.expired.v1"

READINESS_TIMEOUT = "huleedu.els.batch.readiness.timeout.v1"

BATCH_CANCELLED = "huleedu.els.batch.cancelled.v1"

INCOMING_TOPICS = (BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED, ASSOCIATIONS_CONFIRMED)

LISTING_TOPICS = (BATCH_REGISTERED, ASSOCIATIONS_CONFIRMED)
"""The input topics whose events list all essays of a batch: the size limit of registrations holds for both."""

OUTGOING_TOPICS = (
    SLOT_ASSIGNED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    VALIDATION_ERRORS,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    BATCH_CANCELLED,
)

ORDINARY_RECORD = 2 * 1024 * 1024
"""Largest record of an ordinary output topic in bytes: an event that is built from an input of 1 MiB always fits."""

LARGEST_RECORD = 32 * 1024 * 1024
"""Largest record in bytes of the topics of events that list essays: registrations, confirmations, and our own."""

RECORD_ROOM = 64 * 1024
"""Bytes of a record that are reserved for its key and headers and those of its record batch; the value has the rest."""

LARGEST_VALUE = LARGEST_RECORD - RECORD_ROOM
"""Largest value in bytes that the relay sends as it is."""

LARGEST_COMPRESSED = LARGEST_VALUE + LARGEST_VALUE // 4
"""Largest value in bytes that the relay sends compressed, which is then well below `LARGEST_RECORD`."""

SCHEMA_VERSION = 1

CancelReason = Literal["WRONG_REGISTRATION", "WITHDRAWN", "DUPLICATE", "OTHER"]
"""Why an operator cancels a batch, as published."""

CourseCode = Literal["ENG5", "ENG6", "ENG7", "SV1", "SV2", "SV3"]


@lru_cache(maxsize=64)  # all events of a transaction have the same time
def rfc3339(time: datetime) -> str:
    """Format a time in UTC, always with microseconds, so that texts sort like times."""
    return time.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
