"""Defines what an audit finds, and what it must know to judge."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple


class Finding(NamedTuple):
    """A violation of a rule, or, where `rule` is `unknown`, something that cannot be known any more."""

    rule: str
    batch_id: str
    detail: str


UNKNOWN: Final = "unknown"


@dataclass(frozen=True, slots=True)
class Knowledge:
    """How far back the topics and the tables reach."""

    since: Mapping[str, float]
    """By topic: every record about what happened from then on is still there."""
    kept_since: float = 0.0
    """Rows about what happened before may have been deleted after their retention."""
    quarantined: Callable[[str, str], str | None] = lambda _topic, _fingerprint: None
    """Returns the state of the rejected input with this topic and fingerprint, None where there is none."""
    clocks_apart: float = 5.0
    """How much the clocks of two pods may differ, where events can only be ordered by time."""
    incomplete: frozenset[str] = frozenset()
    """Batches that were announced, and whose registration a recovery has found in no topic."""

    def reaches(self, topic: str, at: float) -> bool:
        """Return whether the topic still contains everything since `at`."""
        return at >= self.since.get(topic, float("inf"))


Findings = Iterator[tuple[str, str]]
"""(rule, detail) of each finding in one batch."""
