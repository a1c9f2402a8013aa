"""The topics by name, what a record of each may weigh, and how times are written."""

from datetime import datetime
from functools import lru_cache
from typing import Literal

BATCH_REGISTERED = "huleedu.batch.essays.registered.v1"

CONTENT_PROVISIONED = "huleedu.file.essay.content.provisioned.v1"

VALIDATION_FAILED = "huleedu.file.essay.validation.failed.v1"

SLOT_ASSIGNED = "huleedu.els.essay.slot.assigned.v1"

BATCH_READY = "huleedu.els.batch.essays.ready.v1"

EXCESS_CONTENT = "huleedu.els.excess.content.provisioned.v1"

VALIDATION_ERRORS = "huleedu.els.batch.validation.errors.v1"

PENDING_EXPIRED = "huleedu.els.pending.content.expired.v1"

READINESS_TIMEOUT = "huleedu.els.batch.readiness.timeout.v1"

INCOMING_TOPICS = (BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED)

OUTGOING_TOPICS = (
    SLOT_ASSIGNED,
    BATCH_READY,
    EXCESS_CONTENT,
    VALIDATION_ERRORS,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
)

ORDINARY_RECORD = 2 * 1024 * 1024
"""Bytes that an outgoing topic takes in one record: an event built from an input of 1 MiB always fits."""

LARGEST_RECORD = 32 * 1024 * 1024
"""Bytes that the topics of registrations take in one record, and those of events that list slots."""

RECORD_ROOM = 64 * 1024
"""Bytes of a record that are for its key and headers and those of its batch; a value has the rest."""

SCHEMA_VERSION = 1

CourseCode = Literal["ENG5", "ENG6", "ENG7", "SV1", "SV2", "SV3"]


@lru_cache(maxsize=64)  # all that one poll writes has one time
def rfc3339(moment: datetime) -> str:
    """A moment in UTC as we write it: always with microseconds, so that text sorts as time does."""
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
