"""Defines what the endpoints of the JSON API share: types of parameters, base models, and problems.

Unknown parameters are rejected: a filter with a typing error must not match more than intended.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from service.operators import parameters
from service.operators.operations import Operations
from service.store.operator_actions import Operator


def read_parameter(parameter: Callable[[str], Any]) -> PlainValidator:
    """Make a validator from a function of `service.operators.parameters`."""

    def read(value: object) -> Any:
        if not isinstance(value, str):
            raise ValueError("must be a string")  # noqa: TRY004  pydantic reports a ValueError, not a TypeError
        return parameter(value)

    return PlainValidator(read)


ShortText = Annotated[
    str, Field(min_length=1, max_length=parameters.MAX_ID_LENGTH), AfterValidator(parameters.short_text)
]
ReasonText = Annotated[str, Field(max_length=parameters.MAX_REASON_LENGTH), AfterValidator(parameters.reason)]
RowId = Annotated[int, Field(ge=1, le=2**63 - 1)]
RowLimit = Annotated[int, Field(ge=1, le=parameters.MAX_ROWS)]
Age = Annotated[
    float,
    read_parameter(parameters.age),
    WithJsonSchema({"type": "string", "pattern": f"^{parameters.AGE}$", "example": "2h"}),
]
Since = Annotated[
    datetime, read_parameter(parameters.since), WithJsonSchema({"type": "string", "example": "2026-11-24T08:00+01:00"})
]
Until = Annotated[
    datetime, read_parameter(parameters.until), WithJsonSchema({"type": "string", "example": "2026-11-24"})
]


class RequestModel(BaseModel):
    """Is the base of all requests: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ResponseModel(BaseModel):
    """Is the base of all responses: reads the attributes of what an action returns."""

    model_config = ConfigDict(from_attributes=True)


class AgeFilters(RequestModel):
    """Has the filters by age."""

    older_than: Age | None = Field(
        None, description="only what is older than this: 90s, 5m, 2h, 1d, or a time like 2026-11-29"
    )
    newer_than: Age | None = Field(None, description="only what is newer than this")


class PageRequest(RequestModel):
    """Asks for a page of rows."""

    limit: RowLimit = Field(50, description="maximum number of rows")


class ChangeRequest(RequestModel):
    """Has what the log of operator actions records."""

    who: ShortText | None = Field(
        None, description="name for the log of operator actions; default: the client's address"
    )
    why: ReasonText = Field("", description="reason, for the log of operator actions")


@dataclass(frozen=True, slots=True)
class Call:
    """Holds one request after validation. `request` is an instance of the endpoint's request model."""

    operations: Operations
    request: Any
    address: str

    @property
    def by(self) -> Operator:
        """Returns who acts, for the log of operator actions: by default the address, since all share one token."""
        return Operator(self.request.who or f"token from {self.address}", self.request.why)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Describes one endpoint. `do` performs the action."""

    method: str
    path: str
    summary: str
    request: type[BaseModel]
    response: type[BaseModel]
    do: Callable[[Call], Awaitable[object]]


class ParameterError(ResponseModel):
    where: str
    what: str


class Problem(ResponseModel):
    """Describes why a request failed (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[ParameterError] | None = Field(None, description="what is wrong with each parameter")
