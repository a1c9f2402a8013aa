"""A batch with a class, its uploads and its confirmation in every order, with an operator's action at every place.

What is announced is compared with a model of a few lines, and read by strict readers of both generations.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import psycopg
import pytest

from service.domain.delivery import IntakeLimits
from service.domain.events import Incoming
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import (
    BATCH_CANCELLED,
    BATCH_COMPLETED,
    BATCH_READY,
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)
from service.operators.errors import Conflict, NotFound
from service.operators.operations import Operations
from service.operators.privacy import ErasureRequest
from service.postgres.pool import Database
from service.purge.policy import RetentionPolicy
from service.purge.purge import purge_once
from service.store.operator_actions import Operator
from tests.support.builders.events import confirmation, content, deliveries, failure, registration
from tests.support.checks.readers import read_strictly
from tests.support.pods.applier import ApplyFixture, deliver
from tests.support.selection import partly_in_test_all

BY = Operator("tester", "a test")
POLICY = RetentionPolicy(86_400, 86_400, 86_400)
ENDS = [VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY, BATCH_CANCELLED]
INPUTS = ("registration", "content", "failure", "confirmation")
ACTIONS = ("close", "cancel", "republish", "erase", "off", "off and on")


class Operated(ApplyFixture):
    """Takes the steps of a batch. What its steps published is taken out of the outbox, as a relay does."""

    def __init__(self, database: Database, conn: psycopg.Connection[Any]) -> None:
        super().__init__(database, conn)

    async def step(self, name: str, batch_id: str) -> list[str]:
        """Returns the topics of what is published, in order."""
        inputs: dict[str, Incoming] = {
            "registration": registration(batch_id, 2, class_id="8a"),
            "content": content("c", batch_id),
            "failure": failure("f", batch_id),
            "confirmation": confirmation("8a", batch_id),
        }
        if name == "repeats":
            await deliver(self.database, deliveries(*inputs.values()), self.limits)
        elif name in inputs:
            await deliver(self.database, deliveries(inputs[name]), self.limits)
        else:
            with suppress(Conflict, NotFound):
                await self._act(name, batch_id)
        events = self.conn.execute("select topic, event from ops.outbox_events order by seq").fetchall()
        for topic, event in events:
            read_strictly(topic, event)
        self.conn.execute("delete from els.outbox_pages")
        return [topic for topic, _ in events]

    async def _act(self, name: str, batch_id: str) -> None:
        operations = Operations(self.database, self.limits, DEFAULT_LIMITS)
        match name:
            case "close":
                await operations.batches.close(BY, batch_id)
            case "cancel":
                await operations.batches.cancel(BY, batch_id, "OTHER")
            case "republish":
                await operations.batches.republish(BY, batch_id, slots=True, excess=True)
            case "erase":
                await operations.privacy.erase(BY, ErasureRequest("batch", batch_id))
            case "off" | "off and on":
                self.limits = replace(IntakeLimits(), ready_waits=False)
                await purge_once(self.database, replace(POLICY, ready_waits=False))
                if name == "off and on":
                    self.limits = IntakeLimits()


@dataclass
class Model:
    """What each step publishes."""

    state: str = "unknown"
    waits: bool = True
    confirmed: bool = False
    erased: bool = False
    early: list[str] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    excess: int = 0
    ends: list[str] = field(default_factory=list)

    def step(self, name: str) -> list[str]:
        """Returns the topics of what is published."""
        return self._input(name) if name in INPUTS else self._act(name)

    def _input(self, name: str) -> list[str]:
        if name == "registration":
            self.state = "registered"
            return [topic for each in sorted(self.early, key=INPUTS.index) for topic in self._input(each)]
        if self.state == "unknown":
            self.early.append(name)
        elif name == "confirmation":
            self.confirmed = True
            return self._ready_if_complete()
        elif self.state == "registered":
            self.slots.append(name)
            assigned = [SLOT_ASSIGNED] if name == "content" else []
            return assigned + (self._end() if len(self.slots) == 2 else [])
        elif name == "content":
            self.excess += 1
            return [EXCESS_CONTENT]
        return []

    def _act(self, name: str) -> list[str]:
        match name:
            case "close" if self.state == "registered":
                return self._end()
            case "cancel" if self.state in ("registered", "complete"):
                return self._announce([BATCH_CANCELLED], "cancelled")
            case "republish" if self.state != "unknown" and not self.erased:
                return self.slots.count("content") * [SLOT_ASSIGNED] + self.excess * [EXCESS_CONTENT] + self.ends
            case "erase":
                self.erased = True
            case "off" | "off and on":
                self.waits = name == "off and on"
                return self._ready_if_complete()
        return []

    def _ready_if_complete(self) -> list[str]:
        return self._announce([BATCH_READY], "ready") if self.state == "complete" else []

    def _end(self) -> list[str]:
        ends = [VALIDATION_ERRORS] if "failure" in self.slots or not self.slots else []
        if "content" not in self.slots:
            return self._announce(ends, "failed")
        if self.waits and not self.confirmed:
            return self._announce([*ends, BATCH_COMPLETED], "complete")
        return self._announce([*ends, BATCH_COMPLETED, BATCH_READY], "ready")

    def _announce(self, topics: list[str], state: str) -> list[str]:
        self.state = state
        self.ends += topics
        return topics


@pytest.fixture
async def operated(app_url: str, database_url: str) -> AsyncIterator[Operated]:
    database = Database(app_url)
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield Operated(database, conn)
    await database.close()


def orders(actions: Sequence[str]) -> list[tuple[str, ...]]:
    """Every order of the inputs, with the actions, in their order, at every place."""
    return [
        order
        for order in permutations((*INPUTS, *actions))
        if [step for step in order if step in actions] == list(actions)
    ]


CASES = [(action,) for action in ACTIONS] + [("off", "close")]


@pytest.mark.parametrize(
    "actions",
    partly_in_test_all(
        CASES, [each for each in CASES if each != ("republish",)], "every order with another operator's action"
    ),
)
async def test_what_is_announced_is_what_the_order_of_the_steps_says(operated: Operated, actions: Any) -> None:
    # Of the orders of two actions, a third: all of them would take two minutes.
    for number, order in enumerate(orders(actions)[:: 3 if len(actions) > 1 else 1]):
        model, batch_id = Model(), f"b{number}"
        operated.limits = IntakeLimits()
        for step in order:
            assert (order, step, await operated.step(step, batch_id)) == (order, step, model.step(step))
        assert (order, await operated.step("repeats", batch_id)) == (order, [])
        assert model.ends == [topic for topic in ENDS if topic in model.ends]  # each once, in this order
    assert operated.rows("select * from ops.invariant_violations") == []
