"""Measures the consumer lag, and detects a consumer that makes no progress although there is lag."""

import asyncio
import time
from collections.abc import Callable

from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from service.consumer.partitions import Assignment
from service.consumer.paused_topics import PausedTopics
from service.kafka.broker_view import Stalled
from service.kafka.group import ConsumerOptions
from service.runtime.health import Health
from service.store.pods import Backlog

LAG_CHECK_SECONDS = 1.0
"""Pause between two reads of the lag and of the paused topics."""

LagReporter = Callable[[TopicPartition, int | None], None]
"""Called with the lag of a partition in records, None where the partition is not assigned any more."""


class Watchdog:
    """Watches one consumer, which calls a method for each of its state changes."""

    def __init__(
        self,
        assignment: Assignment,
        paused: PausedTopics,
        health: Health,
        options: ConsumerOptions,
        report_lag: LagReporter,
    ) -> None:
        self._assignment = assignment
        self._paused = paused
        self._health = health
        self._options = options
        self._report_lag = report_lag
        self._is_assigned = False
        self._progressed_at = self._assigned_at = self._applied_at = time.monotonic()
        self._lag: dict[TopicPartition, int] = {}

    @property
    def backlog(self) -> Backlog:
        """Returns what is left to do, as it was last seen."""
        idle_seconds = time.monotonic() - self._applied_at  # also from one membership to the next
        return Backlog(len(self._assignment.partitions), sum(self._lag.values()), idle_seconds)

    def started(self) -> None:
        """A membership begins."""
        self._progressed_at = self._assigned_at = time.monotonic()

    def progressed(self) -> None:
        """Records were applied, or none are left."""
        self._progressed_at = self._applied_at = time.monotonic()

    def assigned(self) -> None:
        """The group has given partitions to this consumer, possibly none."""
        self._is_assigned = True
        self.started()
        self._report()

    def revoked(self) -> None:
        """The group is rebalancing."""
        self._is_assigned = False

    def dropped(self, tps: list[TopicPartition]) -> None:
        """These partitions are not assigned any more."""
        for tp in tps:
            self._lag.pop(tp, None)
            self._report_lag(tp, None)

    async def watch(self) -> None:
        """Check until cancelled. Raises Stalled."""
        while True:
            await asyncio.sleep(LAG_CHECK_SECONDS)
            await self._check_lag()
            await self._paused.refresh()
            if (unassigned := time.monotonic() - self._assigned_at) > self._options.watchdog:
                # A client may wait for ever for a response that was lost with its broker.
                raise Stalled(f"the group has assigned no partitions for {unassigned:.0f} s")

    async def _check_lag(self) -> None:
        partitions = {tp: each for tp, each in self._assignment.partitions.items() if each.row is not None}
        try:
            ends = await self._assignment.membership.brokers.ends(list(partitions))
        except IllegalStateError:
            return  # there was a rebalance meanwhile
        except (KafkaError, TimeoutError) as error:
            why = self._assignment.membership.brokers.throttled or type(error).__name__
            self._health.set_error("consumer", f"no answer from the broker: {why}")
            return
        if self._is_assigned:
            self._assigned_at = time.monotonic()
        places = {tp: min(partitions[tp].taken, default=partitions[tp].reached) for tp in ends}
        for tp, place in places.items():
            if self._assignment.partitions.get(tp) is partitions[tp]:  # else its new owner reports the lag
                self._lag[tp] = max(0, ends[tp] - place)
                self._report_lag(tp, self._lag[tp])
        if self._assignment.unknown:
            return  # it is not known where to continue in some, and the attempt to find out reports its errors
        if not any(ends[tp] > place for tp, place in places.items() if tp.topic not in self._paused.names):
            self.progressed()
        self._check_progress()

    def _check_progress(self) -> None:
        seconds = time.monotonic() - self._progressed_at
        # Also while commits wait for a synchronous standby: another Kafka client would wait for it, too.
        is_database_at_fault = self._health.parts.get("database") or self._health.parts.get("transactions")
        if seconds > self._options.watchdog and not is_database_at_fault:
            why = f"no progress for {seconds:.0f} s although there is lag"
            self._health.set_error("consumer", why)
            raise Stalled(why)
        if self._is_assigned:
            self._report()

    def _report(self) -> None:
        """Report what delays or prevents the reading of input topics, also where other pods have the partitions."""
        brokers = self._assignment.membership.brokers
        lacking = brokers.lacking()
        self._health.report("consumer", f"{lacking}; the others are read" if lacking else brokers.throttled)
