"""Operator actions on rejected inputs."""

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from service.store import quarantine
from service.store.operator_actions import Done, Operator, record


async def resume_topic(conn: AsyncConnection[Any], by: Operator, topic: str) -> bool:
    """Set a stopped topic going again; False where it is not stopped."""
    resumed = await quarantine.resume_topic(conn, topic)
    if resumed:
        await record(conn, by, "quarantine resume", [Done(topic=topic)])
    return resumed


async def discard(conn: AsyncConnection[Any], by: Operator, ids: Sequence[int]) -> int:
    """Close refused inputs that are open, for good; returns how many they were."""
    discarded = await quarantine.close_quarantine(conn, ids, "discarded")
    if discarded:
        done = [Done(topic=each.topic, details={"id": each.id, "reason": each.reason}) for each in discarded]
        await record(conn, by, "quarantine discard", done)
    return len(discarded)
