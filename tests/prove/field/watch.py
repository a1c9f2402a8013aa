"""Watches what the service says of itself while a fault lasts.

That is what `/readyz` of each pod and `ops.health` say, the last line of a pod that has ended, and what a cell notes.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from deploy.servers.pods import Pods

EVERY = 0.25


@dataclass
class Watch:
    """What was said when, on the monotonic clock. `deaths` counts pods that ended by themselves; they are restarted."""

    pods: Pods
    said: list[tuple[float, str]] = field(default_factory=list)
    deaths: int = 0
    down: set[int] = field(default_factory=set)
    """The numbers of pods that the cell itself has stopped."""

    async def run(self, database_url: Callable[[], str]) -> None:
        """Watches until it is cancelled."""
        await asyncio.gather(self._tables(database_url), *(self._pod(number) for number in range(len(self.pods.all))))

    def first(self, pattern: str, since: float) -> float | None:
        """Returns the seconds from `since` until the pattern was said, or None."""
        found = re.compile(pattern, re.IGNORECASE)
        return next((at - since for at, text in self.said if at >= since and found.search(text)), None)

    def says(self, pattern: str, seconds: float = 3 * EVERY) -> bool:
        """Returns whether the pattern was said within the last seconds."""
        return self.first(pattern, time.monotonic() - seconds) is not None

    def summary(self, since: float) -> list[str]:
        """Returns the different things that were said, each once, with its second."""
        first: dict[str, float] = {}
        for at, text in self.said:
            if at >= since:
                first.setdefault(re.sub(r"\d+(\.\d+)?", "N", text), at - since)
        return [f"{at:.1f} s: {text}" for text, at in list(first.items())[:6]]

    async def _pod(self, number: int) -> None:
        while True:
            pod = self.pods.all[number]
            if number not in self.down:
                if pod.has_ended:
                    self.deaths += 1
                    self.note(f"pod {number} ended", [pod.last_lines(1)])
                    pod.start()
                _, body = await asyncio.to_thread(pod.readiness)
                self.note(f"pod {number}", _errors(body))
            await asyncio.sleep(EVERY)

    async def _tables(self, database_url: Callable[[], str]) -> None:
        while True:
            self.note("ops.health", await asyncio.to_thread(_attention, database_url()))
            await asyncio.sleep(EVERY)

    def note(self, source: str, texts: list[str]) -> None:
        """Notes that this was said now."""
        self.said += [(time.monotonic(), f"{source}: {text}") for text in texts]


def _errors(body: str) -> list[str]:
    """Returns the parts that are not ok. An answer that is no JSON says that there is no answer, and nothing else."""
    try:
        parts = json.loads(body)["parts"]
    except (ValueError, KeyError):
        return []
    return [f"{part}: {text}" for part, text in parts.items() if text != "ok"]


def _attention(database_url: str) -> list[str]:
    try:
        options = "-c statement_timeout=3s"
        with psycopg.connect(database_url, autocommit=True, connect_timeout=3, options=options) as conn:
            row = conn.execute("select attention from ops.health").fetchone()
    except psycopg.Error:
        return []
    found = row[0] if row else None
    return [found] if isinstance(found, str) else list(found or [])
