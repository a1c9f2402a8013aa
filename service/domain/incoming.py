"""The wire, inward: what may arrive on our topics, and `decode`, which turns a record's bytes into it.

`decode` answers every value with an event or with a `Refusal`, and raises for none, whatever the bytes.
What it accepts can be kept: no NUL or lone surrogate in any text of an event, no number that JSON or
PostgreSQL cannot hold, no nesting deeper than `DEEPEST`. What leaves is in `outgoing`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from itertools import accumulate, compress
from math import isfinite
from operator import not_, xor
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, FailFast, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema

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
MOST_ESSAYS = 100_000
DEEPEST = 64
LONGEST_ERROR = 2_000
INT64 = 2**63 - 1

CourseCode = Literal["ENG5", "ENG6", "ENG7", "SV1", "SV2", "SV3"]


@dataclass(frozen=True, slots=True)
class BatchRegistered:
    """A batch will hold these essays. `essay_instructions` is "" where the registration has none."""

    batch_id: str
    essay_ids: tuple[str, ...]
    course_code: CourseCode
    user_id: str
    essay_instructions: str
    class_id: str | None
    org_id: str | None
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


@dataclass(frozen=True, slots=True)
class ContentProvisioned:
    """A batch has this text. Producers that have not computed the MD5 send null for it."""

    batch_id: str
    text_storage_id: str
    file_upload_id: str
    original_file_name: str
    raw_file_storage_id: str
    file_size_bytes: int
    content_md5_hash: str | None
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


@dataclass(frozen=True, slots=True)
class ValidationFailed:
    """An upload yields no text. `error_detail` has all its ten fields, null or {} where none came."""

    batch_id: str
    file_upload_id: str
    original_file_name: str
    raw_file_storage_id: str
    validation_error_code: str
    error_detail: dict[str, Any]
    file_size_bytes: int
    failed_at: datetime
    correlation_id: UUID
    traceparent: str | None
    tracestate: str | None


Upload = ContentProvisioned | ValidationFailed
"""What can take a slot."""

Incoming = BatchRegistered | Upload


class Reason(StrEnum):
    """Why a record is in quarantine: a closed set of words, used as a metric's label."""

    NO_VALUE = "no_value"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    NOT_AN_ENVELOPE = "not_an_envelope"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    WRONG_TOPIC = "wrong_topic"
    UNKNOWN_SCHEMA_VERSION = "unknown_schema_version"
    INVALID_FIELD = "invalid_field"
    BATCH_IDS_DIFFER = "batch_ids_differ"
    NO_ESSAYS = "no_essays"
    COUNT_OUT_OF_RANGE = "count_out_of_range"
    COUNT_MISMATCH = "count_mismatch"
    DUPLICATE_ESSAY_ID = "duplicate_essay_id"
    # Not the wire's to find: the transaction, the encoder, the crash marks and the reader of record batches give these.
    CONFLICTING_REGISTRATION = "conflicting_registration"
    DATA_ERROR = "data_error"
    UNPUBLISHABLE = "unpublishable"
    KILLED_THE_PROCESS = "killed_the_process"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a record cannot be processed. `error` is for people: one line of at most `LONGEST_ERROR`."""

    reason: Reason
    error: str


class _Rfc3339:
    """Parsed in Rust, but only where it has the form: pydantic alone also takes "1768469400" for a time."""

    PATTERN = (
        r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
        r"([Zz]|[+-][0-9]{2}:[0-9]{2})?$"
    )

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema(pattern=cls.PATTERN, strict=True)
        return core_schema.chain_schema([text, core_schema.datetime_schema(strict=False)])


Timestamp = Annotated[datetime, _Rfc3339]
Id = Annotated[str, Field(min_length=1, max_length=255)]
Size = Annotated[int, Field(ge=0, le=INT64)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Metadata(_Strict):
    traceparent: Any = None
    tracestate: Any = None


class _Data(_Strict):
    """What all three share: the older generation names the batch `batch_id`, the newer `entity_id`."""

    event: str
    batch_id: Id | None = None
    entity_id: Id | None = None


class _Registration(_Data):
    expected_essay_count: int
    # Fails fast, or a list of eight million wrong elements would be as many errors in memory.
    essay_ids: Annotated[tuple[Id, ...], FailFast()]
    course_code: CourseCode
    user_id: str
    essay_instructions: str | None = None
    class_id: str | None = None
    org_id: str | None = None


class _Upload(_Data):
    file_upload_id: Id
    original_file_name: str
    raw_file_storage_id: Id
    file_size_bytes: Size
    correlation_id: UUID
    timestamp: Timestamp


class _Content(_Upload):
    text_storage_id: Id
    content_md5_hash: str | None


class _ErrorDetail(_Strict):
    error_code: str | None = None
    message: str
    correlation_id: UUID | None = None
    timestamp: Timestamp | None = None
    service: str | None = None
    operation: str | None = None
    details: dict[str, Any] | None = None
    stack_trace: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


class _Failure(_Upload):
    validation_error_code: str
    validation_error_detail: _ErrorDetail


_AnyData = TypeVar("_AnyData", bound=_Data)


class _Head(_Strict):
    """As much of an envelope as says whether it is ours to read at all."""

    event_type: Any = None
    schema_version: Any = None


class _Envelope(_Head, Generic[_AnyData]):
    event_id: UUID
    event_type: str
    event_timestamp: Timestamp
    source_service: str
    schema_version: int
    correlation_id: UUID
    data_schema_uri: str | None = None
    data: _AnyData
    metadata: _Metadata | None = None


def decode(topic: str, value: bytes | None, *, max_bytes: int) -> Incoming | Refusal:
    """The event that `value` (at most `max_bytes` long) is on `topic`, or why it is none."""
    if value is None:
        return _refused(Reason.NO_VALUE, "the record has no value")
    if len(value) > max_bytes:
        return _refused(Reason.TOO_LARGE, f"the value has {len(value)} bytes, more than {max_bytes}")
    if topic not in _READERS:
        return _refused(Reason.WRONG_TOPIC, f"no events are expected on the topic {topic[:255]!r}")
    if _too_deep(value):
        return _refused(Reason.TOO_DEEP, f"the JSON is nested deeper than {DEEPEST}")
    validate, read = _READERS[topic]
    try:
        envelope = validate(value)
    except ValidationError as trouble:
        mended = _lone_surrogates_as_nul(value)
        if mended != value:
            return decode(topic, mended, max_bytes=max_bytes)
        return _diagnosis(topic, value, trouble)
    return _misdirected(topic, envelope) or _keepable(read(envelope), value)


def _content(envelope: _Envelope[_Content]) -> ContentProvisioned | Refusal:
    data = envelope.data
    batch_id = _batch_id(data)
    if isinstance(batch_id, Refusal):
        return batch_id
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


def _registration(envelope: _Envelope[_Registration]) -> BatchRegistered | Refusal:
    data = envelope.data
    batch_id = _batch_id(data)
    if isinstance(batch_id, Refusal):
        return batch_id
    return _miscounted(data) or BatchRegistered(
        batch_id,
        data.essay_ids,
        data.course_code,
        data.user_id,
        data.essay_instructions or "",
        data.class_id,
        data.org_id,
        envelope.correlation_id,
        *_trace(envelope.metadata),
    )


def _failure(envelope: _Envelope[_Failure]) -> ValidationFailed | Refusal:
    data = envelope.data
    batch_id = _batch_id(data)
    if isinstance(batch_id, Refusal):
        return batch_id
    try:
        failed_at = _utc(data.timestamp)
        error_detail = _error_detail(data.validation_error_detail)
    except OverflowError:
        return _refused(Reason.INVALID_FIELD, "data: a timestamp lies outside the years 1 to 9999 in UTC")
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


# What each topic's value is: for whoever documents the wire.
ENVELOPE_OF: dict[str, Any] = {
    BATCH_REGISTERED: _Envelope[_Registration],
    CONTENT_PROVISIONED: _Envelope[_Content],
    VALIDATION_FAILED: _Envelope[_Failure],
}

_READ: dict[str, Callable[[Any], Incoming | Refusal]] = {
    BATCH_REGISTERED: _registration,
    CONTENT_PROVISIONED: _content,
    VALIDATION_FAILED: _failure,
}

_READERS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], Incoming | Refusal]]] = {
    topic: (envelope.__pydantic_validator__.validate_json, _READ[topic]) for topic, envelope in ENVELOPE_OF.items()
}


def _batch_id(data: _Data) -> str | Refusal:
    batch_id = data.batch_id or data.entity_id
    if batch_id is None:
        return _refused(Reason.INVALID_FIELD, "data.batch_id: neither batch_id nor entity_id is given")
    if data.entity_id is not None and data.entity_id != batch_id:
        return _refused(Reason.BATCH_IDS_DIFFER, "data.entity_id is given and differs from data.batch_id")
    return batch_id


def _miscounted(data: _Registration) -> Refusal | None:
    expected, given = data.expected_essay_count, len(data.essay_ids)
    if not given:
        return _refused(Reason.NO_ESSAYS, "data.essay_ids is empty")
    if not 1 <= expected <= MOST_ESSAYS:
        return _refused(Reason.COUNT_OUT_OF_RANGE, f"data.expected_essay_count is not between 1 and {MOST_ESSAYS}")
    if expected != given:
        return _refused(
            Reason.COUNT_MISMATCH, f"data.expected_essay_count is {expected}, but {given} essay_ids are given"
        )
    if len(set(data.essay_ids)) < given:
        return _refused(Reason.DUPLICATE_ESSAY_ID, "data.essay_ids names an essay twice")
    return None


def _error_detail(detail: _ErrorDetail) -> dict[str, Any]:
    kept = dict(detail)
    kept["correlation_id"] = str(detail.correlation_id) if detail.correlation_id else None
    kept["timestamp"] = rfc3339(_utc(detail.timestamp)) if detail.timestamp else None
    kept["details"] = detail.details or {}
    return kept


def _utc(moment: datetime) -> datetime:
    """Without a zone it is UTC. Raises OverflowError where UTC has no year for it."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


