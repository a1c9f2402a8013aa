"""Declares the action on notices: what was reported and needs no further action."""

from collections.abc import Sequence

from service.console.actions.action import Action, Done, Field, Plan, Values
from service.operators import parameters
from service.operators.operations import Operations
from service.store.operator_actions import Operator


def _ids(text: str) -> Sequence[int]:
    return [parameters.row_id(each) for each in text.replace(",", " ").split()]


async def _plan(_: Operations, values: Values) -> Plan:
    if values["ids"]:
        return Plan("These losses of inputs will be marked as seen.", [f"loss {each}" for each in values["ids"]])
    return Plan("All losses of inputs, and clocks that did not agree, will be marked as seen.")


async def _acknowledge(operations: Operations, by: Operator, values: Values) -> Done:
    return Done("Marked as seen:", await operations.notices.acknowledge(by, values["ids"]))


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "health-acknowledge",
            "Acknowledge notices",
            "Marks as seen what was reported and needs no further action. It stays in the log of operator actions.",
            (Field("ids", "Numbers of losses", "default: all", read=_ids),),
            _plan,
            _acknowledge,
        ),
    )
