"""Derives from the SQL of a statement what it reads, writes and locks, to decide whether two steps can be swapped.

An imprecise footprint leads to more orders, never to fewer.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

OUTBOX_NUMBERS: Final = "numbers of the outbox"


@dataclass(frozen=True, slots=True)
class Footprint:
    """The tables (and the advisory locks) that a step uses, by kind of use."""

    reads: frozenset[str] = frozenset()
    locks: frozenset[str] = frozenset()
    """Locks existing rows."""
    keys: frozenset[str] = frozenset()
    """Writes rows with unique keys; others see or wait for such a row only by its key."""
    ends: frozenset[str] = frozenset()
    """Commits or rolls back: makes rows visible or not, and releases locks."""

    def __or__(self, other: "Footprint") -> "Footprint":
        return Footprint(
            self.reads | other.reads, self.locks | other.locks, self.keys | other.keys, self.ends | other.ends
        )

    @property
    def takes(self) -> frozenset[str]:
        return self.locks | self.keys

    def touches(self, other: "Footprint") -> bool:
        """Returns whether the two steps in the other order may have another result."""
        return bool(
            self.locks & other.locks
            or self.keys & other.keys
            or self.ends & (other.reads | other.takes)
            or other.ends & (self.reads | self.takes)
        )


@lru_cache(maxsize=1024)
def footprint(sql: str) -> Footprint:
    """Returns the footprint of a statement."""
    text = re.sub(r"--[^\n]*", "", sql)
    tables = frozenset(re.findall(r"\bels\.(\w+)", text))
    inserted = frozenset(re.findall(r"\binsert into\s+els\.(\w+)", text))
    changed = frozenset(re.findall(r"\b(?:update|delete from)\s+els\.(\w+)", text))
    locked = tables if re.search(r"\bfor (?:no key )?update\b", text) else frozenset()
    if "on conflict" in text:
        locked |= inserted
    if "held since claim_slots" not in sql:  # those rows were locked by an earlier step
        locked |= changed
    if "advisory" in text:
        locked |= {"advisory"}
    # Nobody waits for a new outbox row and no poll reads it; only the order of the sequence numbers matters.
    outbox = {"outbox", "outbox_pages"}
    keys = {OUTBOX_NUMBERS if table in outbox else table for table in inserted | changed}
    return Footprint(tables - (outbox & inserted), locked, frozenset(keys))
