"""Says in a database without consumers how far the input topics are applied."""

from collections.abc import Mapping
from typing import Any

import psycopg

from service.domain.topics import INCOMING_TOPICS


def say_applied(conn: psycopg.Connection[Any], *topics: str, ago: int = 0) -> None:
    """Says that these topics (without any: all), of one partition each, are applied up to so many hours ago."""
    conn.execute(
        "insert into els.progress (topic, partition, next_offset, applied_until)"
        " select topic, 0, 0, now() - make_interval(hours => %s) from unnest(%s::text[]) as topic",
        [ago, list(topics or INCOMING_TOPICS)],
    )
    say_partitions(conn, dict.fromkeys(topics or INCOMING_TOPICS, 1))


def say_partitions(conn: psycopg.Connection[Any], partitions: Mapping[str, int]) -> None:
    """Says how many partitions topics have now."""
    conn.execute(
        "insert into els.input_topics (topic, partitions, known_at)"
        " select topic, partitions, now() from unnest(%s::text[], %s::integer[]) as noted (topic, partitions)"
        " on conflict (topic) do update set partitions = excluded.partitions, known_at = excluded.known_at",
        [list(partitions), list(partitions.values())],
    )
