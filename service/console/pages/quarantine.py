"""Reads the rejected inputs: in groups, in a list, and one of them beside what was expected."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from pydantic import ValidationError

from service.console.actions.quarantine import command
from service.console.pages.reads import ROWS, ConsolePage, Query, Reads
from service.domain.incoming import ENVELOPE_OF
from service.domain.topics import SCHEMA_VERSION
from service.operators.errors import InvalidRequest
from service.store import console
from service.store.quarantine import QuarantineFilter

SHOWN_BYTES: Final = 256 * 1024
"""So much of a value is shown. The command line shows the whole."""

DIFFERENCES: Final = 20

SELECTING: Final = ("topic", "reason", "release", "since", "until", "batch")
"""The filters that a replay and a discard have, too."""


async def _quarantine(reads: Reads, query: Query) -> Mapping[str, Any]:
    given = {name: query.text(name) for name in (*SELECTING, "contains")}
    newer_than, older_than = query.ages()
    condition = QuarantineFilter(
        topic=given["topic"],
        reason=given["reason"],
        release=given["release"],
        newer_than=newer_than,
        older_than=older_than,
        batch_id=given["batch"],
        contains=given["contains"],
    )
    async with reads.tables() as conn:
        groups = await console.group_quarantine(conn)
        rows = await console.list_open_quarantine(conn, condition, page=ROWS, before=query.row_id("before"))
    more = rows[-1]["id"] if len(rows) == ROWS else None
    selected = {name: given[name] for name in SELECTING if given[name]}
    return {
        "groups": groups,
        "rows": rows,
        "given": given,
        "more": more,
        "searched": console.SEARCHED,
        # What is searched by bytes is not all of what matches, so it is not offered.
        "selected": {} if given["contains"] else selected,
    }


async def _input(reads: Reads, query: Query) -> Mapping[str, Any]:
    id_ = query.row_id("id")
    if id_ is None:
        raise InvalidRequest("id is missing")
    row = await reads.operations.quarantine.show(id_, SHOWN_BYTES)
    value = row.get("value")
    async with reads.tables() as conn:
        actions = await console.list_input_actions(
            conn, id_, row["topic"], row["first_seen_at"], row["closed_at"], page=ROWS
        )
    replays = [each for each in actions if each["action"] in ("quarantine replay", "quarantine edit")]
    return {
        "actions": actions,
        # An action has the time of its transaction, which is that of what it has closed.
        "closed_by": [each for each in actions if each["at"] == row["closed_at"]],
        "last_replay": replays[0] if replays else None,
        "row": row,
        "value": _pretty(value) or value,
        "edit_command": command(id_),
        "edit_command_file": command(id_, "--file FILE"),
        "differences": [] if value is None else differences(row["topic"], value),
    }


def _pretty(value: str | None) -> str | None:
    try:
        return None if value is None else orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        return None


def differences(topic: str, value: str) -> Sequence[tuple[str, str, str]]:
    """Compare a value with what its topic must contain. Returns field, what is expected, and what is there."""
    try:
        given = orjson.loads(value)
        ENVELOPE_OF[topic].model_validate_json(value)
    except ValidationError as error:
        return _differing_head(topic, given) + [
            (".".join(map(str, each["loc"])) or "the whole value", each["msg"], _found(given, each["loc"]))
            for each in error.errors(include_url=False, include_context=False, include_input=False)[:DIFFERENCES]
        ]
    except (ValueError, KeyError):
        return []
    return _differing_head(topic, given)


def _differing_head(topic: str, given: Any) -> list[tuple[str, str, str]]:
    """Compare what says whether a value belongs on a topic, where it has the right type."""
    expected = {"event_type": topic, "schema_version": SCHEMA_VERSION}
    return [
        (name, f"Input should be {value}", _found(given, [name]))
        for name, value in expected.items()
        if isinstance(given, dict) and type(given.get(name)) is type(value) and given[name] != value
    ]


def _found(given: Any, place: Sequence[str | int]) -> str:
    """Returns what is at a place of a JSON value, as text for people."""
    for step in place:
        try:
            given = given[step]
        except (KeyError, IndexError, TypeError):
            return "nothing"
    return orjson.dumps(given).decode()[:200]


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage("quarantine", "Quarantine", "quarantine.html", _quarantine),
        ConsolePage("quarantine/input", "Rejected input", "input.html", _input, is_in_menu=False),
    )
