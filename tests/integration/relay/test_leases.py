"""Tests that relays share the shards, take over from one that died, and wake each other."""

import asyncio
from contextlib import suppress

from service.store.relays import SHARDS
from tests.support.pods.relay_stage import BOUND, Recording, Stage, until


async def test_a_relay_that_loses_its_lease_sends_nothing_more(stage: Stage) -> None:
    first, second = await stage.create(2)
    await stage.commit(("b", first, "1"), ("b", second, "2"))
    gate = asyncio.Event()
    relay = stage.relay(gate)
    sending = asyncio.create_task(relay.publish_once())

    async def sends_the_first() -> bool:
        producer = relay._worker._line._producer
        return isinstance(producer, Recording) and producer.reached.is_set()

    await until(sends_the_first)
    relay._lease._until = float("-inf")
    gate.set()
    await asyncio.wait_for(sending, BOUND)
    assert stage.acknowledged == stage.written["b"][:1]
    await relay.close()


async def test_relays_share_the_shards_and_take_over_from_a_crashed_one(stage: Stage) -> None:
    [topic] = await stage.create()
    leaving, staying = stage.relay(lease_seconds=0.6), stage.relay(lease_seconds=0.6)

    async def shared() -> bool:
        return sorted((await stage.owners()).values()) == [SHARDS // 2, SHARDS // 2]

    async def taken_over() -> bool:
        return list((await stage.owners()).values()) == [SHARDS] and len(staying.shards) == SHARDS

    async with stage.running(staying):
        vanishing = asyncio.create_task(leaving.run(asyncio.Event()))
        await until(shared)
        vanishing.cancel()
        with suppress(asyncio.CancelledError):
            await vanishing
        await stage.commit(*[(f"batch-{n}", topic, "x") for n in range(200)])
        await until(taken_over)
        await until(stage.is_empty)
    stage.assert_in_order()


async def test_a_relay_that_died_while_the_clock_was_ahead_is_replaced(stage: Stage) -> None:
    [(dead,)] = await stage.all(
        "insert into els.relays values (gen_random_uuid(), now() + interval '2 days', true) returning relay"
    )
    await stage.all(f"update els.relay_shards set relay = '{dead}' returning relay")
    relay = stage.relay()

    async def holds_all() -> bool:
        return len(relay.shards) == SHARDS

    async with stage.running(relay):
        await until(holds_all)


async def test_a_relay_that_stops_gives_its_shards_back(stage: Stage) -> None:
    relay = stage.relay()

    async def holds_all() -> bool:
        return len(relay.shards) == SHARDS and relay.error is None

    async with stage.running(relay):
        await until(holds_all)
    assert await stage.owners() == {None: SHARDS}
    assert await stage.all("select from els.relays") == []
    assert relay.error


async def test_a_commit_of_another_pod_wakes_the_relay_of_the_shard(stage: Stage) -> None:
    [topic] = await stage.create()
    relays = [stage.relay(poll_seconds=3600, lease_seconds=1.5) for _ in range(2)]

    async def shared() -> bool:
        return sorted((await stage.owners()).values()) == [SHARDS // 2, SHARDS // 2]

    async def listening() -> bool:
        sessions = await stage.all(
            "select from pg_stat_activity where query like 'listen %' and datname = current_database()"
        )
        return len(sessions) == 2

    for relay in relays:
        relay._working.every = 0.05
    async with stage.running(*relays):
        await until(shared)
        await until(listening)
        for relay in relays:
            relay._working.every = 3600
            relay._working.wake.set()
        await stage.commit(*[(f"batch-{n}", topic, "x") for n in range(100)])
        relays[0].wake()
        await until(stage.is_empty)


async def test_a_relay_whose_lease_ran_out_gets_a_new_identity(stage: Stage) -> None:
    """A fetch that it has sent, with its old watermark, must not find the shards of its next lease."""
    relay = stage.relay(lease_seconds=3600)
    await relay._lease.renew()
    before = relay._lease.relay
    await relay._lease.renew()
    assert relay._lease.relay == before
    relay._lease._until = float("-inf")
    await relay._lease.renew()
    assert relay._lease.relay != before
    assert not relay.shards, "they are the old identity's until its lease is over"
    await relay.close()
