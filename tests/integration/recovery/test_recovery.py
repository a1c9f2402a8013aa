"""Tests that a database which was set back states what was announced, once it is recovered."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deploy.servers.pods import until
from service.domain.delivery import IntakeLimits
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.runtime.health import Health
from tests.support.builders.inputs import delivery
from tests.support.checks.audited import check_audit
from tests.support.pods.running_consumer import BOUND, ConsumerFixture
from tests.support.pods.set_back import Input, Output, SetBack, set_back_fixture, traffic


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    strict_consumers.restarts = True
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


async def applied_and_kept(stack: SetBack, chance: random.Random, batches: int = 30) -> list[Input]:
    """Applies and publishes traffic, and keeps a copy of the tables of a moment in it. Returns what came after that."""
    inputs = traffic(chance, "b", batches)
    at = chance.randrange(len(inputs))
    await stack.start()
    await stack.send(inputs[:at])
    await stack.settled()
    stack.keep()
    await stack.send(inputs[at:])
    await stack.settled()
    return inputs[at:]


async def check_recovered(stack: SetBack, before: set[tuple[Any, ...]], published: list[Output]) -> None:
    """Asserts that the database is as before, that new traffic is applied, and that nothing is announced anew."""
    assert stack.state() ^ before == set()
    assert stack.consumers.conn.execute("select topic, event from ops.outbox_events").fetchall() == []
    await stack.start()
    await stack.send(traffic(random.Random(99), "c", 5))
    await stack.settled()
    outputs = await stack.outputs()
    assert len(set(outputs)) == len({event_id for _, event_id, _ in outputs}), "an event id has two bodies"
    assert set(published) <= set(outputs)
    assert len(outputs) == len(set(outputs)), "an event was published again"
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)


@pytest.mark.parametrize("seed", range(3))
async def test_a_restored_database_states_what_was_announced(stack: SetBack, seed: int) -> None:
    await applied_and_kept(stack, random.Random(seed))
    before, published = stack.state(), await stack.outputs()
    await stack.stop()
    stack.set_back()
    running = stack.consumers.start_one()
    await stack.consumers.becomes("select state from els.recovery", "behind")
    await until(lambda: "behind" in str(running.health.parts["consumer"]), BOUND, lambda: str(running.health.parts))
    recovered = await stack.recover()
    assert (recovered.contradictions, recovered.incomplete) == ([], [])
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
    await stack.stop()
    await check_recovered(stack, before, published)


@pytest.mark.parametrize("seed", range(2))
async def test_an_empty_database_states_what_was_announced(stack: SetBack, seed: int) -> None:
    await applied_and_kept(stack, random.Random(seed))
    before, published = stack.state(), await stack.outputs()
    await stack.stop()
    stack.clear()
    await stack.recover()
    await check_recovered(stack, before, published)


@pytest.mark.parametrize("seed", range(3))
async def test_what_a_pod_has_decided_on_a_restored_database_yields(stack: SetBack, seed: int) -> None:
    """Nothing of it is published: a pod that is not checked, and whose relay did not reach the broker."""
    chance = random.Random(seed)
    later = await applied_and_kept(stack, chance)
    before, published = stack.state(), await stack.outputs()
    await stack.stop()
    stack.set_back()
    intake = Intake(stack.database, IntakeLimits(), Health(), forget)
    chance.shuffle(later)
    for topic, partition, value in later:
        await intake.take([delivery(topic, value, partition=partition)])
    assert stack.state() != before
    await stack.recover()
    await check_recovered(stack, before, published)


async def forget(_: Effects) -> None:
    """Reports nothing."""


@pytest.mark.parametrize("seed", range(2))
async def test_a_recovery_that_is_killed_again_and_again_has_the_same_result(stack: SetBack, seed: int) -> None:
    chance = random.Random(seed)
    await applied_and_kept(stack, chance)
    before, published = stack.state(), await stack.outputs()
    await stack.stop()
    stack.set_back()
    for number in range(6):
        attempt = asyncio.create_task(stack.recover())
        await asyncio.wait([attempt], timeout=chance.uniform(0.4, 0.5 + number / 3))
        attempt.cancel()
        await asyncio.wait([attempt])
        assert attempt.cancelled() or number
    await stack.recover()
    await check_recovered(stack, before, published)
