"""Run a step every interval until told to stop; back off on trouble.

Trouble never ends a loop: the step is tried again after a pause that is random up to a bound which
doubles each time ("full jitter"), so that pods that were hit together don't come back together. Only
cancellation ends it at once.
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
"""Trouble that lasts is logged once in so many seconds, with its count."""


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
class Seldom:
    """Whether it is time to tell of trouble that lasts: at once, then every `LOG_SECONDS`, until it is over."""

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
    seconds or when `wake` is set. `trouble` is what the last run failed with, None while all is well.
    """

    name: str
    step: Callable[[], Awaitable[bool]]
    every: float
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    backoff: Backoff = field(default_factory=Backoff)
    trouble: str | None = None
    _seldom: Seldom = field(default_factory=Seldom)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; a step that has begun is finished."""
        stopping: asyncio.Future[bool] = asyncio.ensure_future(stop.wait())
        try:
            while not stop.is_set():
                self.wake.clear()
                pause = await self._once()
                if pause is None:
                    await asyncio.sleep(0)
                elif self.trouble:
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
        self._went_well()
        return None if more else self.every

    async def _rest(self, stopping: "asyncio.Future[bool]", pause: float) -> None:
        waking: asyncio.Future[bool] = asyncio.ensure_future(self.wake.wait())
        try:
            await asyncio.wait({stopping, waking}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Not waited for: a cancellation that comes then could not be told from this one, and would be lost.
            waking.cancel()

    def _failed(self, error: Exception) -> float:
        self.trouble = one_line(error)
        pause = self.backoff.pause()
        if self._seldom.due():
            _log.warning("trouble", loop=self.name, error=self.trouble, failures=self.backoff.failures)
        return pause

    def _went_well(self) -> None:
        if self.trouble is not None:
            _log.info("trouble_over", loop=self.name, failures=self.backoff.failures)
            self._seldom.over()
        self.trouble = None
        self.backoff.failures = 0
