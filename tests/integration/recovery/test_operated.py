"""Tests that random traffic with random operator actions is as before, after a recovery that repeats the actions."""

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import pytest

from service.domain.delivery import IntakeLimits
from service.domain.input_limits import InputLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED, CancelReason
from service.operators.errors import OperationError
from service.operators.operations import Operations
from service.operators.privacy import ErasureRequest
from service.operators.repetition import Repetition
from service.recovery.acts import Act, read_acts
from service.recovery.blanking import import_tombstones, tombstone_of
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from tests.support.builders.inputs import content, registration
from tests.support.checks.audited import check_audit
from tests.support.pods.running_consumer import ConsumerFixture
from tests.support.pods.set_back import Input, SetBack, set_back_fixture, traffic

ME: Final = Operator("me", "a test")
EXPIRE = "update els.{} set state = 'expired', closed_at = now() where state = 'pending' and batch_id = %s"

pytestmark = pytest.mark.only_in_test_all("leaving a group, which the embedded broker is slow to see")


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    strict_consumers.restarts = True
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


class AnyOperator:
    """An operator who does anything."""

    def __init__(self, stack: SetBack, chance: random.Random) -> None:
        self._stack, self._chance = stack, chance
        self._conn = stack.consumers.conn
        self.operations = Operations(stack.database, IntakeLimits(), InputLimits(), lambda: stack.kafka)
        self._skipped = 0
        self.done: list[str] = []

    async def act(self, times: int) -> None:
        """Does so many random things; what is impossible changes nothing."""
        deeds: Sequence[Callable[[], Awaitable[object]]] = (
            self._remove, self._clear, self._expire, self._restore, self._discard, self._edit, self._replay,
            self._close, self._cancel, self._erase_batch, self._erase_text, self._erase_user, self._erase_file,
            self._republish, self._skip,
        )  # fmt: skip
        for deed in self._chance.choices(deeds, k=times):
            self.done.append(deed.__name__.strip("_"))
            with suppress(OperationError):
                await deed()
            await self._stack.published()

    def _some(self, query: str) -> tuple[Any, ...]:
        rows = self._conn.execute(f"{query} order by 1, 2".encode()).fetchall()
        return self._chance.choice(rows) if rows else ("none", "none")

    def _batch(self, *states: str) -> str:
        return str(self._some(f"select batch_id, 1 from els.batches where state = any('{{{','.join(states)}}}')")[0])

    async def _remove(self) -> None:
        batch_id, text = self._some("select batch_id, text_storage_id from els.pending_content")
        await self.operations.pending.remove(ME, "pending remove", PendingFilter(batch_id, [text]))

    async def _clear(self) -> None:
        batch_id, _ = self._some("select batch_id, 1 from els.validation_failures where state = 'pending'")
        await self.operations.pending.remove(ME, "pending clear", PendingFilter(batch_id, None))

    async def _expire(self) -> None:
        """Not an operator's: what has expired can be restored."""
        batch_id, _ = self._some("select batch_id, 1 from els.validation_failures where state = 'pending'")
        self._conn.execute(EXPIRE.format("validation_failures").encode(), [batch_id])

    async def _restore(self) -> None:
        batch_id, _ = self._some("select batch_id, 1 from els.validation_failures where state = 'expired'")
        await self.operations.pending.restore(ME, PendingFilter(batch_id))

    def _rejected(self) -> tuple[int, str]:
        id_, batch_id = self._some("select id, batch_id from els.quarantine where state = 'open'")
        return (0, "none") if id_ == "none" else (id_, batch_id)

    async def _discard(self) -> None:
        await self.operations.quarantine.discard(ME, [self._rejected()[0]])

    async def _edit(self) -> None:
        id_, batch_id = self._rejected()
        essays = [f"{batch_id}-e0", f"{batch_id}-e1"]
        await self.operations.quarantine.edit(ME, id_, registration(batch_id, essays, user_id=f"user-{batch_id}"))

    async def _replay(self) -> None:
        async for _ in self.operations.quarantine.replay(ME, [self._rejected()[0]]):
            pass

    async def _close(self) -> None:
        await self.operations.batches.close(ME, self._batch("registered"))

    async def _cancel(self) -> None:
        reasons: Sequence[CancelReason] = ("WITHDRAWN", "DUPLICATE", "OTHER")
        await self.operations.batches.cancel(ME, self._batch("registered", "complete"), self._chance.choice(reasons))

    async def _erase_batch(self) -> None:
        await self.operations.privacy.erase(ME, ErasureRequest("batch", self._batch("ready", "registered", "failed")))

    async def _erase_text(self) -> None:
        batch_id, text = self._some("select batch_id, text_storage_id from els.slots where text_storage_id <> ''")
        await self.operations.privacy.erase(ME, ErasureRequest("text", batch_id, text))

    async def _erase_user(self) -> None:
        user, _ = self._some("select user_id, 1 from els.batches where user_id like 'user-%'")
        await self.operations.privacy.erase(ME, ErasureRequest("user", name=user))

    async def _erase_file(self) -> None:
        name, _ = self._some("select original_file_name, 1 from els.excess_content where original_file_name <> ''")
        await self.operations.privacy.erase(ME, ErasureRequest("file", name=name))

    async def _republish(self) -> None:
        await self.operations.batches.republish(ME, self._batch("ready", "failed"), slots=True, excess=True)

    async def _skip(self) -> None:
        """Only what no pod has passed can be skipped."""
        await self._stack.consumers.stop()
        offset = await self._stack.consumers.publish(CONTENT_PROVISIONED, content("skipped", f"t{self._skipped}"))
        self._skipped += 1
        await self.operations.inputs.skip(ME, CONTENT_PROVISIONED, 0, offset)
        await self._stack.consumers.start()
        await self._stack.consumers.all_committed()


