"""Builds what a recovery knows of batch b: announcements, inputs and stored rows."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from aiokafka import ConsumerRecord

from service.domain.decisions import essay_set_of
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    PENDING_EXPIRED,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.recovery.facts import Published, Received, announcement_of, received_of
from service.recovery.reconstruction import Reconstruction, reconstruct
from service.store.recovery import Content, Stored, StoredBatch, StoredContent, StoredSlot
from tests.support.builders.inputs import content, delivery, registration

MORNING = datetime(2026, 11, 29, 8, 0, 0, 123456, UTC)
CORRELATION = "7d4c1f0e-2f43-4c55-9e0b-7f1f3c0b8a11"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
"""As in the samples of the inputs."""


def stamp(second: int) -> str:
    return (MORNING + timedelta(seconds=second)).isoformat().replace("+00:00", "Z")


def published(topic: str, second: int, partition: int = 0, **data: Any) -> Published:
    """Returns an event of batch b, of this second, as it is read from its topic."""
    value = {
        "event_id": str(UUID(int=second)),
        "event_timestamp": stamp(second),
        "correlation_id": CORRELATION,
        "data": {"batch_id": "b", **data},
        "metadata": {"traceparent": TRACEPARENT},
    }
    at = int((MORNING + timedelta(seconds=second)).timestamp() * 1000)
    found = announcement_of(ConsumerRecord(topic, partition, second, at, 0, b"b", orjson.dumps(value), None, 0, 0, ()))
    assert found is not None
    return Published(*orjson.loads(orjson.dumps(tuple(found[1]))))  # as the ledger does


def assigned(essay_id: str, text: str, second: int, partition: int = 0, **more: Any) -> Published:
    named: dict[str, Any] = {"file_upload_id": f"upload-{text}", "original_file_name": f"{text}.txt"}
    return published(SLOT_ASSIGNED, second, partition, essay_id=essay_id, text_storage_id=text, **named | more)


def excess(text: str, second: int, reason: str = "BATCH_FULL") -> Published:
    named: dict[str, Any] = {"text_storage_id": text, "original_file_name": f"{text}.txt", "reason": reason}
    return published(EXCESS_CONTENT, second, **named)


def ready(second: int, *essays: tuple[str, str]) -> Published:
    listed = [{"essay_id": essay_id, "text_storage_id": text} for essay_id, text in essays]
    return published(BATCH_READY, second, ready_essays=listed)


def completed(second: int, *essays: tuple[str, str]) -> Published:
    listed = [{"essay_id": essay_id, "text_storage_id": text} for essay_id, text in essays]
    return published(BATCH_COMPLETED, second, essays_for_processing=listed)


EXPIRED = published(
    PENDING_EXPIRED,
    9,
    text_storage_id="t1",
    file_upload_id="upload-t1",
    original_file_name="t1.txt",
    stored_at=stamp(1),
    expired_at=stamp(9),
)


def received(topic: str, value: bytes, offset: int = 0) -> Received:
    found = received_of(delivery(topic, value, offset=offset))
    assert found is not None
    return Received(*orjson.loads(orjson.dumps(tuple(found[1]))))


def texts(*names: str) -> list[Received]:
    return [received(CONTENT_PROVISIONED, content("b", name), number) for number, name in enumerate(names)]


def essays(*ids: str) -> Received:
    return received(BATCH_REGISTERED, registration("b", ids))


def changes(
    announcements: Sequence[Published], inputs: Sequence[Received] = (), stored: Stored | None = None, **more: Any
) -> Reconstruction:
    return reconstruct("b", announcements, inputs, stored or Stored(), **more)


def filled(result: Reconstruction) -> list[tuple[str, int, str, str | None]]:
    """Returns the slots that are written: essay, position, state, and content or failed upload."""
    return [
        (
            slot.essay_id,
            slot.position,
            slot.state,
            slot.content.text_storage_id if slot.content else slot.file_upload_id,
        )
        for slot in result.slots
    ]


def stored_content(text: str) -> Content:
    return received(CONTENT_PROVISIONED, content("b", text)).content


def stored_batch(*slots: tuple[str, str | None], second: int = 0, excess: Sequence[str] = ()) -> Stored:
    """Returns a batch with these slots, by essay, each with its content."""
    at = MORNING + timedelta(seconds=second)
    rows = [
        StoredSlot(essay_id, number, "assigned", stored_content(text), None, at)
        if text
        else StoredSlot(essay_id, number, "open")
        for number, (essay_id, text) in enumerate(slots, start=1)
    ]
    taken = sum(text is not None for _, text in slots)
    batch = StoredBatch(
        essay_set_of([essay_id for essay_id, _ in slots]),
        at if taken == len(slots) else None,
        None,
        taken,
        0,
        len(slots),
        "ready" if taken == len(slots) else "registered",
        at if taken == len(slots) else None,
    )
    contents = [StoredContent("excess", "BATCH_FULL", at, None, stored_content(text)) for text in excess]
    return Stored(batch, rows, contents)


def ended_at(second: int) -> Any:
    return MORNING + timedelta(seconds=second)


def errors(second: int, *uploads: str, critical: bool = False) -> Published:
    failed = [{"essay_id": upload, "file_name": f"{upload}.txt", "error_detail": {}} for upload in uploads]
    return published(VALIDATION_ERRORS, second, failed_essays=failed, error_summary={"critical_failure": critical})


def cancelled(second: int, failed: int = 0, reason: str = "DUPLICATE") -> Published:
    return published(BATCH_CANCELLED, second, reason=reason, failed_count=failed)
