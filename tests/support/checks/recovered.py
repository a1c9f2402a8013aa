"""Sets databases back in the midst of random traffic, and checks what must be as before after a recovery."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from tests.support.checks.audited import check_audit
from tests.support.pods.set_back import Input, Output, SetBack, traffic


async def applied_and_kept(stack: SetBack, chance: random.Random, batches: int = 30) -> list[Input]:
    """Applies and publishes traffic, and makes a backup in the middle of it. Returns what came after that."""
    inputs = traffic(chance, "b", batches)
    at = chance.randrange(len(inputs) // 2)
    await stack.start()
    await stack.send(inputs[:at])
    await asyncio.gather(stack.keep(), stack.send(inputs[at : 2 * at]))
    await stack.send(inputs[2 * at :])
    await stack.settled()
    late = await stack.end_some()
    assert late
    await stack.send(late)
    await stack.settled()
    return inputs[at:] + late


@dataclass(frozen=True)
class Stated:
    """What is stated, and must be stated after a recovery too."""

    state: set[tuple[Any, ...]]
    outputs: list[Output]
    republished: list[tuple[str, str]]


async def stated(stack: SetBack) -> Stated:
    """Stops the pods first."""
    await stack.stop()
    return Stated(stack.state(), await stack.outputs(), await stack.republished())


async def check_recovered(stack: SetBack, before: Stated, *, is_audited: bool = True) -> None:
    """Asserts that the database is as before, that new traffic is applied, and that nothing is announced anew."""
    assert stack.state() ^ before.state == set()
    assert stack.consumers.conn.execute("select topic, event from ops.outbox_events").fetchall() == []
    assert await stack.republished() == before.republished
    await stack.start()
    await stack.send(traffic(random.Random(99), "c", 5))
    await stack.settled()
    outputs = await stack.outputs()
    assert before.outputs
    assert len(set(outputs)) == len({event_id for _, event_id, _ in outputs}), "an event id has two bodies"
    assert set(before.outputs) <= set(outputs)
    assert len(outputs) == len(set(outputs)), "an event was published again"
    if is_audited:
        await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)
