"""Declares the actions on registered batches."""

from collections.abc import Sequence

from service.console.actions.action import BATCH, Action, Done, Plan, Values, counted
from service.operators.errors import Conflict
from service.operators.operations import Operations
from service.store.operator_actions import Operator


async def _plan_republish(operations: Operations, values: Values) -> Plan:
    batch, _ = await operations.batches.show(values["batch"], page=1, after=0)
    if batch["completed_at"] is None:
        taken = f"{batch['assigned'] + batch['failed']} of its {batch['expected']} slots are taken"
        raise Conflict(f"batch {values['batch']} has announced nothing yet: {taken}")
    return Plan(
        f"What batch {values['batch']} announced when it was completed will be published again, with the old event ids "
        "and contents. Readers that have seen these events ignore them."
    )


async def _republish(operations: Operations, by: Operator, values: Values) -> Done:
    events = await operations.batches.republish(by, values["batch"])
    return Done(f"{counted(len(events), 'event')} of batch {values['batch']} will be published again.")


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "batches-republish",
            "Publish again",
            "Publishes the announcements of a complete batch again, for a reader that has lost them.",
            (BATCH,),
            _plan_republish,
            _republish,
        ),
    )
