"""Reads what a recovery needs of the topics into the ledger: all announcements since a time, and the inputs."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from service.domain.cells import Slice
from service.domain.delivery import Delivery
from service.domain.input_limits import InputLimits
from service.history.ledger import Ledger
from service.history.topics import read_range
from service.kafka.deliveries import IsSkipped, TopicRecord, decode_all
from service.recovery.facts import Received, announcement_of, received_of
from service.store.outbox import EVENTS_PER_ROW
from service.store.progress import time_of

SEQ_DIGITS: Final = 18

MARGIN: Final = timedelta(minutes=10)
"""How much the clocks of pods and of the database may differ: the announcements of so much more time are read."""


async def output_starts(
    reader: AIOKafkaConsumer, outputs: Sequence[TopicPartition], known_until: datetime | None
) -> Mapping[TopicPartition, int]:
    """Return where to begin in the output topics: everything that was published after that time follows."""
    if not outputs:  # the client would wait for ever
        return {}
    if known_until is None:
        beginnings: Mapping[TopicPartition, int] = await reader.beginning_offsets(outputs)
        return beginnings
    since = int((known_until - MARGIN).timestamp() * 1000)
    found = await reader.offsets_for_times(dict.fromkeys(outputs, since))
    ends = await reader.end_offsets(outputs)
    # Where no record is that new, Apache Kafka says nothing, and the embedded broker offset 0 with no time.
    return {tp: first.offset if (first := found[tp]) and first.timestamp >= 0 else ends[tp] for tp in outputs}


async def first_times(
    reader: AIOKafkaConsumer, outputs: Sequence[TopicPartition]
) -> Mapping[TopicPartition, datetime | None]:
    """Return the time of the first record of each partition whose beginning was deleted; None where all were."""
    beginnings, ends = await reader.beginning_offsets(outputs), await reader.end_offsets(outputs)
    times: dict[TopicPartition, datetime | None] = {tp: None for tp in outputs if beginnings[tp] > 0}
    for tp in times:
        if beginnings[tp] < ends[tp]:
            async for records in read_range(reader, {tp: beginnings[tp]}, {tp: beginnings[tp] + 1}):
                times[tp] = time_of(records[0].timestamp)
                break
    return times


async def read_outputs(
    reader: AIOKafkaConsumer,
    ledger: Ledger,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    read: Callable[[int], None],
    of: Slice,
) -> int:
    """Add the announcements to the ledger. Returns the highest number of a row of the outbox that was published."""
    highest = 0
    async for records in read_range(reader, starts, ends):
        own = [record for record in records if of.is_all or of.holds(text_of_key(record.key))]
        ledger.add([found for record in own if (found := announcement_of(record)) and of.holds(found[0])])
        highest = max([highest, *map(_seq_of, own)])
        read(len(records))
    return highest


async def read_inputs(
    reader: AIOKafkaConsumer,
    ledger: Ledger,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    limits: InputLimits,
    note: Callable[[str, Received], None],
    read: Callable[[int], None],
    is_skipped: IsSkipped,
    of: Slice,
) -> None:
    """Add the readable inputs to the ledger. `note` is called with the batch id of each, and the input."""
    async for deliveries, _ in input_pages(reader, starts, ends, limits, is_skipped, of):
        inputs = [found for delivery in deliveries if (found := received_of(delivery))]
        for each in inputs:
            note(*each)
        ledger.add(inputs)
        read(len(deliveries))


async def input_pages(
    reader: AIOKafkaConsumer,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    limits: InputLimits,
    is_skipped: IsSkipped,
    of: Slice,
) -> AsyncIterator[tuple[list[Delivery], TopicRecord]]:
    """Yield the deliveries of a page of one partition, without those of other cells, and its last record."""
    async for records in read_range(reader, starts, ends, limits, is_skipped):
        last = records[-1]
        yield await decode_all(TopicPartition(last.topic, last.partition), records, limits, of), last


def text_of_key(key: bytes | None) -> str:
    """Return the batch id that a published record has as its key."""
    return (key or b"").decode("utf-8", "replace")


def _seq_of(record: TopicRecord) -> int:
    for name, value in record.headers:
        if name == "seq":
            # Longer ones are of nobody's outbox.
            return int(value) // EVENTS_PER_ROW if value and value.isdigit() and len(value) < SEQ_DIGITS else 0
    return 0


def unreached(times: Mapping[TopicPartition, datetime | None], known_until: datetime | None) -> list[TopicPartition]:
    """Return the partitions that do not reach back to the time until which the database is known to be complete."""
    if known_until is None:
        return sorted(times)
    return sorted(tp for tp, time in times.items() if time is None or time > known_until)


def kept_since(
    times: Mapping[TopicPartition, datetime | None], known_until: datetime | None, now: datetime
) -> datetime:
    """Return since when the output topics are read completely: what was announced before may not be known."""
    beginning = datetime.min.replace(tzinfo=UTC)
    since = max((time or now for time in times.values()), default=beginning)
    return max(since, known_until - MARGIN if known_until else beginning)


def records_between(starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> int:
    """Count the offsets between starts and ends."""
    return sum(max(0, ends[tp] - start) for tp, start in starts.items())


def too_short(inputs: Mapping[str, float], outputs: Mapping[str, float], oldest_backup: float | None) -> list[str]:
    """Say in words which topics keep their records for too short a time to recover a database from them.

    Of each topic, the seconds that it keeps its records; `oldest_backup` is an age in seconds.
    """
    longest = max(inputs.items(), key=lambda kept: kept[1], default=("", 0.0))
    errors = [
        f"{topic} keeps its records for {kept:g} seconds, and {longest[0]} for {longest[1]:g}: after a recovery, inputs"
        " could be announced in another way"
        for topic, kept in outputs.items()
        if kept < longest[1]
    ]
    return errors + [
        f"{topic} keeps its records for {kept:g} seconds, less than ELS_OLDEST_BACKUP_SECONDS ({oldest_backup})"
        for topic, kept in inputs.items()
        if oldest_backup is not None and kept < oldest_backup
    ]
