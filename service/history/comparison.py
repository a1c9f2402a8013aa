"""Compares the rows of partitions with their topics: whether a topic still has the record that a row names."""

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from service.domain.delivery import fingerprint
from service.domain.input_limits import DEFAULT_LIMITS
from service.kafka.deliveries import TopicRecord, records_of
from service.store.progress import LastRecord, ProgressRow, time_of

Comparison = Literal["same", "another", "missing", "unknown"]
"""What the topic has at the offset of the row's last record: that record, another one, nothing since the topic ends
before it, or nothing that tells (retention or compaction has deleted it)."""

COMPARE_SECONDS: Final = 10.0
"""How long to wait for the records that the rows name."""

END_SECONDS: Final = 2.0
"""How long to wait before an end that is too low is believed: a new leader may report one for a moment."""


async def compare(
    reader: AIOKafkaConsumer,
    rows: Mapping[TopicPartition, ProgressRow],
    beginnings: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, Comparison]:
    """Compare the last record of each row with the one that the topic has at its offset.

    Raises KafkaError, and TimeoutError where a record does not arrive.
    """
    compared: dict[TopicPartition, Comparison] = {}
    wanted = {tp: row.record for tp, row in rows.items() if row.record and row.record.offset >= beginnings[tp]}
    if wanted:
        reader.assign(list(wanted))
        for tp, record in wanted.items():
            reader.seek(tp, record.offset)
    async with asyncio.timeout(COMPARE_SECONDS):
        while left := [tp for tp in wanted if tp not in compared]:
            try:
                fetched = await reader.getmany(*left, timeout_ms=100)
                # Those behind the first batch may not be unpacked here: no mark would say so if that ended the process.
                firsts = {tp: batches[:1] for tp, batches in fetched.items()}
                async for first, *_ in records_of(firsts, DEFAULT_LIMITS):
                    tp = TopicPartition(first.topic, first.partition)
                    compared.setdefault(tp, _compared(wanted[tp], first))
            except OffsetOutOfRangeError as error:
                # By now, retention may have deleted the record: then nothing is concluded.
                first = await reader.beginning_offsets(list(error.args[0]))
                compared |= {tp: "unknown" if wanted[tp].offset < first[tp] else "missing" for tp in first}
            for tp in left:
                if tp not in compared and await reader.position(tp) >= ends[tp]:
                    compared[tp] = "unknown"  # nothing but markers of transactions, or the log ends there
    # Also where the record is the same: the log may have been truncated behind it. A record that is there tells where
    # the log ends at the least, since the embedded broker reports ends that are too low.
    least = {tp: wanted[tp].offset + 1 if compared.get(tp) == "same" else 0 for tp in rows}
    above = [tp for tp, row in rows.items() if row.next_offset > max(ends[tp], least[tp])]
    if above:
        await asyncio.sleep(END_SECONDS)
        later = await reader.end_offsets(above)
        compared |= {
            tp: "missing" for tp in above if later[tp] < rows[tp].next_offset and compared.get(tp) != "another"
        }
    return compared


def _compared(wanted: LastRecord, record: TopicRecord) -> Comparison:
    if record.offset != wanted.offset:
        return "unknown"
    is_same = (time_of(record.timestamp), fingerprint(record)) == (wanted.at, wanted.digest)
    return "same" if is_same else "another"
