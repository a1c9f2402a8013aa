"""Keeps an hour of numbers in the memory of the pod, for the plots of the overview.

Sampling runs no statement: it takes the gauges, which the pod reads anyway, and asks the broker for the ends of the
topics. Every pod has its own samples, which begin with its start.
"""

import asyncio
import time
from array import array
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from aiokafka.errors import KafkaError

from service.domain.topics import INCOMING_TOPICS
from service.kafka.offsets import OffsetsSource, TopicOffsets
from service.kafka.topics import OUTGOING

SAMPLE_SECONDS: Final = 15
KEPT: Final = 3600 // SAMPLE_SECONDS + 1
NAN: Final = float("nan")

PLOTS: Final[Mapping[str, str]] = {
    "input": "records in, per second",
    "output": "events out, per second",
    "waiting": "contents waiting",
    "lag": "records not yet read (lag)",
    "outbox": "events not yet published (outbox)",
}
"""What is plotted, with its title."""


class Samples:
    """Takes a sample every `SAMPLE_SECONDS`, and keeps the last hour of them."""

    def __init__(self, gauges: Callable[[], Mapping[str, float]], offsets: OffsetsSource) -> None:
        """`gauges` returns the values of the last read, by the name of the gauge; nothing where they are too old."""
        self._gauges = gauges
        self._offsets = offsets
        self._kept: deque[array[float]] = deque(maxlen=KEPT)
        """Of each sample: its time (Unix), the ends of the input and output topics, waiting, lag, outbox."""

    async def watch(self) -> None:
        """Take samples until cancelled."""
        while True:
            await self.take()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def take(self) -> None:
        """Take one sample. A number that cannot be read is missing in it."""
        offsets: TopicOffsets | None = None
        with suppress(KafkaError, OSError, TimeoutError):
            offsets = await self._offsets.read()
        self.add(time.time(), self._gauges(), offsets)

    def add(self, at: float, gauges: Mapping[str, float], offsets: TopicOffsets | None) -> None:
        """Keep a sample of a time (Unix)."""
        numbers = (
            at,
            _sum(offsets, INCOMING_TOPICS),
            _sum(offsets, OUTGOING),
            gauges.get("els_pending_content", NAN),
            NAN if offsets is None else sum(offsets.lag.values()),
            gauges.get("els_outbox_pending", NAN),
        )
        self._kept.append(array("d", numbers))

    @property
    def begin(self) -> float | None:
        """Returns the time of the first sample that is kept; None while there is none."""
        return self._kept[0][0] if self._kept else None

    def columns(self) -> dict[str, list[float | None]]:
        """Returns the samples as columns: `at` and those of `PLOTS`. A missing number is None."""
        rows = list(self._kept)
        rates = [_rates(before, now) for before, now in zip([None, *rows], rows, strict=False)]
        columns: dict[str, list[float | None]] = {"at": [row[0] for row in rows]}
        columns["input"] = [rate[0] for rate in rates]
        columns["output"] = [rate[1] for rate in rates]
        for place, name in enumerate(("waiting", "lag", "outbox"), 3):
            columns[name] = [_known(row[place]) for row in rows]
        return columns

    def latest(self) -> dict[str, float | None]:
        """Returns the last number of each plot; None where it is missing."""
        columns = self.columns()
        return {name: next(iter(columns[name][-1:]), None) for name in PLOTS}


def _rates(before: "array[float] | None", now: "array[float]") -> tuple[float | None, float | None]:
    if before is None:
        return None, None
    seconds = max(now[0] - before[0], 0.001)

    def rate(place: int) -> float | None:
        # Ends that fell: topics were created again.
        grown = now[place] - before[place]
        return round(grown / seconds, 2) if grown >= 0 else None  # false for NaN, too

    return rate(1), rate(2)


def _sum(offsets: TopicOffsets | None, topics: Any) -> float:
    return NAN if offsets is None else float(sum(offsets.ends.get(topic, 0) for topic in topics))


def _known(number: float) -> float | None:
    return None if number != number else number  # noqa: PLR0124  NaN is the number that differs from itself
