"""Defines what an action of the console is: its fields, what it would change, and how it is performed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from service.operators import parameters
from service.operators.errors import InvalidRequest
from service.operators.operations import Operations
from service.store.operator_actions import Operator

Values = Mapping[str, Any]
"""The fields of a request, by name; None where one is not given."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a form. `read` parses its text, and raises ValueError."""

    name: str
    label: str
    hint: str = ""
    kind: Literal["line", "text", "choice", "yes"] = "line"
    choices: Sequence[str] = ()
    is_required: bool = False
    stands_alone: bool = False
    """Whether it replaces all other conditions: the form asks for it only where no condition is given."""
    read: Callable[[str], Any] = parameters.short_text


class InputRow(NamedTuple):
    """A rejected input, which the page links to, and what is to be said of it."""

    input: int
    text: str


Row = str | InputRow


@dataclass(frozen=True, slots=True)
class Plan:
    """What an action would change, in a sentence, with the first subjects.

    `bound` are fields that make the action change exactly what was shown.
    """

    text: str
    rows: Sequence[Row] = ()
    bound: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What an action has changed, in a sentence; the rows say what was not changed, and why."""

    text: str
    rows: Sequence[Row] = ()
    has_failed: bool = False
    next: str = ""
    """What to do about that."""


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a person can do. `plan` and `perform` raise OperationError."""

    name: str
    """Its address below /console/do/."""
    title: str
    about: str
    fields: Sequence[Field]
    plan: Callable[[Operations, Values], Awaitable[Plan]]
    perform: Callable[[Operations, Operator, Values], Awaitable[Done]]
    begin: Callable[[Operations, Mapping[str, str]], Awaitable[Mapping[str, str]]] | None = None
    """Returns fields that the form shows at first. Raises OperationError, and ValueError for a wrong parameter."""
    listed: str = ""
    """The page that lists what a condition selects."""
    is_whole: bool = True
    """Whether `perform` changes all or nothing."""

    def values(self, given: Mapping[str, str]) -> Values:
        """Parse the fields. Raises InvalidRequest."""
        return {each.name: _value(each, given.get(each.name, "")) for each in self.fields}


def _value(field_: Field, text: str) -> Any:
    if not text:
        if field_.is_required:
            raise InvalidRequest(f"{field_.label}: is missing")
        return None
    if field_.choices and text not in field_.choices:
        raise InvalidRequest(f"{field_.label}: must be one of {', '.join(field_.choices)}")
    try:
        return True if field_.kind == "yes" else field_.read(text)
    except ValueError as error:
        raise InvalidRequest(f"{field_.label}: {error}") from None


def counted(number: int, noun: str) -> str:
    """Returns "1 input", "2 inputs", and so on."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


BATCH = Field("batch", "Batch", is_required=True)
EVERYTHING = Field("all", "All of them, without any condition", kind="yes", stands_alone=True)
"""Needed where no condition is given, so that nobody changes everything by mistake."""


def times(what: str) -> tuple[Field, Field]:
    """Return the fields that limit a time, as seconds that have passed. `what` says which time it is: "Stored"."""
    hint = "a date or a time in UTC, like 2026-11-29T08:00, or how long ago: 90s, 2h, 1d"
    return (
        Field("since", f"{what} since", hint, read=parameters.age_since),
        Field("until", f"{what} until", f"{hint}; a date includes that day", read=parameters.age_until),
    )
