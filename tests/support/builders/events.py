"""Builds events, and deliveries of them, of batch b."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from service.domain.delivery import Delivery
from service.domain.events import (
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Incoming,
    Rejection,
    ValidationFailed,
)
from service.domain.topics import ASSOCIATIONS_CONFIRMED, BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED


def deliveries(*events: Incoming | Rejection) -> list[Delivery]:
    """The events as they come in a poll. The same event has the same value at every offset."""
    return [
        Delivery(_TOPICS.get(type(event), CONTENT_PROVISIONED), 0, offset, b"key", repr(event).encode(), (), event)
        for offset, event in enumerate(events)
    ]


_TOPICS: Mapping[type, str] = {
    BatchRegistered: BATCH_REGISTERED,
    ContentProvisioned: CONTENT_PROVISIONED,
    ValidationFailed: VALIDATION_FAILED,
    AssociationsConfirmed: ASSOCIATIONS_CONFIRMED,
}


def registration(batch_id: str = "b", essays: int | Sequence[str] = 1, **fields: Any) -> BatchRegistered:
    """A batch of so many essays, e1, e2, …, or of those named."""
    essay_ids = tuple(f"e{n + 1}" for n in range(essays)) if isinstance(essays, int) else tuple(essays)
    event = BatchRegistered(batch_id, essay_ids, "ENG5", "teacher", "", None, None, None, UUID(int=1), None, None)
    return event._replace(**fields)


def content(name: str, batch_id: str = "b", **fields: Any) -> ContentProvisioned:
    """The text `name`, from the upload of the same name."""
    origin = uuid5(NAMESPACE_OID, name)
    event = ContentProvisioned(
        batch_id, name, f"upload-{name}", f"{name}.txt", f"raw-{name}", 100, "md5", origin, None, None
    )
    return event._replace(**fields)


def failure(name: str, batch_id: str = "b", **fields: Any) -> ValidationFailed:
    """The upload `name` yields no text."""
    origin = uuid5(NAMESPACE_OID, name)
    detail = {"message": "no text"}
    failed_at = datetime(2026, 1, 15, tzinfo=UTC)
    event = ValidationFailed(
        batch_id, name, f"{name}.txt", f"raw-{name}", "EMPTY_CONTENT", detail, 0, failed_at, origin, None, None
    )
    return event._replace(**fields)


def confirmation(class_id: str = "8a", batch_id: str = "b", associations: int = 1) -> AssociationsConfirmed:
    """The class `class_id` is confirmed; "" names none."""
    return AssociationsConfirmed(batch_id, class_id, associations, uuid5(NAMESPACE_OID, class_id), None, None)