@lru_cache(maxsize=64)  # all that one poll writes has one time
def rfc3339(moment: datetime) -> str:
    """A moment in UTC as we write it: always with microseconds, so that text sorts as time does."""
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


# W3C Trace Context: neither id is all zeros, version ff is forbidden.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_TRACESTATE = re.compile(r"[ -~]{1,512}")


def _trace(metadata: _Metadata | None) -> tuple[str | None, str | None]:
    """(traceparent, tracestate), each only where it is well formed: a bad one is no reason to refuse."""
    if metadata is None or metadata.traceparent is None:
        return None, None
    parent, state = metadata.traceparent, metadata.tracestate
    if not isinstance(parent, str) or not _TRACEPARENT.fullmatch(parent):
        return None, None
    return parent, state if isinstance(state, str) and _TRACESTATE.fullmatch(state) else None


_BUT_MARKS = bytes(set(range(256)) - set(b'"[]{}'))
_AS_STEPS = bytes.maketrans(b'[{]}"', b"\x01\x01\xff\xff\x00")
_AS_QUOTES = bytes(mark == ord('"') for mark in range(256))


def _too_deep(value: bytes) -> bool:
    """Whether brackets outside strings nest deeper than `DEEPEST`; no loop of ours runs over the bytes.

    Few brackets cannot nest deep, and nearly every record ends there. Else only quotes and brackets are
    left of the text; a quote switches between outside and inside, so that two in a row are none.
    """
    if value.count(b"[") + value.count(b"{") <= DEEPEST:
        return False
    marks = value.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _BUT_MARKS).replace(b'""', b"")
    inside = accumulate(marks.translate(_AS_QUOTES), xor)
    steps = memoryview(marks.translate(_AS_STEPS)).cast("b")
    return DEEPEST + 1 in accumulate(compress(steps, map(not_, inside)))


