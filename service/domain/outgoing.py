"""Builds the events that this service publishes, as bytes.

The TypedDicts of `contract` describe them: mypy checks the builders against them, tests validate the results with them
(pydantic reads TypedDicts), and they cost nothing at run time. An event that is built again for the same subject has
the same id. An event that is larger than its topic allows raises Unpublishable here, before the commit. Lists are read
in pages, so that only the payload is in memory.
"""

from collections.abc import AsyncIterable, Sequence
from datetime import datetime
from typing import Any

from service.domain.contract import (
    BatchReady,
    Cancelled,
    ExcessContent,
    ExcessReason,
    PendingExpired,
    ProvisioningCompleted,
    ReadinessTimeout,
    ReadyEssay,
    SlotAssigned,
)
from service.domain.enveloped import Origin, Outgoing, batch_entity, batch_metadata, paged_event, small_event
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    READINESS_TIMEOUT,
    SLOT_ASSIGNED,
    CancelReason,
    CourseCode,
    rfc3339,
)


def slot_assigned(
    batch_id: str,
    essay_id: str,
    text_storage_id: str,
    file_upload_id: str,
    original_file_name: str,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build EssaySlotAssigned: a content took a slot. Raises Unpublishable, as the other functions do."""
    time = rfc3339(now)
    data: SlotAssigned = {
        "event": "essay.slot.assigned",
        "batch_id": batch_id,
        "essay_id": essay_id,
        "file_upload_id": file_upload_id,
        "text_storage_id": text_storage_id,
        "original_file_name": original_file_name,
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return small_event(SLOT_ASSIGNED, batch_id, text_storage_id, data, origin, time, max_bytes)


def excess_content(
    batch_id: str,
    text_storage_id: str,
    original_file_name: str,
    reason: ExcessReason,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build ExcessContentProvisioned: a content found no open slot."""
    time = rfc3339(now)
    data: ExcessContent = {
        "event": "excess.content.provisioned",
        "batch_id": batch_id,
        "original_file_name": original_file_name,
        "text_storage_id": text_storage_id,
        "reason": reason,
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return small_event(EXCESS_CONTENT, batch_id, text_storage_id, data, origin, time, max_bytes)


def pending_expired(
    batch_id: str,
    text_storage_id: str,
    file_upload_id: str,
    original_file_name: str,
    stored_at: datetime,
    expired_at: datetime,
    origin: Origin,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build PendingContentExpired: the registration of a content did not arrive in time.

    Restored content can expire again, which is another event. So the time is part of the subject.
    """
    time = rfc3339(expired_at)
    data: PendingExpired = {
        "event": "pending.content.expired",
        "batch_id": batch_id,
        "text_storage_id": text_storage_id,
        "original_file_name": original_file_name,
        "file_upload_id": file_upload_id,
        "stored_at": rfc3339(stored_at),
        "expired_at": time,
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return small_event(PENDING_EXPIRED, batch_id, time + text_storage_id, data, origin, time, max_bytes)


async def batch_completed(
    batch_id: str,
    course_code: CourseCode,
    user_id: str,
    class_id: str | None,
    essays: AsyncIterable[Sequence[tuple[str, str]]],
    assigned: int,
    expected: int,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build BatchContentProvisioningCompleted: every slot is taken, and `assigned` of the `expected` have content.

    `essays` are pages as in `batch_ready`.
    """
    time = rfc3339(now)
    data: ProvisioningCompleted = {
        "event": "batch.content.provisioning.completed",
        "batch_id": batch_id,
        "provisioned_count": assigned,
        "expected_count": expected,
        "course_code": course_code,
        "user_id": user_id,
        "class_id": class_id,
        "essays_for_processing": [],
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return await paged_event(
        BATCH_COMPLETED, batch_id, data, origin, time, max_bytes, ("essays_for_processing", essays, _ready_essay)
    )


async def batch_ready(
    batch_id: str,
    course_code: CourseCode,
    essay_instructions: str,
    class_id: str | None,
    student_prompt_ref: dict[str, Any] | None,
    essays: AsyncIterable[Sequence[tuple[str, str]]],
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build BatchEssaysReady: every slot is taken, and the class is confirmed where that is waited for.

    `essays` are pages of (essay_id, text_storage_id) in slot order.
    """
    time = rfc3339(now)
    data: BatchReady = {
        "event": "batch.essays.ready",
        "batch_id": batch_id,
        "ready_essays": [],
        "batch_entity": batch_entity(batch_id),
        "metadata": batch_metadata(batch_id, "batch.essays.ready", time),
        "course_code": course_code,
        "course_language": "en" if course_code.startswith("ENG") else "sv",
        "essay_instructions": essay_instructions,
        "class_type": "REGULAR" if class_id else "GUEST",
        "teacher_first_name": None,
        "teacher_last_name": None,
        "student_prompt_ref": student_prompt_ref,
    }
    return await paged_event(
        BATCH_READY, batch_id, data, origin, time, max_bytes, ("ready_essays", essays, _ready_essay)
    )


async def readiness_timeout(
    batch_id: str,
    essays: AsyncIterable[Sequence[tuple[str, str]]],
    missing_essay_ids: AsyncIterable[Sequence[str]],
    expected: int,
    assigned: int,
    timeout_seconds: int,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build BatchReadinessTimeout: a batch is not complete in time. `missing_essay_ids` are those of the open slots.

    `essays` are pages as in `batch_ready`.
    """
    time = rfc3339(now)
    data: ReadinessTimeout = {
        "event": "batch.readiness.timeout",
        "batch_id": batch_id,
        "ready_essays": [],
        "missing_essay_ids": [],
        "expected_count": expected,
        "actual_count": assigned,
        "timeout_duration_seconds": timeout_seconds,
        "metadata": batch_metadata(batch_id, "batch.readiness.timeout", time),
    }
    return await paged_event(
        READINESS_TIMEOUT,
        batch_id,
        data,
        origin,
        time,
        max_bytes,
        ("ready_essays", essays, _ready_essay),
        ("missing_essay_ids", missing_essay_ids, str),
    )


def batch_cancelled(
    batch_id: str,
    reason: CancelReason,
    expected: int,
    assigned: int,
    failed: int,
    origin: Origin,
    now: datetime,
    *,
    max_bytes: int,
) -> Outgoing:
    """Build BatchCancelled: an operator has cancelled the batch. `assigned` and `failed` count its taken slots."""
    time = rfc3339(now)
    data: Cancelled = {
        "event": "batch.cancelled",
        "batch_id": batch_id,
        "reason": reason,
        "expected_count": expected,
        "assigned_count": assigned,
        "failed_count": failed,
        "correlation_id": origin.correlation_id,
        "timestamp": time,
    }
    return small_event(BATCH_CANCELLED, batch_id, "", data, origin, time, max_bytes)


def _ready_essay(essay: tuple[str, str]) -> ReadyEssay:
    return {"essay_id": essay[0], "text_storage_id": essay[1]}
