"""Defines how long things are kept, and the report of a purge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from service.store.retention import PurgeTurn


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """How long things are kept, in seconds. The defaults are those of the settings."""

    pending_ttl: int
    expired_retention: int
    batch_timeout: int
    batch_retention: int = 400 * 86_400
    closed_retention: int = 90 * 86_400
    actions_retention: int = 400 * 86_400
    erasure_retention: int = 400 * 86_400
    """How long tombstones are kept: at least as long as topics and backups may bring back what was erased."""
    ready_waits: bool = True
    """Whether BatchEssaysReady of a batch with a class waits until the class is confirmed."""


def too_short(policy: RetentionPolicy, kept: Mapping[str, float]) -> list[str]:
    """Say in words which retentions are too short: their rows are deleted while a topic may still deliver them again.

    `kept` says for each topic how many seconds it keeps its records.
    """
    retentions = {
        "ELS_EXPIRED_RETENTION_SECONDS": policy.expired_retention,
        "ELS_BATCH_RETENTION_SECONDS": policy.batch_retention,
        "ELS_CLOSED_RETENTION_SECONDS": policy.closed_retention,
    }
    return [
        f"{name} is {seconds}, but {topic} keeps its records for {longer:g} seconds"
        for name, seconds in retentions.items()
        for topic, longer in kept.items()
        if seconds <= longer
    ]


@dataclass(slots=True)
class PurgeReport:
    """What a purge round did, or would do: rows or batches by purge task."""

    expired_content: int = 0
    expired_failures: int = 0
    timed_out_batches: int = 0
    settled_confirmations: int = 0
    """Confirmations that waited although their batch was registered."""
    ended_waits: int = 0
    """Complete batches that are announced as ready, since their confirmations are not waited for any more."""
    deleted_content: int = 0
    deleted_failures: int = 0
    deleted_batches: int = 0
    deleted_confirmations: int = 0
    deleted_removed: int = 0
    deleted_removed_failures: int = 0
    deleted_quarantine: int = 0
    deleted_actions: int = 0
    indexed_batches: int = field(default=0, compare=False)
    """Batches that a search finds from now on as they are: those that changed since the last round."""
    deleted_erasures: int = 0
    """Tombstones of what was erased."""
    trimmed_batches: int = 0
    """Batches of another cell, which a split has left here."""
    passed_over: int = 0
    """Batches that were skipped, since another transaction works on them: the next round tries them again."""
    whole: bool = True
    """Whether the round is complete: not where another pod was purging, or where the service stopped."""
    held: bool = field(default=False, compare=False)
    """Whether time limits ran less far than the clock, since inputs are not known to be applied."""


@dataclass(slots=True)
class Chunk:
    """What one transaction of a purge task did. It is counted and logged after the commit."""

    task: str
    """The purge task, as the name of its count in PurgeReport."""
    done: Sequence[tuple[Any, ...]] = ()
    """The changed rows: their keys, and what else is logged of them (`reporting`)."""
    published: int = 0
    """Events written to the outbox."""
    more: bool = False
    """Whether the task may have more to do."""
    ready: Sequence[tuple[Any, ...]] = ()
    """The batches that it announced as ready: id, correlation id and traceparent."""


def turn_of(turn: PurgeTurn, now: datetime | None) -> PurgeTurn:
    """Replace the clock, where `now` is given; then everything counts as applied up to that time."""
    return turn if now is None else PurgeTurn(turn.taken, now, now, now)


HELD_SECONDS: Final = 60
"""A pod notes about every five seconds how far the inputs are applied; from this distance on, the brake is reported."""


def is_held(turn: PurgeTurn) -> bool:
    """Return whether the inputs are not known to be applied up to about now."""
    return turn.inputs_until is None or turn.inputs_until < time_before(turn.now, HELD_SECONDS)


def due_before(turn: PurgeTurn, applied_until: datetime | None, seconds: int) -> datetime | None:
    """Return the time before which what waits for an input must have begun to be due (the brake); None: nothing is.

    A time limit runs only as far as the inputs are applied that could have met it.
    """
    return None if applied_until is None else time_before(min(turn.now, applied_until), seconds)


def time_before(now: datetime, seconds: int) -> datetime:
    """Return the time so many seconds earlier."""
    return now - timedelta(seconds=seconds)
