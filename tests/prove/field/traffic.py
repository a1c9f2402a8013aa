"""Builds the inputs of batches, and sends them with the clients that producers use."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from deploy.servers.kafka_tools import run_tool
from tests.prove.field.topics import CONFIRMED, CONTENT, FAILURE, INPUTS, QUIET, REGISTERED
from tests.support.builders import inputs

SIZES: Final = (1, 3, 5, 5, 10)
CODECS: Final = ("none", "gzip", "snappy", "lz4", "zstd")

Acknowledged = Counter[tuple[str, bytes]]
"""Records by topic and value."""


class Record(NamedTuple):
    """One input."""

    topic: str
    key: bytes
    value: bytes


def batch(dice: random.Random, batch_id: str) -> list[Record]:
    """Returns the inputs of a batch in random order: regular or guest, repeats, failures, excess content, garbage."""
    essays = [f"{batch_id}-e{number}" for number in range(dice.choice(SIZES))]
    class_id = dice.choice((None, "8a"))
    key = batch_id.encode()
    made = [Record(REGISTERED, key, inputs.registration(batch_id, essays, class_id=class_id))]
    if class_id:
        made.append(Record(CONFIRMED, key, inputs.confirmation(batch_id, class_id)))
    for number in range(len(essays) + (dice.random() < 0.1)):
        name = f"{batch_id}-{number}"
        fails = dice.random() < 0.05
        made.append(failure(batch_id, name) if fails else content(batch_id, name))
    if dice.random() < 0.2:
        made.append(dice.choice(made))
    if dice.random() < 0.02:
        made.append(Record(CONTENT, key, f"{{{batch_id} {dice.random()}".encode()))
    dice.shuffle(made)
    return made


def content(batch_id: str, name: str) -> Record:
    """Returns a content; its key is the upload's, as the File Service does it."""
    return Record(CONTENT, f"upload-{name}".encode(), inputs.content(batch_id, name))


def failure(batch_id: str, name: str) -> Record:
    """Returns a validation failure."""
    return Record(FAILURE, f"upload-{name}".encode(), inputs.failure(batch_id, f"upload-{name}"))


def batches(dice: random.Random, prefix: str, count: int) -> list[Record]:
    """Returns the inputs of many batches, mixed."""
    made = [record for number in range(count) for record in batch(dice, f"{prefix}-{number}")]
    # Mixed among neighbours: the inputs of a batch arrive near each other.
    order = {id(record): place + dice.uniform(0, 100) for place, record in enumerate(made)}
    return sorted(made, key=lambda record: order[id(record)])


class Librdkafka:
    """A producer of librdkafka; notes what the brokers have acknowledged."""

    def __init__(self, servers: str, acknowledged: Acknowledged, **config: Any) -> None:
        """`config` are properties of librdkafka, with underscores for dots."""
        self._acknowledged = acknowledged
        self._is_initialised = False
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 60_000,  # not more than the timeout of a transaction
                **QUIET,
                **{name.replace("_", "."): value for name, value in config.items()},
            }
        )

    def send(self, some: Iterable[Record]) -> None:
        """Hands records over; `finish` waits for their acknowledgements."""
        for record in some:
            self._produce(record, self._acknowledged)
            self._producer.poll(0)

    def finish(self, seconds: float = 120) -> None:
        """Raises TimeoutError if not everything was acknowledged or failed in time."""
        if left := self._producer.flush(seconds):
            raise TimeoutError(f"{left} records were not acknowledged within {seconds} s")

    def begin(self) -> None:
        """Begins a transaction; the producer has a transactional id."""
        if not self._is_initialised:
            self._producer.init_transactions(60)
            self._is_initialised = True
        self._producer.begin_transaction()

    def end(self, some: Sequence[Record], *, commits: bool, holds: float = 0) -> None:
        """Sends records in the open transaction, waits `holds` seconds, and commits or aborts it."""
        for record in some:
            self._produce(record, Counter())
        self.finish()
        time.sleep(holds)
        if commits:
            self._producer.commit_transaction(60)
            self._acknowledged.update((record.topic, record.value) for record in some)
        else:
            self._producer.abort_transaction(60)

    def _produce(self, record: Record, acknowledged: Acknowledged) -> None:
        self._producer.produce(
            record.topic, record.value, record.key, on_delivery=_noting(acknowledged, record.topic, record.value)
        )


def _noting(acknowledged: Acknowledged, topic: str, value: bytes) -> Callable[[KafkaError | None, Message], None]:
    def note(error: KafkaError | None, _: Message) -> None:
        if error is None:
            acknowledged[topic, value] += 1

    return note


def send_with_java(servers: str, acknowledged: Acknowledged, codec: str, some: Sequence[Record]) -> None:
    """Sends records with Kafka's console producer. Raises StackError where one is not acknowledged."""
    for topic in sorted(INPUTS, reverse=True):
        mine = [record for record in some if record.topic == topic]
        if not mine:
            continue
        run_tool(
            "ConsoleProducer",
            *("--bootstrap-server", servers, "--topic", topic, "--request-required-acks", "all"),
            *("--compression-codec", codec, "--command-property", "linger.ms=20"),
            *("--reader-property", "parse.key=true", "--reader-property", "key.separator=\t"),
            given=b"".join(record.key + b"\t" + record.value + b"\n" for record in mine),
        )
        acknowledged.update((record.topic, record.value) for record in mine)


class Steady:
    """Sends batches at a steady rate in a thread, through faults, until it is stopped."""

    def __init__(
        self, servers: str, acknowledged: Acknowledged, dice: random.Random, prefix: str, rate: float, without: str = ""
    ) -> None:
        """`rate` is in batches per second. Nothing is sent to the topic `without`."""
        self._client = Librdkafka(
            servers, acknowledged, enable_idempotence=True, topic_metadata_refresh_interval_ms=2000
        )
        self._batches = _without_end(dice, prefix)
        self._without = without
        self._seconds = 10 / rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def stop(self) -> None:
        """Stops, and waits until everything is acknowledged. Raises TimeoutError."""
        self._stop.set()
        self._thread.join()
        self._client.finish()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            with suppress(BufferError):  # the brokers are away, and enough waits for them
                self._client.send(record for record in next(self._batches) if record.topic != self._without)


def _without_end(dice: random.Random, prefix: str) -> Iterator[list[Record]]:
    number = 0
    while True:
        number += 1
        yield batches(dice, f"{prefix}-{number}", 10)