_LONE_SURROGATE = re.compile(
    rb"(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def _lone_surrogates_as_nul(value: bytes) -> bytes:
    """JSON may escape half a surrogate pair, which the parser refuses wherever it stands.

    As NUL it parses, and is refused only where it is kept.
    """
    if b"\0" in value or b"\\u" not in value:
        return value
    # An escaped backslash before a "u" is no escape of a surrogate: out of the way, and back.
    return _LONE_SURROGATE.sub(rb"\\u0000", value.replace(rb"\\", b"\0")).replace(b"\0", rb"\\")


def _keepable(event: Incoming | Refusal, value: bytes) -> Incoming | Refusal:
    """The event, or its refusal where a text or a number in it cannot be kept."""
    # A NUL can come only as its escape, and free numbers only in a failure's details.
    if isinstance(event, Refusal) or not (isinstance(event, ValidationFailed) or rb"\u0000" in value):
        return event
    for field in fields(event):
        trouble = _unkeepable(getattr(event, field.name))
        if trouble:
            return _refused(Reason.INVALID_FIELD, f"{field.name}: {trouble}")
    return event


def _unkeepable(value: object) -> str | None:
    """What cannot be kept in `value`, which `_too_deep` keeps from being deep."""
    match value:
        case str():
            return "a NUL or a lone surrogate" if "\0" in value else None
        case float():
            return None if isfinite(value) else "a number that is not finite"
        case int():
            return None if -INT64 - 1 <= value <= INT64 else "an integer beyond 64 bits"
        case dict():
            return next(filter(None, (_unkeepable(part) for pair in value.items() for part in pair)), None)
        case list() | tuple():
            return next(filter(None, map(_unkeepable, value)), None)
    return None


def _misdirected(topic: str, head: _Head) -> Refusal | None:
    """An envelope of another kind than the topic's, or of a version that nobody told us about."""
    kind, version = head.event_type, head.schema_version
    if isinstance(kind, str) and kind != topic:
        known = kind in INCOMING_TOPICS or kind in OUTGOING_TOPICS
        reason = Reason.WRONG_TOPIC if known else Reason.UNKNOWN_EVENT_TYPE
        return _refused(reason, f"event_type is {kind[:255]!r} on the topic {topic!r}")
    if type(version) is int and version != SCHEMA_VERSION:
        return _refused(Reason.UNKNOWN_SCHEMA_VERSION, f"schema_version is not {SCHEMA_VERSION}")
    return None


def _diagnosis(topic: str, value: bytes, trouble: ValidationError) -> Refusal:
    """Which of the reasons it is that validation failed."""
    error = trouble.errors(include_url=False, include_context=False, include_input=False)[0]
    where, what = ".".join(map(str, error["loc"])), error["msg"]
    if error["type"] == "json_invalid":
        return _not_json(value, what)
    if not where:
        return _refused(Reason.NOT_AN_ENVELOPE, "the value is no JSON object")
    misdirected = _misdirected(topic, _Head.model_validate_json(value))
    if misdirected:
        return misdirected
    missing = error["type"] == "missing" and len(error["loc"]) == 1
    return _refused(Reason.NOT_AN_ENVELOPE if missing else Reason.INVALID_FIELD, f"{where}: {what}")


def _not_json(value: bytes, what: str) -> Refusal:
    try:
        value.decode()
    except UnicodeDecodeError as trouble:
        return _refused(Reason.NOT_UTF8, f"the value is not UTF-8 at byte {trouble.start}: {trouble.reason}")
    return _refused(Reason.NOT_JSON, what)


def _refused(reason: Reason, error: str) -> Refusal:
    """What is quoted from the input must itself be fit to be kept."""
    return Refusal(reason, error.replace("\0", "\\0")[:LONGEST_ERROR])
