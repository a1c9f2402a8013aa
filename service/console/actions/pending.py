"""Declares the actions on content that waits for a registration."""

from collections.abc import Sequence
from typing import Final

from service.console.actions.action import BATCH, EVERYTHING, Action, Done, Field, Plan, Values, times
from service.operators.batches import uploads
from service.operators.errors import InvalidRequest, NotFound
from service.operators.operations import Operations
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter

_ANY_BATCH: Final = Field("batch", "Batch")
_FILE: Final = Field("file", "Part of the file name")


def _condition(values: Values) -> PendingFilter:
    text = values.get("text")
    return PendingFilter(
        values["batch"],
        [text] if text else None,
        values.get("file"),
        values.get("until"),
        values.get("since"),
    )


async def _plan_removal(operations: Operations, values: Values) -> Plan:
    found = await operations.pending.count_removable(_condition(values))
    if not any(found):
        raise NotFound(f"no such content waits for batch {values['batch']}")
    return Plan(
        f"{uploads(*found)} of batch {values['batch']} will be removed, also when they are delivered again.",
        [values["text"]] if values.get("text") else (),
    )


async def _remove(operations: Operations, by: Operator, values: Values) -> Done:
    removed = await operations.pending.remove(by, "pending remove", _condition(values))
    return Done(f"{uploads(*removed)} of batch {values['batch']} removed.")


async def _clear(operations: Operations, by: Operator, values: Values) -> Done:
    removed = await operations.pending.remove(by, "pending clear", _condition(values))
    return Done(f"{uploads(*removed)} of batch {values['batch']} removed.")


async def _plan_restore(operations: Operations, values: Values) -> Plan:
    condition = _condition(values)
    everything = bool(values["all"])
    if condition == PendingFilter() and not everything:
        raise InvalidRequest("give a batch, a part of a file name or an age, or choose all of them")
    found = await operations.pending.restore(Operator("plan"), condition, everything=everything, dry_run=True)
    if not (found.contents or found.failures):
        raise NotFound("nothing that is expired matches")
    return Plan(
        f"{uploads(found.contents, found.failures)} will wait for the registration again, with a new time limit "
        "and the old place in the order."
    )


async def _restore(operations: Operations, by: Operator, values: Values) -> Done:
    done = await operations.pending.restore(by, _condition(values), everything=bool(values["all"]))
    skipped = [f"batch {each} was skipped: another transaction works on it" for each in done.busy]
    skipped += [f"batch {each} was skipped: it was registered meanwhile" for each in done.registered]
    return Done(f"{uploads(done.contents, done.failures)} restored.", skipped, has_failed=bool(done.busy))


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "pending-remove",
            "Remove a text or failure",
            "Removes one content, or one validation failure, that waits or is expired.",
            (BATCH, Field("text", "Text storage id, or id of a failed upload", is_required=True)),
            _plan_removal,
            _remove,
        ),
        Action(
            "pending-clear",
            "Remove what waits for a batch",
            "Removes all content and failures that wait for this batch or are expired, or what matches.",
            (BATCH, _FILE, *times("Stored")),
            _plan_removal,
            _clear,
        ),
        Action(
            "pending-restore",
            "Restore expired content",
            "Lets expired content wait for its registration again: of a batch, what matches, or all.",
            (_ANY_BATCH, _FILE, *times("Expired"), EVERYTHING),
            _plan_restore,
            _restore,
            is_whole=False,
        ),
    )
