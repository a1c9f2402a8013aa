"""Says in words what the log of operator actions states as JSON: what was done, what was not, and the details."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from service.operators.advice import Command
from service.operators.batches import uploads

SHOWN_VALUES: Final = 20
"""So many values of a list are shown, and how many there are beside."""

_NOT_REPLAYED: Final[Mapping[str, str]] = {
    "rejected": "not replayed: rejected again ({reason})",
    "killed_the_process": "not replayed: it ended the process that replayed it",
}

Details = Mapping[str, Any]

_PAGES: Final[Mapping[str, tuple[str, str, str]]] = {
    "quarantine show": ("Look at the rejected input", "quarantine/input", "id"),
    "quarantine discard": ("Discard the rejected input", "do/quarantine-discard", "ids"),
    "pending restore": ("Restore what expired", "do/pending-restore", "batch"),
    "batches republish": ("Publish again", "do/batches-republish", "batch"),
    "batches close": ("Close the batch", "do/batches-close", "batch"),
    "batches cancel": ("Cancel the batch", "do/batches-cancel", "batch"),
    "top --once": ("Topics", "topics", ""),
    "relay --once": ("Outbox", "outbox", ""),
}
"""What the console has in place of a command: the text of a link, its page, and the parameter of the subject."""


class ActionOutcome(NamedTuple):
    """What came of an action, in a few words."""

    text: str
    has_failed: bool = False


class NextStep(NamedTuple):
    """A part of what to do next: text, or a link to a page, with the parameters of its address."""

    text: str
    page: str = ""
    given: Mapping[str, str] = MappingProxyType({})
    is_command: bool = False
    """Whether it must be run on a command line: the console has nothing in its place."""


def step(part: str | Command) -> NextStep:
    """Return a part of what to do next as the console shows it."""
    if isinstance(part, str):
        return NextStep(part)
    if part.name not in _PAGES:
        return NextStep(str(part), is_command=True)
    text, page, name = _PAGES[part.name]
    given = {name: part.subject} if name else {}
    return NextStep(text, page, given | ({"kind": part.reason} if part.reason else {}))


def outcome(action: str, details: Details) -> ActionOutcome:
    """Return what came of an action. Its details may be those of another release, or erased."""
    try:
        said = _OUTCOMES[action](details)
    except (KeyError, TypeError, ValueError):
        return ActionOutcome("done")
    return said if isinstance(said, ActionOutcome) else ActionOutcome(said)


def input_of(action: str, details: Details) -> int | None:
    """Return the number of the rejected input that an action is about; None where it is about none."""
    id_ = details.get("id") if action.startswith("quarantine ") else None
    return id_ if isinstance(id_, int) else None


def facts(details: Details) -> list[tuple[str, str]]:
    """Return details as names and values for people."""
    return [(name.replace("_", " "), _value(value)) for name, value in details.items()]


def _value(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case list():
            more = f" and {len(value) - SHOWN_VALUES:,} more" if len(value) > SHOWN_VALUES else ""
            return (", ".join(map(_value, value[:SHOWN_VALUES])) or "none") + more
        case dict():
            return ", ".join(f"{name.replace('_', ' ')} {_value(each)}" for name, each in value.items()) or "none"
        case str():
            return value
        case _:
            return orjson.dumps(value).decode()


def _replayed(details: Details) -> ActionOutcome | str:
    if failed := _NOT_REPLAYED.get(details["outcome"]):
        return ActionOutcome(failed.format(reason=details.get("reason", "no reason is known")), has_failed=True)
    place = f" in cell {details['cell']}" if "cell" in details else ""
    return f"replayed{place}: {details['outcome']}"


def _uploads(details: Details) -> str:
    return uploads(details["contents"], details.get("failures", 0))


def _ended(details: Details) -> str:
    return (
        f"{details['state']}: of {details['expected']:,} slots, {details['assigned']:,} assigned, "
        f"{details['failed']:,} failed, {details['withdrawn']:,} withdrawn"
    )


def _republished(details: Details) -> ActionOutcome:
    again = len(details["events"]) + details["slots"] + details["excess"]
    left = details["left_out"]
    return ActionOutcome(
        f"{again:,} events published again" + (f", {left:,} not" if left else ""), has_failed=bool(left)
    )


def _erased(details: Details) -> str:
    if "rows" not in details:
        return f"to be erased in {details['batches']:,} batches: a row for each follows"
    return "erased: " + ("the whole batch" if details["whole"] else "a part of the batch")


def _acknowledged(details: Details) -> str:
    match details:
        case {"lost_inputs": id_}:
            return f"marked as seen: loss {id_}"
        case {"expired_content": contents}:
            return f"marked as seen: {uploads(contents, details.get('expired_failures', 0))} expired"
        case {"late_batches": count}:
            return f"marked as seen: {count:,} late batches"
        case {"purge_hold": why}:
            return f"the purge goes on; it was held: {why}"
        case _:
            return f"marked as seen: {details['detail']}"


def _skipped(details: Details) -> str:
    last = details["next_offset"] - 1
    offsets = f"offset {last}" if details["first_offset"] == last else f"offsets {details['first_offset']} to {last}"
    return f"skipped: partition {details['partition']}, {offsets}"


_OUTCOMES: Final[Mapping[str, Callable[[Details], ActionOutcome | str]]] = {
    "pending remove": lambda details: f"removed: {_uploads(details)}",
    "pending clear": lambda details: f"removed: {_uploads(details)}",
    "pending restore": lambda details: f"waits again: {_uploads(details)}",
    "quarantine replay": _replayed,
    "quarantine edit": lambda details: f"replayed as edited: {details['outcome']}",
    "quarantine discard": lambda _: "discarded",
    "quarantine resume": lambda _: "the topic is read again",
    "inputs skip": _skipped,
    "batches close": _ended,
    "batches cancel": _ended,
    "batches republish": _republished,
    "privacy erase": _erased,
    "health acknowledge": _acknowledged,
    "topics adopt": lambda details: f"{details['partitions']} partitions instead of {details['used_before']}",
    "recover": lambda _: "the database is up to date with its topics",
    "recover abandon": lambda _: "the recovery is abandoned",
}
"""What came of an action, by its name."""
