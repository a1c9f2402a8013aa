"""Background tasks: a step that runs again every interval until it is stopped, with backoff after errors.

An error never ends a loop: the step is retried after a random pause, up to a bound that doubles each time ("full
jitter"), so that pods that failed together do not retry together. Only cancellation ends a loop at once.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from service.runtime.errors import one_line

_log = structlog.get_logger(__name__)

LOG_SECONDS = 30.0
"""An error that lasts is logged once in so many seconds, with the number of failures."""


LOST_SECONDS = 1.0
"""A cancellation that has not ended a task after so long may have been lost on its way, and is repeated."""


async def cancelled(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel what still runs, again where a library swallowed it, until all has ended, whatever it ended with."""
    tasks = list(tasks)
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=LOST_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(slots=True)
class Backoff:
    """Pauses between tries that fail, in seconds."""

    first: float = 0.1
    longest: float = 5.0
    failures: int = 0

    def pause(self) -> float:
        """The pause after one more failure: anything up to a bound that doubles."""
        bound = min(self.longest, self.first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return random.uniform(0, bound)  # noqa: S311  spreads load, hides nothing


@dataclass(slots=True)
class Throttle:
    """Limits how often an error that lasts is logged: at once, then every `LOG_SECONDS`, until it is over."""

    _at: float = float("-inf")

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._at < LOG_SECONDS:
            return False
        self._at = now
        return True

    def over(self) -> None:
        self._at = float("-inf")


@dataclass(slots=True)
class Loop:
    """A step that runs again and again: at once while it says that there is more, else every `every`
    seconds or when `wake` is set. `error` is what the last run failed with; None while it succeeds.
    """

    name: str
    step: Callable[[], Awaitable[bool]]
    every: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    backoff: Backoff = field(default_factory=Backoff)
    error: str | None = None
    _throttle: Throttle = field(default_factory=Throttle)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a step that has begun is finished."""
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
        """One step; returns how long to rest after it, None for not at all."""
        try:
            more = await self.step()
        except Exception as error:  # noqa: BLE001  whatever it is, the loop must outlive it
            return self._failed(error)
        self._succeeded()
        return None if more else self.every

    async def _rest(self, stopping: "asyncio.Future[bool]", pause: float) -> None:
        waking: asyncio.Future[bool] = asyncio.ensure_future(self.wake.wait())
        try:
            await asyncio.wait({stopping, waking}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Not waited for: a cancellation that comes then could not be told from this one, and would be lost.
            waking.cancel()

    def _failed(self, error: Exception) -> float:
        self.error = one_line(error)
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
