"""Publishes the recorded morning to the incoming topics, as its producers did or with repeats."""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from aiokafka import AIOKafkaProducer, TopicPartition

from deploy.servers.brokers import Broker
from service.domain import incoming as events
from service.domain.events import BatchRegistered, Rejection

STREAMS = Path(__file__).parents[2] / "data" / "streams"

OUTAGE_MS = 60_000
"""Seconds to wait for a broker that was killed and restarted."""


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the recording; `at_ms` counts from the start of the morning."""

    at_ms: int
    topic: str
    key: bytes | None
    value: bytes | None


def morning() -> list[Record]:
    """Returns the recording, in the order of publication."""
    with (STREAMS / "school-day.jsonl").open() as lines:
        return [_record(json.loads(line)) for line in lines]


def each_twice(records: Sequence[Record]) -> list[Record]:
    """Returns each record twice, under the same event id."""
    return [copy for record in records for copy in (record, record)]


def again_renewed(records: Sequence[Record]) -> list[Record]:
    """Returns all records, then all again under new event ids.

    Rejected records are repeated unchanged, since with another value they would be other inputs.
    """
    first_sets: dict[str, frozenset[str]] = {}
    return [*records, *(_renewed(record, first_sets) for record in records)]


class Replay:
    """Publishes records; `published` counts those that the broker has acknowledged."""

    def __init__(
        self, broker: Broker, records: Sequence[Record], *, speed: float | None = None, holds_back: int = 0
    ) -> None:
        """`speed` is a multiple of the recording's pace; None means as fast as possible.

        The last `holds_back` records are published only after `may_end` is set.
        """
        self.may_end = asyncio.Event()
        self.published = 0
        self.ends: dict[TopicPartition, int] = {}
        """The offset after the last record, by partition; Tansu's end offsets may be too low."""
        self._broker = broker
        self._records = records
        self._speed = speed
        self._holds_back = holds_back

    async def run(self) -> None:
        """Publishes all. Raises KafkaError if the broker does not return in time."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self._broker.bootstrap_servers,
            acks="all",
            enable_idempotence=self._broker.idempotence,
            max_request_size=4 * 1024 * 1024,
            request_timeout_ms=OUTAGE_MS,
        )
        await producer.start()
        try:
            await self._publish(producer)
        finally:
            await producer.stop()

    async def _publish(self, producer: AIOKafkaProducer) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        sent = []
        for left, record in zip(range(len(self._records), 0, -1), self._records, strict=True):
            if left == self._holds_back:
                await self.may_end.wait()
            if self._speed is not None:
                await asyncio.sleep(max(0.0, started + record.at_ms / 1000 / self._speed - clock()))
            acknowledged = await producer.send(record.topic, record.value, record.key)
            acknowledged.add_done_callback(self._count)
            sent.append(acknowledged)
        await asyncio.gather(*sent)

    def _count(self, acknowledged: "asyncio.Future[object]") -> None:
        if acknowledged.cancelled() or acknowledged.exception():
            return
        self.published += 1
        at = acknowledged.result()
        partition = TopicPartition(at.topic, at.partition)  # type: ignore[attr-defined]
        end = at.offset + 1  # type: ignore[attr-defined]
        self.ends[partition] = max(end, self.ends.get(partition, 0))


def _record(line: dict[str, str]) -> Record:
    value = base64.b64decode(line["value_b64"]) if "value_b64" in line else _bytes(line["value"])
    return Record(int(line["at_ms"]), line["topic"], _bytes(line["key"]), value)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _renewed(record: Record, first_sets: dict[str, frozenset[str]]) -> Record:
    event = events.decode(record.topic, record.value, max_bytes=16 * 1024 * 1024)
    if isinstance(event, Rejection) or record.value is None:
        return record
    if isinstance(event, BatchRegistered):
        essay_ids = frozenset(event.essay_ids)
        if first_sets.setdefault(event.batch_id, essay_ids) != essay_ids:
            return record
    envelope = json.loads(record.value)
    return replace(record, value=json.dumps(envelope | {"event_id": str(uuid4())}).encode())
