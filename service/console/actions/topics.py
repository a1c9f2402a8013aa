"""Declares the actions on topics: to skip an input that cannot be read, and to use partitions that were added."""

from collections.abc import Sequence
from functools import partial

from service.console.actions.action import Action, Done, Field, Plan, Values, counted
from service.domain.topics import INCOMING_TOPICS
from service.operators import parameters
from service.operators.errors import NotFound
from service.operators.inputs import SkippedInput
from service.operators.operations import Operations
from service.store.operator_actions import Operator

_NUMBER = partial(parameters.number, least=0, most=2**63 - 1)
_PARTITION = partial(parameters.number, least=0, most=2**31 - 1)


async def _skip(operations: Operations, by: Operator, values: Values, *, dry_run: bool = False) -> SkippedInput:
    return await operations.inputs.skip(
        by,
        values["topic"],
        values["partition"],
        values["offset"],
        whole_batch=bool(values["batch"]),
        dry_run=dry_run,
    )


def _described(skipped: SkippedInput) -> tuple[str, list[str]]:
    records = counted(skipped.next_offset - skipped.first_offset, "record")
    kept = "what it contains" if skipped.value_base64 else "only that it was skipped, since nothing could be fetched"
    text = f"{records} of {skipped.topic} partition {skipped.partition}, from offset {skipped.first_offset}"
    return text, [*([skipped.why] if skipped.why else []), f"quarantine keeps {kept}"]


async def _plan_skip(operations: Operations, values: Values) -> Plan:
    text, rows = _described(await _skip(operations, Operator("plan"), values, dry_run=True))
    return Plan(f"{text}, will not be read. It is reported as lost.", rows)


async def _perform_skip(operations: Operations, by: Operator, values: Values) -> Done:
    text, rows = _described(await _skip(operations, by, values))
    return Done(f"{text}, is skipped within seconds.", rows)


async def _plan_adopt(operations: Operations, values: Values) -> Plan:
    added = await operations.output_topics.adopt(
        Operator("plan"), while_publishing=bool(values["while_publishing"]), dry_run=True
    )
    if not added:
        raise NotFound("no output topic has partitions that are not used")
    return Plan(
        "Relays will use the partitions that were added. The events of a batch may then be in two partitions.",
        [f"{topic}: {now} partitions instead of {before}" for topic, before, now in added],
    )


async def _adopt(operations: Operations, by: Operator, values: Values) -> Done:
    adopted = await operations.output_topics.adopt(by, while_publishing=bool(values["while_publishing"]))
    return Done("Relays use:", [f"{topic}: {now} partitions" for topic, _, now in adopted])


def actions() -> Sequence[Action]:
    """Return the actions of this module."""
    return (
        Action(
            "inputs-skip",
            "Skip a record",
            "Lets pods skip a record of an input topic that they cannot read at all. Quarantine keeps as much of it as "
            "can be obtained.",
            (
                Field("topic", "Topic", kind="choice", choices=INCOMING_TOPICS, is_required=True),
                Field("partition", "Partition", is_required=True, read=_PARTITION),
                Field("offset", "Offset", is_required=True, read=_NUMBER),
                Field("batch", "Skip its whole record batch", kind="yes"),
            ),
            _plan_skip,
            _perform_skip,
        ),
        Action(
            "topics-adopt",
            "Use added partitions",
            "Makes relays use the partitions that were added to output topics. First stop all relays, and wait until "
            "readers have no lag.",
            (Field("while_publishing", "Although relays publish: readers order events by the header seq", kind="yes"),),
            _plan_adopt,
            _adopt,
        ),
    )
