"""Defines the JSON of incoming records as pydantic models, for both generations of producers."""

import json
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, GetCoreSchemaHandler, PlainValidator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from service.domain.events import (
    INT64,
)
from service.domain.topics import (
    CourseCode,
)


class _Rfc3339:
    """A timestamp in the form of RFC 3339, parsed by pydantic. pydantic alone also accepts "1768469400" as a time."""

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

Class = Annotated[str, Field(max_length=255)]
"""The id of a class, which is part of a key; "" names none."""

Name = Annotated[str, Field(max_length=1_024)]
"""A text that is kept and shown as one line: a file name, a user, an organisation, a code."""


def _fits(text: str) -> str:
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_TEXT:
        raise PydanticCustomError("text_too_long", "the text has more than {most} bytes", {"most": LONGEST_TEXT})
    return text


LONGEST_TEXT = 64 * 1024
Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_fits)]
"""Instructions and messages: at most 64 KiB in UTF-8."""


def _is_small(value: dict[str, Any]) -> dict[str, Any]:
    _fits(json.dumps(value, ensure_ascii=False))
    return value


SmallObject = Annotated[dict[str, Any], AfterValidator(_is_small)]
"""An object of any shape: at most 64 KiB of JSON."""

Size = Annotated[int, Field(ge=0, le=INT64)]


def _nothing(_: object) -> None:
    return None


class StrictModel(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class InputMetadata(StrictModel):
    traceparent: Any = None
    tracestate: Any = None


class InputData(StrictModel):
    """The fields that all inputs share. The older generation names the batch `batch_id`, the newer one `entity_id`."""

    batch_id: Id | None = None
    entity_id: Id | None = None


class NamedData(InputData):
    """An input with the field `event`: all but confirmations."""

    event: str


class RegistrationData(NamedData):
    expected_essay_count: int
    # FailFast, since a list of eight million wrong elements would make as many errors in memory.
    essay_ids: Annotated[tuple[Id, ...], FailFast()]
    course_code: CourseCode
    user_id: Name
    essay_instructions: Text | None = None
    class_id: Class | None = None
    org_id: Name | None = None
    student_prompt_ref: SmallObject | None = None


class UploadData(NamedData):
    file_upload_id: Id
    original_file_name: Name
    raw_file_storage_id: Id
    file_size_bytes: Size
    correlation_id: UUID
    timestamp: Timestamp


class ContentData(UploadData):
    text_storage_id: Id
    content_md5_hash: Name | None


class FailureDetail(StrictModel):
    error_code: Name | None = None
    message: Text
    correlation_id: UUID | None = None
    timestamp: Timestamp | None = None
    service: Name | None = None
    operation: Name | None = None
    details: dict[str, Any] | None = None
    stack_trace: str | None = None
    trace_id: Name | None = None
    span_id: Name | None = None


class FailureData(UploadData):
    validation_error_code: Name
    validation_error_detail: FailureDetail


class ConfirmationData(InputData):
    associations: list[Annotated[None, PlainValidator(_nothing, json_schema_input_type=Any)]]
    """Only their number is kept, so that no objects are made of a hundred thousand of them."""
    class_id: Class | None = None


_AnyData = TypeVar("_AnyData", bound=InputData)


class EnvelopeHead(StrictModel):
    """The fields of an envelope that say whether it belongs on the topic."""

    event_type: Any = None
    schema_version: Any = None


class IncomingEnvelope(EnvelopeHead, Generic[_AnyData]):
    event_id: UUID
    event_type: str
    event_timestamp: Timestamp
    source_service: str
    schema_version: int
    correlation_id: UUID
    data_schema_uri: str | None = None
    data: _AnyData
    metadata: InputMetadata | None = None
