"""Applies records that wait for other transactions, beside the polls that follow."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from aiokafka import TopicPartition

from service.consumer.partitions import Partition
from service.consumer.progress import Progress
from service.domain.delivery import Delivery
from service.intake.intake import Intake
from service.runtime.loop import cancelled


class DeferredRecords:
    """Applies deferred records, one batch per task. Records that arrive for such a batch meanwhile wait behind them."""

    def __init__(self, intake: Intake, progress: Progress, progressed: Callable[[], None]) -> None:
        """`progressed` is called whenever deferred records were applied."""
        self.bytes = 0
        """Bytes of the values of the deferred records."""
        self._intake = intake
        self._progress = progress
        self._progressed = progressed
        self._waiting: dict[str, list[tuple[Partition, Delivery]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None

    @property
    def batch_ids(self) -> frozenset[str]:
        """The batches that have deferred records."""
        return frozenset(self._waiting)

    def defer(self, deferred: Iterable[Delivery], partitions: Mapping[TopicPartition, Partition]) -> None:
        """Apply these in the background, in order of arrival within a batch."""
        for delivery in deferred:
            batch_id: str = delivery.event.batch_id  # type: ignore[union-attr]  # a rejection is never deferred
            if batch_id not in self._waiting:
                self._waiting[batch_id] = []
                task = asyncio.create_task(self._apply(batch_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            partition = partitions[TopicPartition(delivery.topic, delivery.partition)]
            self._waiting[batch_id].append((partition, delivery))
            self.bytes += len(delivery.value or b"")

    async def watch(self) -> None:
        """Wait until cancelled. Raises the first error of a transaction that the intake does not repeat."""
        self._failure = asyncio.get_running_loop().create_future()
        await self._failure

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is deferred, for so many seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def abandon(self, beside: Iterable["asyncio.Task[None]"] = ()) -> None:
        """Drop all deferred records. They will be read again, since their offsets were not committed.

        The tasks `beside` end with them. All are cancelled at once: none goes on if this is cancelled meanwhile.
        """
        await cancelled([*beside, *self._tasks])
        self._waiting.clear()
        self.bytes = 0

    async def _apply(self, batch_id: str) -> None:
        try:
            while waiting := self._waiting[batch_id]:
                self._waiting[batch_id] = []
                rows = self._progress.of({partition.tp: partition for partition, _ in waiting})
                await self._intake.take_exclusive([delivery for _, delivery in waiting], rows)
                self._progressed()
                self.bytes -= sum(len(delivery.value or b"") for _, delivery in waiting)
            del self._waiting[batch_id]
        except Exception as error:
            if self._failure is None or self._failure.done():
                raise
            self._failure.set_exception(error)
