"""What a step of a transaction has to do with, by the words of its SQL: whether two steps might be swapped.

Where this is coarser than the truth, more orders are run, not fewer.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

OUTBOX_NUMBERS: Final = "numbers of the outbox"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a step has to do with: tables (and the advisory locks) by what it does with them."""

    reads: frozenset[str] = frozenset()
    locks: frozenset[str] = frozenset()
    """Locks rows that were there."""
    keys: frozenset[str] = frozenset()
    """Writes rows with keys that nobody else may have; nobody else sees or waits for such a row but by its key."""
    ends: frozenset[str] = frozenset()
    """Shows what was written and frees what was locked; or takes it all back."""

    def __or__(self, other: "Footprint") -> "Footprint":
        return Footprint(
            self.reads | other.reads, self.locks | other.locks, self.keys | other.keys, self.ends | other.ends
        )

    @property
    def takes(self) -> frozenset[str]:
        return self.locks | self.keys

    def touches(self, other: "Footprint") -> bool:
        """Whether the two steps in the other order might be another story."""
        return bool(
            self.locks & other.locks
            or self.keys & other.keys
            or self.ends & (other.reads | other.takes)
            or other.ends & (self.reads | self.takes)
        )


@lru_cache(maxsize=1024)
def footprint(sql: str) -> Footprint:
    """What a statement has to do with, by its words."""
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
    # A new row of the outbox is nobody's wait, and no poll reads it: what counts is who draws the next number.
    keys = {OUTBOX_NUMBERS if table == "outbox" else table for table in inserted | changed}
    return Footprint(tables - ({"outbox"} & inserted), locked, frozenset(keys))
