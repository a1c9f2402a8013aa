"""Defines the slice of all batches that a cell is responsible for, and which cell a batch belongs to.

The database computes the same (`els.cell_of`), so the hash is part of the schema: it never changes.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import md5
from typing import Final, NamedTuple


class Slice(NamedTuple):
    """The batches of one cell out of `cells`, a power of two. `cell` is its number, from 0."""

    cells: int
    cell: int

    def __str__(self) -> str:
        return "all batches" if self.cells == 1 else f"cell {self.cell} of {self.cells}"

    @property
    def is_all(self) -> bool:
        """Whether there is only one cell."""
        return self.cells == 1

    @property
    def suffix(self) -> str:
        """What is appended to names that each cell has of its own: empty where there is only one cell."""
        return "" if self.is_all else f".cell-{self.cell}-of-{self.cells}"

    def owner(self, batch_id: str) -> "Slice":
        """Return the cell, of as many as this one is of, that a batch belongs to."""
        return Slice(self.cells, cell_of(batch_id, self.cells))

    def holds(self, batch_id: str) -> bool:
        """Tell whether a batch belongs to this cell."""
        return self.cells == 1 or cell_of(batch_id, self.cells) == self.cell


ALL_BATCHES = Slice(1, 0)
"""The slice of the only cell."""

_SUFFIX: Final = re.compile(r"\.cell-([0-9]+)-of-([0-9]+)\Z", re.ASCII)


def slice_named(name: str) -> Slice:
    """Return the slice whose suffix a name ends with, and that of the only cell where it ends with none."""
    found = _SUFFIX.search(name)
    return Slice(int(found[2]), int(found[1])) if found else ALL_BATCHES


@lru_cache(maxsize=4096)  # the records of a batch come close to each other
def cell_of(batch_id: str, cells: int) -> int:
    """Return the number of the cell, out of `cells` (a power of two), that a batch belongs to.

    The first 8 bytes of the MD5 of the id in UTF-8, as a big-endian number, modulo the number of cells. So the batches
    of a cell that is split into two go to the cells `cell` and `cell + cells`.
    """
    digest = md5(batch_id.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") & (cells - 1)


def slices_at(places: Sequence[str]) -> Sequence[tuple[Slice, str]]:
    """Return the slice of each database that is named at its places: at place n, that which has the batches of cell n.

    So a database at every place that is n modulo c is cell n of c: cells that were split are beside some that were not.
    Raises ValueError where a name is at other places. The number of places is a power of two.
    """
    found = []
    for name in dict.fromkeys(places):
        own = [place for place, each in enumerate(places) if each == name]
        cells = len(places) // len(own)
        if own != list(range(own[0], len(places), cells)):
            raise ValueError(f"the places {', '.join(map(str, own))} of a database are no cell")
        found.append((Slice(cells, own[0]), name))
    return found


def numbers_at(slices: Sequence[Slice]) -> Sequence[int]:
    """Return, for the remainder of a hash by the number of places, the number of the cell that has it."""
    places = max(of.cells for of in slices)
    return [next(of.cell for of in slices if place % of.cells == of.cell) for place in range(places)]
