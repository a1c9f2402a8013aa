"""Tests which topics reach back far enough for a recovery."""

from datetime import UTC, datetime, timedelta

from aiokafka import TopicPartition

from service.recovery.reading import MARGIN, kept_since, too_short, unreached

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TP, OTHER = TopicPartition("output", 0), TopicPartition("output", 1)


def test_a_topic_whose_records_are_deleted_must_reach_back_to_the_time_of_the_database() -> None:
    assert unreached({TP: NOON - HOUR}, NOON) == []
    assert unreached({TP: NOON + HOUR, OTHER: None}, NOON) == [TP, OTHER]
    assert unreached({}, None) == []
    assert unreached({TP: NOON - HOUR}, None) == [TP]


def test_announcements_are_known_since_the_topics_begin_and_are_read() -> None:
    assert kept_since({}, None, NOON) < NOON - 1000 * HOUR
    assert kept_since({TP: NOON - HOUR}, None, NOON) == NOON - HOUR
    assert kept_since({TP: None}, None, NOON) == NOON
    assert kept_since({TP: NOON - 5 * HOUR}, NOON - HOUR, NOON) == NOON - HOUR - MARGIN


def test_output_topics_keep_records_as_long_as_input_topics_and_these_as_long_as_backups() -> None:
    day = 86_400
    assert too_short({"in": day}, {"out": day}, day) == []
    assert too_short({"in": day}, {"out": float("inf")}, None) == []
    assert len(too_short({"in": day, "in too": 2 * day}, {"out": day, "out too": 2 * day}, None)) == 1
    assert len(too_short({"in": day, "in too": 3 * day}, {"out": 3 * day}, 2 * day)) == 1
    assert too_short({}, {"out": day}, day) == []
