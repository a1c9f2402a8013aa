"""Reads the state of the topics and of the outbox."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka.structs import TopicPartition

from service.console.pages.reads import ROWS, ConsolePage, Query, Reads
from service.domain.topics import INCOMING_TOPICS
from service.kafka.offsets import TopicOffsets
from service.operators.errors import OperationError
from service.postgres.queries import NamedRow
from service.store import console


async def _topics(reads: Reads, _: Query) -> Mapping[str, Any]:
    offsets = await reads.broker()
    progress: list[NamedRow] = []
    paused: list[NamedRow] = []
    lost: list[NamedRow] | None = None
    with suppress(OperationError):  # the page says so, as all do
        async with reads.tables() as conn:
            progress = await console.list_progress(conn)
            paused = await console.list_paused_topics(conn)
            lost = await console.list_lost_inputs(conn, ROWS)
    return {
        "topics": [_topic(topic, progress, paused, offsets) for topic in INCOMING_TOPICS],
        "outputs": sorted((offsets.ends if offsets else {}).items()),
        "inputs": INCOMING_TOPICS,
        "lost": lost,
    }


def _topic(
    topic: str, progress: list[NamedRow], paused: list[NamedRow], offsets: TopicOffsets | None
) -> Mapping[str, Any]:
    partitions = {row["partition"]: dict(row) for row in progress if row["topic"] == topic}
    known = offsets.partitions if offsets else {}
    for tp, (end, lag) in known.items():
        if tp.topic == topic:
            partitions.setdefault(tp.partition, {}).update(end=end, lag=lag)
    return {
        "name": topic,
        "lag": None if offsets is None else offsets.lag[topic],
        "paused": next((row for row in paused if row["topic"] == topic), None),
        "partitions": sorted(partitions.items()),
        "has_end": TopicPartition(topic, 0) in known,
    }


async def _outbox(reads: Reads, _: Query) -> Mapping[str, Any]:
    health = await reads.health()
    async with reads.tables() as conn:
        backlog = await console.list_outbox_backlog(conn)
        blocked = await console.list_outbox_blocked(conn, ROWS)
    return {"health": health, "backlog": backlog, "blocked": blocked}


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage("topics", "Topics", "topics.html", _topics, shows_persons=False, needs_database=False),
        ConsolePage("outbox", "Outbox", "outbox.html", _outbox, shows_persons=False),
    )
