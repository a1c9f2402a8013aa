"""Keeps what each pod reports of itself, for ops.pods and ops.health.

Each function runs in the caller's transaction. Each raises psycopg.Error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from service.postgres.arrays import Texts
from service.postgres.statements import STATEMENTS


@dataclass(frozen=True, slots=True)
class Backlog:
    """What a consumer has left to do."""

    partitions: int
    lag: int
    """Records that wait in its partitions."""
    idle_seconds: float
    """Since it has applied something, or had nothing to apply."""


@dataclass(frozen=True, slots=True)
class PodReport:
    """The state of a pod. Times are seconds until now."""

    pod: UUID
    host: str
    release: str
    roles: Sequence[str]
    errors: Sequence[str]
    """One line for each part that is not ready, beginning with its name."""
    not_ready_seconds: float | None
    broker_error: str | None
    """Why no broker can be reached; None where one can, or nothing is known to be wrong."""
    broker_away_seconds: float | None
    backlog: Backlog | None
    """None where the pod does not consume."""


async def report_pod(conn: AsyncConnection[Any], report: PodReport) -> None:
    """Replace what this pod has reported, and forget pods that have been silent for ten minutes."""
    await conn.execute(
        STATEMENTS["report_pod"],
        {
            "pod": report.pod,
            "host": report.host,
            "release": report.release,
            "roles": Texts(report.roles),
            "errors": Texts(report.errors),
            "not_ready_seconds": report.not_ready_seconds,
            "broker_error": report.broker_error,
            "broker_away_seconds": report.broker_away_seconds,
            "partitions": report.backlog and report.backlog.partitions,
            "lag": report.backlog and report.backlog.lag,
            "idle_seconds": report.backlog and report.backlog.idle_seconds,
        },
    )


async def leave_pod(conn: AsyncConnection[Any], pod: UUID) -> None:
    """Remove a pod that ends."""
    await conn.execute(STATEMENTS["leave_pod"], {"pod": pod})
