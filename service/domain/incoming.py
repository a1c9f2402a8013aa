"""Decodes the records of the input topics.

`decode` returns an event or a `Rejection` for every value, and never raises. An accepted event can be stored: no text
in it contains NUL or a lone surrogate, no number is beyond what JSON and PostgreSQL can hold, and no value is nested
deeper than `DEEPEST`. The events that this service publishes are in `outgoing`.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from service.domain.envelopes import (
    ConfirmationData,
    ContentData,
    EnvelopeHead,
    FailureData,
    FailureDetail,
    IncomingEnvelope,
    InputData,
    InputMetadata,
    RegistrationData,
)
from service.domain.events import (
    LONGEST_ERROR,
    AssociationsConfirmed,
    BatchRegistered,
    ContentProvisioned,
    Incoming,
    Reason,
    Rejection,
    ValidationFailed,
)
from service.domain.input_limits import MOST_VALUES
from service.domain.json_limits import (
    DEEPEST,
    has_too_many_values,
    is_too_deep,
    lone_surrogates_as_nul,
    unstorable_part,
)
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    INCOMING_TOPICS,
    OUTGOING_TOPICS,
    SCHEMA_VERSION,
    VALIDATION_FAILED,
    rfc3339,
)

MOST_ESSAYS = 100_000

_Reader = Callable[[str, Any], Incoming | Rejection]
"""Makes an event of a batch id and a valid envelope."""


def decode(topic: str, value: bytes | None, *, max_bytes: int, max_values: int = MOST_VALUES) -> Incoming | Rejection:
    """Decode the value of a record on `topic` into an event or a rejection.

    It may have at most `max_bytes` bytes, and `max_values` JSON values.
    """
    if value is None:
        return _rejected(Reason.NO_VALUE, "the record has no value")
    if (size := len(value)) > max_bytes:
        return _rejected(Reason.TOO_LARGE, f"the value has {size} bytes, more than {max_bytes}")
    if topic not in _READERS:
        return _rejected(Reason.WRONG_TOPIC, f"no events are expected on the topic {topic[:255]!r}")
    if size > 2 * max_values and has_too_many_values(value, max_values):  # a value takes two bytes
        return _rejected(Reason.TOO_LARGE, f"the JSON has more than {max_values} values")
    if is_too_deep(value):
        return _rejected(Reason.TOO_DEEP, f"the JSON is nested deeper than {DEEPEST}")
    validate, read = _READERS[topic]
    try:
        envelope = validate(value)
    except ValidationError as error:
        without_surrogates = lone_surrogates_as_nul(value)
        if without_surrogates != value:
            return decode(topic, without_surrogates, max_bytes=max_bytes, max_values=max_values)
        return _diagnosis(topic, value, error)
    return _misdirected(topic, envelope) or _event(read, envelope, value)


def _content(batch_id: str, envelope: IncomingEnvelope[ContentData]) -> ContentProvisioned:
    data = envelope.data
    return ContentProvisioned(
        batch_id,
        data.text_storage_id,
        data.file_upload_id,
        data.original_file_name,
        data.raw_file_storage_id,
        data.file_size_bytes,
        data.content_md5_hash,
        envelope.correlation_id,
        *_trace(envelope.metadata),
    )


def _registration(batch_id: str, envelope: IncomingEnvelope[RegistrationData]) -> BatchRegistered | Rejection:
    data = envelope.data
    if unstorable := data.student_prompt_ref and unstorable_part(data.student_prompt_ref):
        return _rejected(Reason.INVALID_FIELD, f"data.student_prompt_ref: {unstorable}")
    return _miscounted(data) or BatchRegistered(
        batch_id,
        data.essay_ids,
        data.course_code,
        data.user_id,
        data.essay_instructions or "",
        data.class_id,
        data.org_id,
        data.student_prompt_ref,
        envelope.correlation_id,
        *_trace(envelope.metadata),
    )


def _failure(batch_id: str, envelope: IncomingEnvelope[FailureData]) -> ValidationFailed | Rejection:
    data = envelope.data
    try:
        failed_at = _utc(data.timestamp)
        error_detail = _error_detail(data.validation_error_detail)
    except OverflowError:
        return _rejected(Reason.INVALID_FIELD, "data: a timestamp lies outside the years 1 to 9999 in UTC")
    return ValidationFailed(
        batch_id,
        data.file_upload_id,
        data.original_file_name,
        data.raw_file_storage_id,
        data.validation_error_code,
        error_detail,
        data.file_size_bytes,
        failed_at,
        envelope.correlation_id,
        *_trace(envelope.metadata),
    )


def _confirmation(batch_id: str, envelope: IncomingEnvelope[ConfirmationData]) -> AssociationsConfirmed:
    data = envelope.data
    return AssociationsConfirmed(
        batch_id, data.class_id or "", len(data.associations), envelope.correlation_id, *_trace(envelope.metadata)
    )


ENVELOPE_OF: dict[str, Any] = {
    BATCH_REGISTERED: IncomingEnvelope[RegistrationData],
    CONTENT_PROVISIONED: IncomingEnvelope[ContentData],
    VALIDATION_FAILED: IncomingEnvelope[FailureData],
    ASSOCIATIONS_CONFIRMED: IncomingEnvelope[ConfirmationData],
}
"""The type of the value by topic, also for the generated AsyncAPI document."""

_READ: dict[str, _Reader] = {
    BATCH_REGISTERED: _registration,
    CONTENT_PROVISIONED: _content,
    VALIDATION_FAILED: _failure,
    ASSOCIATIONS_CONFIRMED: _confirmation,
}

_READERS: dict[str, tuple[Callable[[bytes], Any], _Reader]] = {
    topic: (envelope.__pydantic_validator__.validate_json, _READ[topic]) for topic, envelope in ENVELOPE_OF.items()
}


def _batch_id(data: InputData) -> str | Rejection:
    batch_id = data.batch_id or data.entity_id
    if batch_id is None:
        return _rejected(Reason.INVALID_FIELD, "data.batch_id: neither batch_id nor entity_id is given")
    if data.entity_id is not None and data.entity_id != batch_id:
        return _rejected(Reason.BATCH_IDS_DIFFER, "data.entity_id is given and differs from data.batch_id")
    return batch_id


def _miscounted(data: RegistrationData) -> Rejection | None:
    expected, given = data.expected_essay_count, len(data.essay_ids)
    if not given:
        return _rejected(Reason.NO_ESSAYS, "data.essay_ids is empty")
    if not 1 <= expected <= MOST_ESSAYS:
        what = f"data.expected_essay_count is {_number(expected)}, and not between 1 and {MOST_ESSAYS}"
        return _rejected(Reason.COUNT_OUT_OF_RANGE, what)
    if expected != given:
        return _rejected(
            Reason.COUNT_MISMATCH, f"data.expected_essay_count is {expected}, but {given} essay_ids are given"
        )
    if len(set(data.essay_ids)) < given:
        return _rejected(Reason.DUPLICATE_ESSAY_ID, "data.essay_ids names an essay twice")
    return None


def _error_detail(detail: FailureDetail) -> dict[str, Any]:
    kept = dict(detail)
    kept["correlation_id"] = str(detail.correlation_id) if detail.correlation_id else None
    kept["timestamp"] = rfc3339(_utc(detail.timestamp)) if detail.timestamp else None
    kept["details"] = detail.details or {}
    return kept


def _utc(time: datetime) -> datetime:
    """Return the time in UTC; a time without a zone is in UTC. Raises OverflowError beyond the years 1 to 9999."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


