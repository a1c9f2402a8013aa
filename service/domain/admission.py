"""Decides which records of a topic are processed: too many consecutive rejections pause it. Pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RejectionCounter:
    """The consecutive rejections of a topic, counted over all pods, and whether they have paused it."""

    consecutive: int
    paused: bool
    skips: bool = False
    """Whether rejections do not pause it before the next valid record."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Process the first `count` records of the topic. The others stay on it, since it is paused or pauses now."""

    count: int


def decide_admission(
    rejected: Sequence[bytes | None], counter: RejectionCounter, limit: int, *, probing: bool
) -> Admit:
    """Decide how many records of a topic to process.

    `rejected` has the identity of each record, in order, that is rejected, and None for each that is not. The topic
    pauses with the record that makes `limit` different consecutive rejections. No record of a paused topic is
    processed, except one valid record of a probe.
    """
    if counter.paused:
        return Admit(1 if probing and rejected[0] is None else 0)
    before, different = counter.consecutive, set[bytes]()
    for taken, identity in enumerate(rejected, start=1):
        if identity is None:
            before, different = 0, set()
            continue
        different.add(identity)
        if not counter.skips and before + len(different) >= limit:
            return Admit(taken)
    return Admit(len(rejected))


@dataclass(frozen=True, slots=True)
class CountRejections:
    """Add to the counter of a topic, or, with `restarted`, set it: a valid record came before these rejections."""

    consecutive: int
    restarted: bool


def count_rejections(records: Sequence[Literal["valid", "rejected", "repeat"]]) -> CountRejections:
    """Count the consecutive rejections at the end of these records. A repeat of a rejection does not count."""
    last_valid = max((number for number, each in enumerate(records, start=1) if each == "valid"), default=0)
    return CountRejections(records[last_valid:].count("rejected"), last_valid > 0)
