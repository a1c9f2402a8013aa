"""Producers as they are in the field: librdkafka and Java, every codec, transactions."""

import asyncio
import time
from collections import Counter
from functools import partial
from typing import Final

from deploy.servers.apache_kafka import ApacheKafka
from tests.prove.field import traffic
from tests.prove.field.environment import Kind
from tests.prove.field.play import Cell, Play
from tests.prove.field.topics import CONTENT, REGISTERED
from tests.prove.field.traffic import CODECS, Librdkafka, Record
from tests.support.builders import inputs

ONE: Final = Kind()
ATTRIBUTES: Final = 22
"""The byte of a record batch whose lowest three bits number its codec, in the order of `CODECS`."""
TRANSACTIONS: Final = 10
QUIET_SECONDS: Final = 75.0
"""Longer than a pod waits until it holds a consumer that does not move for stuck (60 s)."""
HELD_SECONDS: Final = 8.0
"""Longer than a session of the consumer group (6 s)."""


class Segment:
    """The file of a partition that the broker writes to; tells the codecs of what is added to it."""

    def __init__(self, play: Play) -> None:
        server = play.world.kafka.server
        assert isinstance(server, ApacheKafka)
        self._path = server.home / "data" / f"{CONTENT}-0" / f"{0:020}.log"
        self._begin = self._path.stat().st_size

    def codecs(self) -> set[str]:
        """Returns the codecs of the record batches that were added."""
        added, found = self._path.read_bytes()[self._begin :], set()
        while len(added) > ATTRIBUTES:
            found.add(CODECS[added[ATTRIBUTES] & 7])
            added = added[12 + int.from_bytes(added[8:12], "big") :]
        return found


async def librdkafka(codec: str, play: Play) -> None:
    """Sends everything with a codec, as it comes."""
    segment = Segment(play)
    await play.send(play.batches(), compression_type=codec, enable_idempotence=False, batch_size=16_000)
    assert segment.codecs() == {codec}, f"sent with {segment.codecs()}"


async def idempotent(play: Play) -> None:
    """Sends everything with an idempotent producer."""
    await play.send(play.batches(), enable_idempotence=True, compression_type="lz4")


async def java(codec: str, play: Play) -> None:
    """Sends everything with Kafka's own client."""
    servers, acknowledged = play.world.kafka.servers, play.judge.acknowledged
    segment = Segment(play)
    await asyncio.to_thread(traffic.send_with_java, servers, acknowledged, codec, play.batches())
    assert segment.codecs() == {codec}, f"sent with {segment.codecs()}"


def transactional(play: Play) -> Librdkafka:
    """Returns a producer with a transactional id."""
    return Librdkafka(
        play.world.kafka.servers, play.judge.acknowledged, transactional_id=f"{play.prefix}-t", compression_type="zstd"
    )


def false_start(play: Play, some: list[Record]) -> list[Record]:
    """Returns inputs that contradict the registrations among `some`: to be aborted, as if they had never been."""
    made = []
    for record in some:
        if record.topic == REGISTERED:
            name = record.key.decode()
            made.append(record._replace(value=inputs.registration(name, [f"{name}-aborted"])))
            made.append(traffic.content(name, f"{name}-aborted"))
    return made


async def transactions(play: Play, *, commits: bool, aborts: bool) -> None:
    """Sends batches in transactions; before each, one that contradicts it is aborted."""
    client = transactional(play)
    for _ in range(TRANSACTIONS):
        some = play.batches(15)
        if aborts:
            await asyncio.to_thread(client.begin)
            await asyncio.to_thread(client.end, false_start(play, some), commits=False)
        if commits:
            await asyncio.to_thread(client.begin)
            await asyncio.to_thread(client.end, some, commits=True)
        else:
            await play.send(some)


async def hanging(play: Play, *, commits: bool) -> None:
    """A transaction stays open for some seconds, while others send to the same partitions."""
    client, some = transactional(play), play.batches(50)
    sent = some if commits else false_start(play, some)
    async with play.load():
        await asyncio.to_thread(client.begin)
        async with play.fault():
            await asyncio.to_thread(client.end, sent, commits=commits, holds=HELD_SECONDS)
        if not commits:
            await play.send(some)


async def killed(play: Play) -> None:
    """A producer disappears in the midst of a transaction; its successor fences it, and sends everything."""
    some = play.batches(50)
    client = Librdkafka(play.world.kafka.servers, Counter(), transactional_id=f"{play.prefix}-t")
    await asyncio.to_thread(client.begin)
    await asyncio.to_thread(client.send, false_start(play, some))
    await asyncio.to_thread(client.finish)
    successor = transactional(play)
    await asyncio.to_thread(successor.begin)
    await asyncio.to_thread(successor.end, some, commits=True)


async def quiet(play: Play) -> None:
    """Nothing is sent for longer than the watchdog waits, after a transaction; there is nothing to complain about."""
    client = transactional(play)
    await asyncio.to_thread(client.begin)
    await asyncio.to_thread(client.end, play.batches(50), commits=True)
    await play.applied()
    since = time.monotonic()
    await asyncio.sleep(QUIET_SECONDS)
    said = play.watch.first("consumer: ", since)
    assert said is None, f"a quiet consumer was reported after {said:.0f} s: {play.watch.summary(since)}"


CELLS: Final = [
    *(Cell(f"librdkafka, {codec}", ONE, partial(librdkafka, codec), in_ci=codec == "zstd") for codec in CODECS),
    Cell("librdkafka, idempotent", ONE, idempotent),
    *(Cell(f"Java, {codec}", ONE, partial(java, codec), in_ci=codec == "snappy") for codec in CODECS),
    Cell("transactions, committed", ONE, partial(transactions, commits=True, aborts=False)),
    Cell("transactions, aborted", ONE, partial(transactions, commits=False, aborts=True)),
    Cell("transactions, mixed", ONE, partial(transactions, commits=True, aborts=True), in_ci=True),
    Cell("transaction open for 8 s, then committed", ONE, partial(hanging, commits=True)),
    Cell("transaction open for 8 s, then aborted", ONE, partial(hanging, commits=False)),
    Cell("a quiet minute after a transaction", ONE, quiet),
    Cell("producer lost in a transaction", ONE, killed),
]
