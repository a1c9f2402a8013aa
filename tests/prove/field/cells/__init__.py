"""The cells of the matrix, by what they are about."""

from typing import Final

from tests.prove.field.cells import brokers, clients, clocks, databases, pods, sessions, setups, topics
from tests.prove.field.play import Cell

_ALL: Final = [
    cell for part in (clients, pods, topics, setups, databases, sessions, clocks, brokers) for cell in part.CELLS
]

CELLS: Final[list[Cell]] = sorted(_ALL, key=lambda cell: (cell.kind.brokers, str(cell.kind)))
"""Cells of one kind follow each other, so that they share servers; those without a fault come first."""
