"""Reads the samples of the contract, changes them, and decodes them."""

import json
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from service.domain import events as events_
from service.domain.enveloped import Origin
from service.domain.events import (
    Incoming,
    Reason,
    Rejection,
)
from service.domain.incoming import decode
from service.domain.topics import (
    CONTENT_PROVISIONED,
)

DATA = Path(__file__).parents[2] / "data"
MIB = 1024 * 1024
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CORRELATION = UUID("7d4c1f0e-2f43-4c55-9e0b-7f1f3c0b8a11")
BATCH = "5f0c9b7e-6a64-4b0e-9a0b-2f7e1f1d4c01"
ORIGIN = Origin(CORRELATION)
NOW = datetime(2026, 1, 15, 9, 30, 1, tzinfo=UTC)
ABSENT = object()


def sample(name: str) -> dict[str, Any]:
    """Returns a sample of the contract."""
    return json.loads((DATA / "contract" / f"{name}.json").read_text())  # type: ignore[no-any-return]


REGISTRATION = sample("in.batch_essays_registered")
CONTENT = sample("in.essay_content_provisioned")
FAILURE = sample("in.essay_validation_failed")
CONFIRMATION = sample("in.student_associations_confirmed")
SAMPLES = [REGISTRATION, CONTENT, FAILURE]
EVERY = [*SAMPLES, CONFIRMATION]
NEWER = [sample("in.batch_essays_registered.newer"), sample("in.essay_content_provisioned.newer")]


def text(document: object) -> bytes:
    """Returns a document as JSON."""
    return json.dumps(document).encode()


def read(document: dict[str, Any] | bytes, topic: str | None = None) -> Incoming | Rejection:
    """Returns what is decoded from a document."""
    if isinstance(document, bytes):
        return decode(topic or CONTENT_PROVISIONED, document, max_bytes=16 * MIB)
    return decode(topic or document["event_type"], text(document), max_bytes=16 * MIB)


def having(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The document with another value at a dotted path, or none."""
    changed = deepcopy(document)
    *parents, last = path.split(".")
    place = changed
    for parent in parents:
        place = place[parent]
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return changed


def reason(document: dict[str, Any] | bytes, topic: str | None = None) -> Reason | None:
    """Returns why a document is rejected; None where it is accepted."""
    answer = read(document, topic)
    if not isinstance(answer, Rejection):
        return None
    assert 0 < len(answer.error) <= events_.LONGEST_ERROR
    assert "\0" not in answer.error
    answer.error.encode()
    return answer.reason
