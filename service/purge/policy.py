"""How long things are kept, and what a purge did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long things last, in seconds; None is for ever."""

    pending_ttl: int
    expired_retention: int
    batch_timeout: int
    batch_retention: int | None = None
    closed_retention: int | None = None


def too_short(policy: RetentionPolicy, kept: Mapping[str, float]) -> list[str]:
    """Where something is deleted that its topic may deliver once more, after `kept` seconds; in words."""
    retentions = {
        "ELS_EXPIRED_RETENTION_SECONDS": policy.expired_retention,
        "ELS_BATCH_RETENTION_SECONDS": policy.batch_retention,
        "ELS_CLOSED_RETENTION_SECONDS": policy.closed_retention,
    }
    return [
        f"{name} is {seconds}, but {topic} keeps its records for {longer:g} seconds"
        for name, seconds in retentions.items()
        for topic, longer in kept.items()
        if seconds is not None and seconds <= longer
    ]


@dataclass(slots=True)
class PurgeReport:
    """What a round has done, or would do."""

    expired_content: int = 0
    expired_failures: int = 0
    timed_out_batches: int = 0
    deleted_content: int = 0
    deleted_failures: int = 0
    deleted_batches: int = 0
    deleted_removed: int = 0
    deleted_quarantine: int = 0
    deleted_actions: int = 0
    passed_over: int = 0
    """Batches that somebody was working on: the next round meets them again."""
    whole: bool = True
    """Whether the round came to its end: not where another pod was purging, or where it was told to stop."""


@dataclass(slots=True)
class Chunk:
    """What one transaction did, to be counted and logged once it is committed."""

    task: str
    """The count of PurgeReport that it adds to."""
    done: Sequence[tuple[Any, ...]] = ()
    """What it was done to: the batch, and the content or the failure of it."""
    published: int = 0
    """Outbox rows written."""
    more: bool = False
    """Whether something may be left to do."""
