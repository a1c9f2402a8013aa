"""Declares the actions on rejected inputs, and on topics that are paused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

from service.console.actions.action import EVERYTHING, Action, Done, Field, InputRow, Plan, Row, Values, counted, times
from service.domain.events import Reason
from service.domain.topics import INCOMING_TOPICS
from service.operators import parameters
from service.operators.editing import editable
from service.operators.errors import Conflict
from service.operators.operations import Operations
from service.store.operator_actions import Operator
from service.store.quarantine import QuarantineFilter

MOST: Final = 500
"""So many inputs are replayed or discarded at a time; then the page says that there are more."""

SHOWN: Final = 20

MOST_SENT: Final = 800_000
"""Bytes of a value as a form sends it: the server accepts 1 MiB, and an edited value may become longer."""


def _ids(text: str) -> Sequence[int]:
    """Parse the ids of rows, separated by commas or spaces."""
    ids = [parameters.row_id(each) for each in text.replace(",", " ").split()]
    if not 1 <= len(ids) <= MOST:
        raise ValueError(f"must be from 1 to {MOST} numbers")
    return sorted(set(ids))


_SELECTION: Final = (
    Field("ids", "Inputs", "their numbers, separated by commas", stands_alone=True, read=_ids),
    Field("topic", "Topic", kind="choice", choices=INCOMING_TOPICS),
    Field("reason", "Rejected because", kind="choice", choices=tuple(Reason)),
    Field("release", "Rejected by release"),
    Field("batch", "Batch"),
    *times("First seen"),
    EVERYTHING,
)


_WHY_NOT: Final[Mapping[str, str]] = {
    "closed": "closed by somebody else meanwhile",
    "busy": "held by another transaction: replay them again",
    "killed_the_process": "ended the process that replayed them",
    "other_cell": "of another cell",
}
"""Why an input was not replayed, by its outcome; any other is the reason of another rejection."""

_NEXT: Final = (
    "What was rejected again stays in quarantine, with the reason of this attempt. The page of each input shows what "
    "differs from what is expected: correct it there (Edit and replay), have its producer send a correct one and "
    "discard it here, or, if this service is wrong, replay it once a corrected release runs."
)


async def _select(operations: Operations, values: Values) -> tuple[Sequence[int], bool]:
    """Returns the ids of the selected inputs, the oldest first, and whether there are more."""
    condition = QuarantineFilter(
        values["ids"],
        values["topic"],
        values["reason"],
        values["until"],
        values["since"],
        batch_id=values["batch"],
        release=values["release"],
    )
    ids = await operations.quarantine.find_open(condition, everything=bool(values["all"]), most=MOST + 1)
    return ids[:MOST], len(ids) > MOST


async def _plan_replay(operations: Operations, values: Values) -> Plan:
    return await _plan(operations, values, "will be processed again like new ones, the oldest first")


async def _plan_discard(operations: Operations, values: Values) -> Plan:
    return await _plan(operations, values, "will be discarded permanently")


async def _plan(operations: Operations, values: Values, what: str) -> Plan:
    ids, more = await _select(operations, values)
    rows: list[Row] = []
    for id_ in ids[:SHOWN]:
        row = await operations.quarantine.show(id_, 0)
        rows.append(InputRow(id_, f"{row['topic']}, {row['reason']}: {row['error']}"))
    if len(ids) > SHOWN:
        rows.append(f"… and {len(ids) - SHOWN} more")
    rest = f" There are more: these are the {MOST} oldest; do it again for the rest." if more else ""
    bound = {each.name: "" for each in _SELECTION} | {"ids": ",".join(map(str, ids))}
    return Plan(f"{counted(len(ids), 'rejected input')} {what}.{rest}", rows, bound)


async def _replay(operations: Operations, by: Operator, values: Values) -> Done:
    ids, _ = await _select(operations, values)
    outcomes = [outcome async for outcome in operations.quarantine.replay(by, ids)]
    failed = [each for each in outcomes if each.failed]
    replayed = counted(len(outcomes) - len(failed), "input")
    if not failed:
        return Done(f"{replayed} replayed.")
    numbers = Counter(_WHY_NOT.get(each.outcome, f"rejected again ({each.outcome})") for each in failed)
    why = ", ".join(f"{number:,} {what}" for what, number in numbers.most_common())
    rows = [InputRow(each.id, each.error) for each in failed]
    is_rejected = any(each.outcome not in _WHY_NOT for each in failed)
    return Done(
        f"{replayed} replayed, {len(failed):,} not: {why}.", rows, has_failed=True, next=_NEXT if is_rejected else ""
    )


async def _discard(operations: Operations, by: Operator, values: Values) -> Done:
    ids, _ = await _select(operations, values)
    discarded = await operations.quarantine.discard(by, ids)
    return Done(f"{counted(discarded, 'input')} discarded.")


def _value(text: str) -> bytes:
    """Encode a value as it was edited. Raises ValueError."""
    return text.replace("\r\n", "\n").encode()


async def _plan_edit(operations: Operations, values: Values) -> Plan:
    edited = await operations.quarantine.edit(Operator("plan"), values["id"], values["value"], dry_run=True)
    if edited.failed:
        raise Conflict(f"the value would be rejected again: {edited.error}")
    return Plan(
        f"The edited value will be processed in place of input {values['id']}, which is closed; its original is kept.",
        edited.difference.splitlines(),
    )


async def _edit(operations: Operations, by: Operator, values: Values) -> Done:
    edited = await operations.quarantine.edit(by, values["id"], values["value"])
    if edited.failed:
        raise Conflict(f"the value was rejected again: {edited.error}")
    return Done(f"Input {values['id']} is replaced: {edited.outcome}.")


async def _original(operations: Operations, given: Mapping[str, str]) -> Mapping[str, str]:
    """Returns the value as it is edited, at first."""
    row = await operations.quarantine.read_open(parameters.row_id(given.get("id", "")))
    text = editable(row["value"])
    if text is None:
        raise Conflict(f"the value is not text: {command(row['id'], '--file FILE')} takes another one from a file")
    if len(urlencode({"value": text})) > MOST_SENT:
        raise Conflict(f"the value is too long for a form: {command(row['id'])} opens it in your editor")
    return {"value": text}


def command(id_: int, options: str = "") -> str:
    """Returns the command that edits a rejected input which cannot be edited here."""
    return " ".join(filter(None, ["els quarantine edit", str(id_), options, '--why "…"']))


async def _plan_resume(operations: Operations, values: Values) -> Plan:
    if values["topic"] not in await operations.quarantine.paused():
        raise Conflict(f"{values['topic']} is not paused")
    skips = " Until the next valid record, no rejection pauses it again." if values["skip_refused"] else ""
    return Plan(f"{values['topic']} will be read again.{skips}")


async def _resume(operations: Operations, by: Operator, values: Values) -> Done:
    await operations.quarantine.resume(by, values["topic"], skip_refused=bool(values["skip_refused"]))
    return Done(f"{values['topic']} is read again.")


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "quarantine-replay",
            "Replay rejected inputs",
            "Processes rejected inputs again, with the code that processes new ones: after the cause is removed.",
            _SELECTION,
            _plan_replay,
            _replay,
            listed="quarantine",
            is_whole=False,
        ),
        Action(
            "quarantine-discard",
            "Discard rejected inputs",
            "Closes rejected inputs that nobody needs. A discarded input stays discarded when it is delivered again.",
            _SELECTION,
            _plan_discard,
            _discard,
            listed="quarantine",
        ),
        Action(
            "quarantine-edit",
            "Edit and replay",
            "Corrects a rejected input, and processes it as if it had arrived like this. The original is kept.",
            (
                Field("id", "Number", is_required=True, read=parameters.row_id),
                Field("value", "Value", kind="text", is_required=True, read=_value),
            ),
            _plan_edit,
            _edit,
            _original,
        ),
        Action(
            "quarantine-resume",
            "Resume a paused topic",
            "Ends the pause of a topic, after too many rejections in a row.",
            (
                Field("topic", "Topic", kind="choice", choices=INCOMING_TOPICS, is_required=True),
                Field("skip_refused", "Do not pause it again before the next valid record", kind="yes"),
            ),
            _plan_resume,
            _resume,
        ),
    )