# W3C Trace Context: neither id is all zeros, version ff is forbidden.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[ -~]{1,512}")


def _trace(metadata: InputMetadata | None) -> tuple[str | None, str | None]:
    """Return (traceparent, tracestate), each only if valid: an invalid one does not reject the record."""
    if metadata is None or metadata.traceparent is None:
        return None, None
    parent, state = metadata.traceparent, metadata.tracestate
    if not isinstance(parent, str) or not _TRACEPARENT.fullmatch(parent):
        return None, None
    return parent, state if isinstance(state, str) and _TRACESTATE.fullmatch(state) else None


def _event(read: _Reader, envelope: IncomingEnvelope[Any], value: bytes) -> Incoming | Rejection:
    """Return the event, or its rejection, also where a text or a number in it cannot be stored."""
    batch_id = _batch_id(envelope.data)
    if isinstance(batch_id, Rejection):
        return batch_id
    event = read(batch_id, envelope)
    # A NUL can only arrive as its escape, and arbitrary numbers only in the details of a failure;
    # `student_prompt_ref` is checked in `_registration`.
    if not (isinstance(event, ValidationFailed) or rb"\u0000" in value) or isinstance(event, Rejection):
        return event
    for name, part in zip(event._fields, event, strict=True):
        if unstorable := unstorable_part(part):
            return _rejected(Reason.INVALID_FIELD, f"{name}: {unstorable}")
    return event


