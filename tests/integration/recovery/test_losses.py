"""Tests the losses of commits that are hard to see: after each, what was announced must stay true."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import pytest
from aiokafka import TopicPartition

from deploy.servers.pods import until
from service.domain.topics import BATCH_REGISTERED, INCOMING_TOPICS
from service.kafka.group import offset_text
from service.recovery import state
from tests.support.checks.audited import check_audit
from tests.support.checks.recovered import check_recovered, stated
from tests.support.pods.running_consumer import ConsumerFixture
from tests.support.pods.set_back import Input, SetBack, set_back_fixture, traffic

DETECTED_SECONDS = 15
"""A loss is detected and named within so many seconds."""
PARTITIONS = 3
BEHIND = "select state = 'behind' from els.recovery"


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    strict_consumers.restarts = True
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


pytestmark = pytest.mark.only_in_test_all("leaving a group, which the embedded broker is slow to see")


async def detected(stack: SetBack) -> None:
    await until(lambda: bool(stack.consumers.value(BEHIND)), DETECTED_SECONDS, lambda: "the loss is not detected")


@pytest.mark.parametrize("seed", [0])
async def test_traffic_that_goes_on_through_a_failover_contradicts_nothing(stack: SetBack, seed: int) -> None:
    """Pods and relay stay alive: a poll after the failover must not erase the evidence."""
    chance = random.Random(seed)
    inputs = traffic(chance, "b", 60)
    cuts = [len(inputs) * part // 4 for part in range(5)]
    before, lost, during, after = (inputs[start:end] for start, end in pairwise(cuts))
    await stack.start()
    await stack.send(before)
    await stack.settled()
    await stack.keep()
    await stack.send(lost)
    await stack.settled()
    announced = await stack.outputs()

    async def slowly() -> None:
        for each in during:
            await stack.send([each])
            await asyncio.sleep(0.01)

    sending = asyncio.create_task(slowly())
    await stack.set_back()
    await detected(stack)
    await sending
    recovered = await stack.recover()
    assert (recovered.contradictions, recovered.incomplete) == ([], [])
    await stack.send(after)
    await stack.settled()
    outputs = await stack.outputs()
    assert set(announced) <= set(outputs)
    assert len(set(outputs)) == len({event_id for _, event_id, _ in outputs}), "an event id has two bodies"
    await stack.stop()
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)


@pytest.mark.parametrize("seed", [0])
async def test_what_only_the_outputs_show_is_not_lost(stack: SetBack, seed: int) -> None:
    """As where pods die before they have committed their offsets, or where the group's offsets were reset."""
    chance = random.Random(seed)
    inputs = traffic(chance, "b", 30)
    half = len(inputs) // 2
    await stack.start()
    await stack.send(inputs[:half])
    await stack.settled()
    await stack.keep()
    reached = await stack.consumers.committed(*partitions())
    await stack.send(inputs[half:])
    await stack.settled()
    before = await stated(stack)
    await stack.set_back()
    offsets = {tp: offset_text(offset, 0) for tp, offset in reached.items() if offset > 0}
    await state._commit(stack.kafka, stack.consumers.group, offsets)
    stack.consumers.start_one()
    await detected(stack)
    assert "events that were published" in stack.consumers.value("select why from els.recovery")
    recovered = await stack.recover()
    assert (recovered.contradictions, recovered.incomplete) == ([], [])
    await stack.stop()
    await check_recovered(stack, before)


def in_one_partition(chance: random.Random) -> Callable[[Input], bool]:
    lost = chance.randrange(PARTITIONS)
    return lambda each: each[0] != BATCH_REGISTERED and each[1] == lost


def not_in_registrations(chance: random.Random) -> Callable[[Input], bool]:
    idle = chance.randrange(PARTITIONS)
    return lambda each: each[0] != BATCH_REGISTERED or each[1] != idle


@pytest.mark.parametrize("seed", [0])
@pytest.mark.parametrize("lost", [in_one_partition, not_in_registrations])
async def test_a_loss_that_not_all_partitions_have_is_not_lost(
    stack: SetBack, seed: int, lost: Callable[[random.Random], Callable[[Input], bool]]
) -> None:
    """In one partition of a few topics; or in all but an idle partition of registrations."""
    chance = random.Random(seed)
    is_lost = lost(chance)
    inputs = traffic(chance, "b", 30)
    half = len(inputs) // 2
    tail = [each for each in inputs[half:] if is_lost(each)]
    assert tail
    await stack.start()
    await stack.send(inputs[:half] + [each for each in inputs[half:] if not is_lost(each)])
    await stack.settled()
    await stack.keep()
    await stack.send(tail)
    await stack.settled()
    before = await stated(stack)
    await stack.set_back()
    stack.consumers.start_one()
    await detected(stack)
    recovered = await stack.recover()
    assert (recovered.contradictions, recovered.incomplete) == ([], [])
    await stack.stop()
    await check_recovered(stack, before)


def partitions() -> list[TopicPartition]:
    return [TopicPartition(topic, number) for topic in INCOMING_TOPICS for number in range(PARTITIONS)]
