"""Reads the topics as any consumer does: committed records only, with librdkafka, which the service does not use."""

import time
from collections import defaultdict
from typing import Any, Final, NamedTuple
from uuid import uuid4

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

REGISTERED: Final = "huleedu.batch.essays.registered.v1"
CONTENT: Final = "huleedu.file.essay.content.provisioned.v1"
FAILURE: Final = "huleedu.file.essay.validation.failed.v1"
CONFIRMED: Final = "huleedu.class.student.associations.confirmed.v1"
INPUTS: Final = (REGISTERED, CONTENT, FAILURE, CONFIRMED)

SLOT: Final = "huleedu.els.essay.slot.assigned.v1"
COMPLETED: Final = "huleedu.batch.content.provisioning.completed.v1"
READY: Final = "huleedu.els.batch.essays.ready.v1"
EXCESS: Final = "huleedu.els.excess.content.provisioned.v1"
ERRORS: Final = "huleedu.els.batch.validation.errors.v1"
EXPIRED: Final = "huleedu.els.pending.content.expired.v1"
LATE: Final = "huleedu.els.batch.readiness.timeout.v1"
CANCELLED: Final = "huleedu.els.batch.cancelled.v1"
OUTPUTS: Final = (SLOT, COMPLETED, READY, EXCESS, ERRORS, EXPIRED, LATE, CANCELLED)

QUIET: Final[dict[str, Any]] = {"log_level": 0}
"""Brokers are down on purpose; librdkafka would write a line about each attempt."""


class Seen(NamedTuple):
    """One record; `time` is its timestamp in milliseconds, `place` its partition and offset."""

    topic: str
    place: tuple[int, int]
    time: int
    key: bytes
    value: bytes
    headers: dict[str, bytes]


class Reader:
    """Reads what the topics have got since the last time."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._next: defaultdict[tuple[str, int], int] = defaultdict(int)

    def skip(self) -> None:
        """Leaves out everything that the topics have now."""
        consumer = self._consumer()
        try:
            for partition in self._partitions(consumer):
                _, end = consumer.get_watermark_offsets(partition, timeout=20)
                self._next[partition.topic, partition.partition] = end
        finally:
            consumer.close()

    def begin_again(self, topic: str) -> None:
        """Reads a topic from its beginning, since it was deleted and created."""
        for each in [each for each in self._next if each[0] == topic]:
            del self._next[each]

    def read(self, seconds: float = 30) -> list[Seen]:
        """Returns all new records up to the ends of all partitions. Raises KafkaException, TimeoutError."""
        consumer, found = self._consumer(), []
        try:
            partitions = self._partitions(consumer)
            for each in partitions:
                each.offset = self._next[each.topic, each.partition]
            consumer.assign(partitions)
            unfinished = {(each.topic, each.partition) for each in partitions}
            end = time.monotonic() + seconds
            while unfinished:
                if time.monotonic() > end:
                    raise TimeoutError(f"{sorted(unfinished)} could not be read")
                for message in consumer.consume(1000, timeout=0.2):
                    topic, partition = message.topic(), message.partition()
                    assert topic is not None
                    assert partition is not None
                    if (error := message.error()) is None:
                        found.append(_seen(message))
                        self._next[topic, partition] = found[-1].place[1] + 1
                    elif error.code() == KafkaError._PARTITION_EOF:
                        unfinished.discard((topic, partition))
                    else:
                        raise KafkaException(error)
        finally:
            consumer.close()
        return found

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": f"judge-{uuid4().hex}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                # Deleted records: go on with what is left.
                "auto.offset.reset": "earliest",
                **QUIET,
            }
        )

    def _partitions(self, consumer: Consumer) -> list[TopicPartition]:
        there = consumer.list_topics(timeout=20).topics
        return [
            TopicPartition(name, number)
            for name in (*INPUTS, *OUTPUTS)
            if name in there and there[name].error is None
            for number in there[name].partitions
        ]


def _seen(message: Message) -> Seen:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    pairs: Any = message.headers() or []
    headers = {name: value for name, value in pairs if isinstance(value, bytes)}
    key, value = message.key() or b"", message.value() or b""
    assert isinstance(key, bytes)
    assert isinstance(value, bytes)
    return Seen(topic, (partition, offset), message.timestamp()[1], key, value, headers)
