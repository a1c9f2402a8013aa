"""Tests that a topic is read to its end although an offset that operators have skipped cannot be fetched."""

from typing import Any

from aiokafka import TopicPartition

from service.history.topics import read_range
from service.kafka.unpacking import Record

TP = TopicPartition("t", 0)


class StuckLog:
    """A log of which offset 1 cannot be fetched, as aiokafka shows it."""

    at = 0

    def assign(self, tps: list[TopicPartition]) -> None:
        assert tps == [TP]

    def seek(self, _: TopicPartition, offset: int) -> None:
        self.at = offset

    async def position(self, _: TopicPartition) -> int:
        return self.at

    async def getmany(self, **_: int) -> dict[TopicPartition, list[Any]]:
        if self.at in (1, 4):
            return {}
        self.at += 1
        return {TP: [self.at - 1]}


async def test_what_is_skipped_is_passed_where_nothing_arrives(monkeypatch: Any) -> None:
    async def records_of(fetched: dict[TopicPartition, list[int]], *_: object) -> Any:
        for offsets in fetched.values():
            yield [Record(offset, None, b"", timestamp=0) for offset in offsets]

    monkeypatch.setattr("service.history.topics.records_of", records_of)
    monkeypatch.setattr("service.history.topics.STALLED_SECONDS", 0.2)
    log: Any = StuckLog()
    pages = read_range(log, {TP: 0}, {TP: 4}, is_skipped=lambda *at: at == (TP, 1, 1))
    assert [record.offset async for page in pages for record in page] == [0, 2, 3]
