"""Builds records like the samples in tests/data/contract, and deliveries of them."""

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

from service.domain import incoming as events
from service.domain.delivery import Delivery
from service.domain.events import Incoming, Rejection
from service.domain.topics import ASSOCIATIONS_CONFIRMED, BATCH_REGISTERED, CONTENT_PROVISIONED, VALIDATION_FAILED

CONTRACT = Path(__file__).parents[2] / "data" / "contract"
MEBIBYTE = 1024 * 1024

_offsets = count()


@lru_cache
def _sample(name: str) -> str:
    return (CONTRACT / f"in.{name}.json").read_text()


def _envelope(sample: str, **data: Any) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(_sample(sample))
    envelope["event_id"] = str(uuid4())
    envelope["data"] |= data
    return envelope


def registration(batch_id: str, essay_ids: Sequence[str], **data: Any) -> bytes:
    """Returns a BatchEssaysRegistered."""
    expected = {"expected_essay_count": len(essay_ids)}
    envelope = _envelope(
        "batch_essays_registered", batch_id=batch_id, essay_ids=list(essay_ids), **{**expected, **data}
    )
    return json.dumps(envelope).encode()


def content(batch_id: str, text: str, **data: Any) -> bytes:
    """Returns an EssayContentProvisioned; `text` names the content and its upload."""
    envelope = _envelope(
        "essay_content_provisioned",
        **{
            "batch_id": batch_id,
            "text_storage_id": text,
            "file_upload_id": f"upload-{text}",
            "original_file_name": f"{text}.txt",
            **data,
        },
    )
    return json.dumps(envelope).encode()


def failure(batch_id: str, upload: str, **data: Any) -> bytes:
    """Returns an EssayValidationFailed."""
    envelope = _envelope("essay_validation_failed", **{"batch_id": batch_id, "file_upload_id": upload, **data})
    return json.dumps(envelope).encode()


def confirmation(batch_id: str, class_id: str | None, associations: int = 1) -> bytes:
    """Returns a StudentAssociationsConfirmed."""
    envelope = _envelope("student_associations_confirmed", batch_id=batch_id, class_id=class_id)
    envelope["data"]["associations"] = envelope["data"]["associations"][:1] * associations
    return json.dumps(envelope).encode()


def delivery(
    topic: str,
    value: bytes | None,
    *,
    key: bytes | None = b"key",
    partition: int = 0,
    offset: int | None = None,
    headers: Sequence[tuple[str, bytes | None]] = (),
    event: Incoming | Rejection | None = None,
) -> Delivery:
    """Returns the delivery of a value; with `event`, as if that had been decoded from it."""
    decoded = event or events.decode(topic, value, max_bytes=16 * MEBIBYTE)
    return Delivery(topic, partition, next(_offsets) if offset is None else offset, key, value, headers, decoded)


def registered(batch_id: str, *essay_ids: str, **data: Any) -> Delivery:
    """Returns the delivery of a registration."""
    return delivery(BATCH_REGISTERED, registration(batch_id, essay_ids, **data))


def confirmed(batch_id: str, class_id: str | None) -> Delivery:
    """Returns the delivery of a confirmation."""
    return delivery(ASSOCIATIONS_CONFIRMED, confirmation(batch_id, class_id))


def provisioned(batch_id: str, text: str, **data: Any) -> Delivery:
    """Returns the delivery of a content."""
    return delivery(CONTENT_PROVISIONED, content(batch_id, text, **data))


def failed(batch_id: str, upload: str, **data: Any) -> Delivery:
    """Returns the delivery of a validation failure."""
    return delivery(VALIDATION_FAILED, failure(batch_id, upload, **data))