def rejected(chance: random.Random, name: str) -> list[Input]:
    """Makes registrations that are rejected, and can be corrected, and content of their batches."""
    inputs: list[Input] = []
    for number in range(6):
        batch_id = f"{name}-wrong{number}"
        wrong = registration(batch_id, [f"{batch_id}-e0", f"{batch_id}-e1"], expected_essay_count=3)
        inputs.append((BATCH_REGISTERED, chance.randrange(3), wrong))
        inputs += [
            (CONTENT_PROVISIONED, chance.randrange(3), content(batch_id, f"{batch_id}-t{text}"))
            for text in range(chance.randrange(4))
        ]
    chance.shuffle(inputs)
    return inputs


def exported(stack: SetBack) -> list[Act]:
    query = "select row_to_json(a)::text from ops.operator_actions as a order by id"
    return read_acts("\n".join(row for (row,) in stack.consumers.conn.execute(query)).encode())


def comparable(state: set[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
    """No event says that a failure has expired: after a recovery it waits again."""
    return {
        tuple("pending" if value == "expired" else value for value in row) if row[0] == "validation_failures" else row
        for row in state
    }


@pytest.mark.parametrize("seed", [0, 1])
async def test_what_operators_did_at_random_is_as_before(stack: SetBack, seed: int) -> None:
    chance = random.Random(seed)
    desk, sent = AnyOperator(stack, chance), list[Input]()
    await stack.start()
    for part in range(4):
        if part == 1:
            await stack.keep()
        inputs = traffic(chance, f"p{part}-", 8) + rejected(chance, f"p{part}")
        sent += inputs
        await stack.send(inputs)
        await stack.settled()
        await desk.act(8)
        await stack.settled()
    await stack.stop()
    before, announced = comparable(stack.state()), await stack.outputs()
    erased = "select batch_id from els.batches where erased_at is not null"
    corrections_erased = {name for (name,) in stack.consumers.conn.execute(erased) if "-wrong" in name}
    acts = exported(stack)
    tombstones = [tombstone_of(json.dumps(row, default=str).encode()) for row in await desk.operations.privacy.export()]
    if chance.random() < 0.5:
        stack.clear()
    else:
        await stack.set_back()
    async with stack.database.transaction() as conn:
        assert not tombstones or not await import_tombstones(conn, tombstones)
    recovered = await stack.recover(acts=acts)
    assert recovered.contradictions == []
    # Their registrations were corrected by an operator, in no topic, and erased since.
    assert set(recovered.incomplete) <= corrections_erased
    left = await Repetition(stack.database, desk.operations, "her").repeat(acts)
    if recovered.incomplete:
        state = {row for row in comparable(stack.state()) ^ before if row[1] not in recovered.incomplete}
        assert state == set(), desk.done
        return
    assert left == [], desk.done
    assert comparable(stack.state()) ^ before == set(), desk.done
    await stack.start()
    await stack.send(chance.sample(sent, len(sent) // 3) + traffic(chance, "new", 4))
    await stack.settled()
    outputs = await stack.outputs()
    assert set(announced) <= set(outputs)
    assert len(set(outputs)) == len({event_id for _, event_id, _ in outputs}), "an event id has two bodies"
    await stack.stop()
    await check_audit(stack.consumers.app_url, stack.consumers.broker, stack.consumers.group)
