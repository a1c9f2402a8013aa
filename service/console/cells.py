"""Knows the cells that the console shows: one, or all that share the batches, and which of them a request is about."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aiohttp import web

from service.console.outages import Outage
from service.console.pages.reads import Reads
from service.domain.cells import cell_of
from service.operators.errors import InvalidRequest
from service.operators.operations import Operations

CELL: Final = web.RequestKey("cell", int)
"""The cell that a request is about; not set where it is about all of them."""

_OF_ONE_CELL: Final = ("cell", "batch", "id", "ids", "before", "after")
"""Parameters that mean something in one cell only."""


class ConsoleCell(NamedTuple):
    """A database, as the console reads it and acts on it, each in sessions of its own."""

    reads: Reads
    operations: Operations


class ConsoleCells:
    """Holds the cells, by their numbers."""

    def __init__(self, cells: Mapping[int, ConsoleCell], own: int, numbers: Sequence[int]) -> None:
        """`own` is the number of the cell that this process belongs to.

        `numbers` has, for the remainder of a hash by their count, the number of the cell that has it.
        """
        self._cells = cells
        self._numbers = numbers
        self.own = own

    def __getitem__(self, cell: int) -> ConsoleCell:
        return self._cells[cell]

    @property
    def are_several(self) -> bool:
        """Returns whether there is more than one: otherwise nothing is said of cells."""
        return len(self._cells) > 1

    @property
    def reads(self) -> Mapping[int, Reads]:
        """Returns where to read from, by the numbers of the cells."""
        return {cell: each.reads for cell, each in self._cells.items()}

    def owner(self, batch_id: str) -> int:
        """Returns the number of the cell that has this batch."""
        return self._numbers[cell_of(batch_id, len(self._numbers))] if self.are_several else self.own

    def asked(self, given: Mapping[str, str]) -> int | None:
        """Returns the cell that an address names; None where it names none. Raises InvalidRequest."""
        if not self.are_several or "cell" not in given:
            return None
        found = {str(cell): cell for cell in self._cells}.get(given["cell"])
        if found is None:
            raise InvalidRequest(f"cell: must be one of {', '.join(map(str, self._cells))}")
        return found

    def links(self, request: web.Request) -> list[tuple[int, dict[str, str]]]:
        """Returns each cell with the parameters that show the same of it. Empty where there is only one."""
        if not self.are_several:
            return []
        kept = {name: value for name, value in request.query.items() if name not in _OF_ONE_CELL}
        return [(cell, {**kept, "cell": str(cell)}) for cell in self._cells]

    async def outages(self, cell: int | None) -> Sequence[Outage]:
        """Returns what is down of a cell, or of all at the same time."""
        numbers = list(self._cells) if cell is None else [cell]
        found = await asyncio.gather(*(self._cells[each].reads.outages.read() for each in numbers))
        if not self.are_several:
            return found[0]
        of_cells = [
            outage._replace(text=f"Cell {number}: {outage.text}")
            for number, outages in zip(numbers, found, strict=True)
            for outage in outages
            if outage.about != "broker"
        ]
        return of_cells + [outage for outage in found[0] if outage.about == "broker"]  # all have the same broker

    def forget(self, cell: int | None) -> None:
        """Ask the database of a cell anew next time, or those of all."""
        for each in self._cells.values() if cell is None else [self._cells[cell]]:
            each.reads.outages.forget()
