"""Compares the rows of partitions with their topics: whether a topic still has the record that a row names."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from service.consumer.resumption import Comparison
from service.domain.delivery import fingerprint
from service.store.progress import LastRecord, ProgressRow, time_of

COMPARE_SECONDS: Final = 10.0
"""How long to wait for the records that the rows name. Of those that do not arrive, nothing is concluded."""

END_SECONDS: Final = 2.0
"""How long to wait before an end that is too low is believed."""


async def compare(
    reader: AIOKafkaConsumer,
    rows: Mapping[TopicPartition, ProgressRow],
    beginnings: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, Comparison]:
    """Compare the last record of each row with the one that the topic has at its offset. Raises KafkaError."""
    compared: dict[TopicPartition, Comparison] = {}
    wanted = {tp: row.record for tp, row in rows.items() if row.record and row.record.offset >= beginnings[tp]}
    # Without a record to compare, only the end tells. It may be a few records too low for a moment.
    for tp, row in rows.items():
        if row.record is None and row.next_offset > ends[tp]:
            compared[tp] = await _ends_before(reader, tp, row.next_offset)
    if not wanted:
        return compared
    reader.assign(list(wanted))
    for tp, record in wanted.items():
        reader.seek(tp, record.offset)
    with suppress(TimeoutError):
        async with asyncio.timeout(COMPARE_SECONDS):
            while left := [tp for tp in wanted if tp not in compared]:
                try:
                    for tp, records in (await reader.getmany(*left, timeout_ms=100)).items():
                        compared[tp] = _compared(wanted[tp], records[0])
                except OffsetOutOfRangeError as error:
                    compared |= dict.fromkeys(error.args[0], "missing")
                for tp in left:
                    if tp not in compared and ends[tp] <= wanted[tp].offset:
                        compared[tp] = await _ends_before(reader, tp, wanted[tp].offset + 1)
    return compared


def _compared(wanted: LastRecord, record: ConsumerRecord) -> Comparison:
    if record.offset != wanted.offset:
        return "unknown"
    is_same = (time_of(record.timestamp), fingerprint(record)) == (wanted.at, wanted.digest)
    return "same" if is_same else "another"


async def _ends_before(reader: AIOKafkaConsumer, tp: TopicPartition, offset: int) -> Comparison:
    """Tell whether the topic still ends before an offset after a while: a new leader may report an end too low."""
    await asyncio.sleep(END_SECONDS)
    ends = await reader.end_offsets([tp])
    return "missing" if ends[tp] < offset else "unknown"