def _misdirected(topic: str, head: EnvelopeHead) -> Rejection | None:
    """Reject an envelope of another event type than the topic's, or of an unknown schema version."""
    kind, version = head.event_type, head.schema_version
    if isinstance(kind, str) and kind != topic:
        known = kind in INCOMING_TOPICS or kind in OUTGOING_TOPICS
        reason = Reason.WRONG_TOPIC if known else Reason.UNKNOWN_EVENT_TYPE
        return _rejected(reason, f"event_type is {kind[:255]!r} on the topic {topic!r}")
    if type(version) is int and version != SCHEMA_VERSION:
        return _rejected(
            Reason.UNKNOWN_SCHEMA_VERSION, f"schema_version is {_number(version)}, and not {SCHEMA_VERSION}"
        )
    return None


def _diagnosis(topic: str, value: bytes, validation_error: ValidationError) -> Rejection:
    """Find the reason why validation failed."""
    error = validation_error.errors(include_url=False, include_context=False)[0]
    where, what = ".".join(map(str, error["loc"])), error["msg"]
    if error["type"] == "json_invalid":
        return _not_json(value, what)
    if not where:
        return _rejected(Reason.NOT_AN_ENVELOPE, "the value is not a JSON object")
    misdirected = _misdirected(topic, EnvelopeHead.model_validate_json(value))
    if misdirected:
        return misdirected
    missing = error["type"] == "missing" and len(error["loc"]) == 1
    if error["type"] != "missing":
        what += f"; found: {_kind(error['input'])}"
    return _rejected(Reason.NOT_AN_ENVELOPE if missing else Reason.INVALID_FIELD, f"{where}: {what}")


def _kind(found: object) -> str:
    """Describe a JSON value without quoting it: it may be personal data, and of any length."""
    match found:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int():
            return "an integer"
        case float():
            return "a number that is no integer"
        case str():
            return f"a text of length {len(found)}"
        case list() | tuple():
            return f"a list of length {len(found)}"
        case _:
            return "an object"


def _number(value: int) -> str:
    """Write an integer; not one that has thousands of digits."""
    return str(value) if abs(value) < 10**18 else "a number of more than 18 digits"


def _not_json(value: bytes, what: str) -> Rejection:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        return _rejected(Reason.NOT_UTF8, f"the value is not UTF-8 at byte {error.start}: {error.reason}")
    return _rejected(Reason.NOT_JSON, what)


def _rejected(reason: Reason, error: str) -> Rejection:
    """Make a rejection. Its error may quote the input, so NUL is escaped: PostgreSQL cannot store it."""
    return Rejection(reason, error.replace("\0", "\\0")[:LONGEST_ERROR])
