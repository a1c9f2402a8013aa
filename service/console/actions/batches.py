"""Declares the actions on registered batches."""

from collections.abc import Sequence
from typing import Final, get_args

from service.console.actions.action import BATCH, Action, Done, Field, Plan, Values, counted
from service.domain.topics import CancelReason
from service.operators.endings import Ending
from service.operators.errors import Conflict
from service.operators.operations import Operations
from service.store.operator_actions import Operator

_PLANNING: Final = Operator("plan")
"""Who plans: a dry run writes nothing."""


async def _plan_close(operations: Operations, values: Values) -> Plan:
    return _plan_ending(await operations.batches.close(_PLANNING, values["batch"], dry_run=True))


async def _close(operations: Operations, by: Operator, values: Values) -> Done:
    return _ended(await operations.batches.close(by, values["batch"]))


async def _plan_cancel(operations: Operations, values: Values) -> Plan:
    return _plan_ending(await operations.batches.cancel(_PLANNING, values["batch"], values["kind"], dry_run=True))


async def _cancel(operations: Operations, by: Operator, values: Values) -> Done:
    return _ended(await operations.batches.cancel(by, values["batch"], values["kind"]))


def _plan_ending(ending: Ending) -> Plan:
    return Plan(
        f"Batch {ending.batch_id} is {ending.before} and will be {ending.state}: {_slots(ending)}. This cannot be "
        "undone; what arrives for it later is excess.",
        [f"{event.topic} will be published" for event in ending.events],
    )


def _ended(ending: Ending) -> Done:
    published = [f"{event.topic} will be published, with event id {event.event_id}" for event in ending.events]
    return Done(f"Batch {ending.batch_id} is {ending.state}: {_slots(ending)}.", published)


def _slots(ending: Ending) -> str:
    return (
        f"of its {counted(ending.expected, 'slot')}, {ending.assigned:,} assigned, {ending.failed:,} failed and "
        f"{ending.withdrawn:,} withdrawn"
    )


async def _plan_republish(operations: Operations, values: Values) -> Plan:
    batch, _ = await operations.batches.show(values["batch"], page=1, after=0)
    if batch.get("completed_at") is None:
        raise Conflict(f"batch {values['batch']} has announced nothing yet: {batch['summary']}")
    return Plan(
        f"What batch {values['batch']} announced when it was completed will be published again, with the old event ids "
        "and contents. Readers that have seen these events ignore them."
    )


async def _republish(operations: Operations, by: Operator, values: Values) -> Done:
    events = await operations.batches.republish(by, values["batch"])
    return Done(f"{counted(len(events.events), 'event')} of batch {values['batch']} will be published again.")


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "batches-close",
            "Close the batch",
            "Ends a registered batch with the uploads that are there: it waits for nothing more, and is announced.",
            (BATCH,),
            _plan_close,
            _close,
        ),
        Action(
            "batches-cancel",
            "Cancel the batch",
            "Cancels a batch that is registered, or complete and not ready. Publishes BatchCancelled only.",
            (
                BATCH,
                Field("kind", "Kind", "is published", kind="choice", choices=get_args(CancelReason), is_required=True),
            ),
            _plan_cancel,
            _cancel,
        ),
        Action(
            "batches-republish",
            "Publish again",
            "Publishes the announcements of a complete batch again, for a reader that has lost them.",
            (BATCH,),
            _plan_republish,
            _republish,
        ),
    )
