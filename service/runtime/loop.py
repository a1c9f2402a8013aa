"""Runs background tasks: a step that is repeated every interval until it is stopped, with backoff after errors.

An error never ends a loop: the step is retried after a random pause, up to a bound that doubles each time ("full
jitter"), so that pods that failed together do not retry together. Only cancellation ends a loop at once.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from service.runtime.errors import one_line

_log = structlog.get_logger(__name__)

LOG_SECONDS = 30.0
"""Pause, in seconds, between two log lines about an error that lasts."""

LOST_SECONDS = 1.0
"""Time after which a cancellation is repeated, in seconds: a library may have swallowed it."""


async def cancelled(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel tasks and wait until all have ended. Repeats a cancellation that was swallowed. Ignores their errors."""
    tasks = list(tasks)
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=LOST_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


async def ends_before(stop: asyncio.Event, step: Coroutine[Any, Any, object]) -> bool:
    """Run a step, and cancel it where `stop` is set first. Returns whether it ended. Raises its error."""
    stopping, running = asyncio.create_task(stop.wait()), asyncio.create_task(step)
    try:
        await asyncio.wait([stopping, running], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await cancelled([running])
    if running.cancelled():
        return False
    running.result()
    return True


async def watch_blocking(report: Callable[[float], None], every: float = 0.1) -> None:
    """Report for how many seconds the process blocked its event loop, each time that it is longer than ever before.

    What other processes take from it does not count: only its own computing does.
    """
    longest = 0.0
    while True:
        before, computed = time.monotonic(), time.process_time()
        await asyncio.sleep(every)
        blocked = min(time.monotonic() - before - every, time.process_time() - computed)
        if blocked > longest:
            longest = blocked
            report(longest)


@dataclass(slots=True)
class Backoff:
    """Computes the pauses between failing attempts, in seconds."""

    first: float = 0.1
    longest: float = 5.0
    failures: int = 0

    def pause(self) -> float:
        """Count one more failure. Returns a random pause, up to a bound that doubles with each failure."""
        bound = min(self.longest, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return random.uniform(0, bound)  # noqa: S311  spreads load; needs no cryptographic randomness


@dataclass(slots=True)
class Throttle:
    """Limits how often an error that lasts is logged: at once, then every `LOG_SECONDS`, until it is over."""

    _at: float = float("-inf")

    def due(self) -> bool:
        """Returns whether the error should be logged now."""
        now = time.monotonic()
        if now - self._at < LOG_SECONDS:
            return False
        self._at = now
        return True

    def over(self) -> None:
        """Note that the error is over: the next one is logged at once."""
        self._at = float("-inf")


@dataclass(slots=True)
class Loop:
    """Repeats a step: at once while it returns True (there is more to do), else after `every` seconds or when `wake` is
    set. `error` is the error of the last run; None if it succeeded.
    """

    name: str
    step: Callable[[], Awaitable[bool]]
    every: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    backoff: Backoff = field(default_factory=Backoff)
    error: str | None = None
    describe: Callable[[Exception], str] = one_line
    """Makes one line of an error."""
    _throttle: Throttle = field(default_factory=Throttle)

    async def run(self, stop: asyncio.Event) -> None:
        """Repeat the step until `stop`. Finishes a step that has begun."""
        stopping: asyncio.Future[bool] = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self.wake.clear()
                pause = await self._once()
                if pause is None:
                    await asyncio.sleep(0)
                elif self.error:
                    await asyncio.wait({stopping}, timeout=pause)
                else:
                    await self._rest(stopping, pause)
        finally:
            stopping.cancel()

    async def _once(self) -> float | None:
        """Run the step once. Returns the pause after it in seconds, or None if there is more to do at once."""
        try:
            more = await self.step()
        except Exception as error:  # noqa: BLE001  no error may end the loop
            return self._failed(error)
        self._succeeded()
        return None if more else self.every

    async def _rest(self, stopping: "asyncio.Future[bool]", pause: float) -> None:
        waking: asyncio.Future[bool] = asyncio.ensure_future(self.wake.wait())
        try:
            await asyncio.wait({stopping, waking}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Not awaited: a cancellation of this task that came meanwhile would look like this one, and be lost.
            waking.cancel()

    def _failed(self, error: Exception) -> float:
        self.error = self.describe(error)
        pause = self.backoff.pause()
        if self._throttle.due():
            _log.warning("background_task_failed", loop=self.name, error=self.error, failures=self.backoff.failures)
        return pause

    def _succeeded(self) -> None:
        if self.error is not None:
            _log.info("background_task_recovered", loop=self.name, failures=self.backoff.failures)
            self._throttle.over()
        self.error = None
        self.backoff.failures = 0
