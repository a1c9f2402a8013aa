"""Decides where a pod continues in a partition: compares its row in the database with the topic and with the group."""

from dataclasses import dataclass
from typing import Literal

from service.history.comparison import Comparison
from service.store.progress import ProgressRow


@dataclass(frozen=True, slots=True)
class Observed:
    """What is known of a partition. The group's offset was read before the row."""

    row: ProgressRow | None
    group_offset: int | None
    """None where the group has none."""
    group_epoch: int | None
    """The epoch that was committed with it; None where a release has committed it that writes no rows."""
    beginning: int
    """The first offset that the topic still has."""
    end: int
    record: Comparison = "unknown"


@dataclass(frozen=True, slots=True)
class Resumption:
    """Where to continue."""

    offset: int
    epoch: int = 0
    lost: tuple[int, int, Literal["deleted", "truncated", "replaced"]] | None = None
    """First and next offset of the records that the topic has no more, and the cause."""


def records_behind(observed: Observed) -> int:
    """Return how many records the row is behind the group's offset, which only a database that was set back is.

    An offset that a pod of the previous release committed says nothing about a row which that release does not write.
    """
    row, group_offset = observed.row, observed.group_offset
    if group_offset is None:
        return 0
    if row is None:
        return 0 if observed.group_epoch is None else max(0, group_offset - observed.beginning)
    if observed.group_epoch is None:
        return 0 if row.previous_release else max(0, group_offset - row.next_offset)
    if observed.group_epoch < row.epoch:
        return 0  # an offset of a log that is no more
    return max(0, group_offset - row.next_offset)


def resume(observed: Observed) -> Resumption:
    """Return where to continue in a partition whose row is not behind."""
    row, group_offset, beginning = observed.row, observed.group_offset, observed.beginning
    if row is None:
        # The first start, or the first one of this release: nothing counts as lost.
        is_there = group_offset is not None and beginning <= group_offset <= observed.end
        return Resumption(group_offset if is_there and group_offset is not None else beginning)
    offset = row.next_offset
    if row.previous_release and group_offset is not None:
        offset = max(offset, group_offset)
    if observed.record == "another":
        return Resumption(beginning, row.epoch + 1, (beginning, beginning, "replaced"))
    if observed.record == "missing":
        first = min(observed.end, offset)
        return Resumption(beginning, row.epoch + 1, (first, offset, "truncated"))
    if offset < beginning:
        return Resumption(beginning, row.epoch, (offset, beginning, "deleted"))
    return Resumption(offset, row.epoch)
