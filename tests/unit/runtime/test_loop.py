"""Tests that a loop survives every error of its step, wakes when it is woken, and stops when it is stopped."""

import asyncio
import time
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from service.runtime.loop import Backoff, Loop, Throttle, cancelled, ends_before, watch_blocking

BOUND = 60
"""Seconds after which a wait has failed."""


async def test_a_step_that_has_more_to_do_runs_again_at_once() -> None:
    left = [3]
    idle = asyncio.Event()

    async def step() -> bool:
        left[0] -= 1
        if left[0] == 0:
            idle.set()
        return left[0] > 0

    stop = asyncio.Event()
    running = asyncio.create_task(Loop("test", step, every=3600).run(stop))
    await asyncio.wait_for(idle.wait(), BOUND)
    stop.set()
    await asyncio.wait_for(running, BOUND)
    assert left == [0]


async def test_waking_a_loop_ends_its_rest() -> None:
    runs = asyncio.Queue[None]()

    async def step() -> bool:
        runs.put_nowait(None)
        return False

    stop = asyncio.Event()
    loop = Loop("test", step, every=3600)
    running = asyncio.create_task(loop.run(stop))
    for _ in range(3):
        await asyncio.wait_for(runs.get(), BOUND)
        loop.wake.set()
    stop.set()
    await asyncio.wait_for(running, BOUND)


async def test_a_cancellation_ends_a_loop_at_any_moment() -> None:
    async def step() -> bool:
        return False

    for turns in range(30):
        loop = Loop("test", step, every=0)
        running = asyncio.create_task(loop.run(asyncio.Event()))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        ended, _ = await asyncio.wait([running], timeout=1)
        await cancelled([running])
        assert ended, f"cancelled in turn {turns}, it still runs"


async def test_a_cancellation_that_a_task_swallows_is_repeated() -> None:
    async def swallows_one_cancellation() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def failing() -> None:
        raise ValueError("ignored")

    tasks = [asyncio.create_task(each) for each in (swallows_one_cancellation(), failing())]
    await asyncio.sleep(0)
    async with asyncio.timeout(BOUND):
        await cancelled(tasks)
    assert tasks[0].cancelled()


async def test_a_wake_during_a_step_is_not_lost() -> None:
    runs = 0
    again = asyncio.Event()

    async def step() -> bool:
        nonlocal runs
        runs += 1
        if runs == 1:
            loop.wake.set()
        else:
            again.set()
        return False

    stop = asyncio.Event()
    loop = Loop("test", step, every=3600)
    running = asyncio.create_task(loop.run(stop))
    await asyncio.wait_for(again.wait(), BOUND)
    stop.set()
    await asyncio.wait_for(running, BOUND)


async def test_an_error_is_retried_logged_once_and_cleared_on_success() -> None:
    runs = 0
    errors = []
    succeeded = asyncio.Event()

    async def step() -> bool:
        nonlocal runs
        runs += 1
        errors.append(loop.error)
        if runs < 5:
            raise OSError("away")
        succeeded.set()
        return False

    stop = asyncio.Event()
    loop = Loop("test", step, every=3600, backoff=Backoff(first=0.001, longest=0.002))
    with capture_logs() as logs:
        running = asyncio.create_task(loop.run(stop))
        await asyncio.wait_for(succeeded.wait(), BOUND)
        stop.set()
        await asyncio.wait_for(running, BOUND)
    assert errors == [None] + ["OSError: away"] * 4
    assert loop.error is None
    assert [log["event"] for log in logs] == ["background_task_failed", "background_task_recovered"]


async def test_an_error_that_lasts_is_logged_once_per_interval() -> None:
    throttle = Throttle()
    assert [throttle.due() for _ in range(1000)] == [True] + [False] * 999
    throttle.over()
    assert throttle.due()


async def test_a_stop_ends_a_long_pause_after_an_error() -> None:
    failed = asyncio.Event()

    async def step() -> bool:
        failed.set()
        raise OSError("away")

    stop = asyncio.Event()
    running = asyncio.create_task(Loop("test", step, 3600, backoff=Backoff(3600, 3600)).run(stop))
    await asyncio.wait_for(failed.wait(), BOUND)
    stop.set()
    await asyncio.wait_for(running, BOUND)


def test_pauses_stay_below_a_bound_that_doubles_up_to_the_longest() -> None:
    for _ in range(100):
        backoff = Backoff(first=1, longest=4)
        for bound in (1, 2, 4, 4, 4):
            assert 0 <= backoff.pause() <= bound


async def test_the_longest_time_that_the_process_blocked_its_event_loop_is_reported() -> None:
    reports: list[float] = []
    watching = asyncio.create_task(watch_blocking(reports.append, every=0.01))
    await asyncio.sleep(0.03)
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    while not reports or reports[-1] < 0.15:  # noqa: ASYNC110  the watch runs on the same loop
        await asyncio.sleep(0.01)
    watching.cancel()
    assert reports == sorted(reports)


async def test_a_step_is_cancelled_where_the_stop_comes_first() -> None:
    stop = asyncio.Event()
    assert await ends_before(stop, asyncio.sleep(0))
    waiting = asyncio.create_task(ends_before(stop, asyncio.sleep(3600)))
    await asyncio.sleep(0)
    stop.set()
    assert not await asyncio.wait_for(waiting, BOUND)

    async def fails() -> None:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await ends_before(asyncio.Event(), fails())
