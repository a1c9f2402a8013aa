"""Declares the action on notices: what was reported and needs no further action."""

from collections.abc import Sequence

from service.console.actions.action import Action, Done, Field, Plan, Values
from service.operators import parameters
from service.operators.notices import NOTICE_KINDS
from service.operators.operations import Operations
from service.store.operator_actions import Operator


def _ids(text: str) -> Sequence[int]:
    return [parameters.row_id(each) for each in text.replace(",", " ").split()]


async def _acknowledge(operations: Operations, by: Operator, values: Values, *, dry_run: bool = False) -> list[str]:
    kinds = [values["kind"]] if values["kind"] else []
    return await operations.notices.acknowledge(by, kinds, values["ids"] or (), dry_run=dry_run)


async def _plan(operations: Operations, values: Values) -> Plan:
    return Plan("This will be marked as seen:", await _acknowledge(operations, Operator("plan"), values, dry_run=True))


async def _perform(operations: Operations, by: Operator, values: Values) -> Done:
    return Done("Marked as seen:", await _acknowledge(operations, by, values))


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "health-acknowledge",
            "Acknowledge notices",
            "Marks as seen what was reported and needs no further action; what happens later is reported again. The "
            "kind clocks also lets the purge go on: choose it only if the database's clock is right.",
            (
                Field("kind", "Kind", "default: all", kind="choice", choices=NOTICE_KINDS),
                Field("ids", "Numbers of losses", "instead of a kind", read=_ids),
            ),
            _plan,
            _perform,
        ),
    )
