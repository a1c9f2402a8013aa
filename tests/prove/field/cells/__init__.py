"""The cells of the matrix, by what they are about."""

from typing import Final

from tests.prove.field.cells import brokers, clients, databases, pods, topics
from tests.prove.field.play import Cell

_ALL: Final = [*clients.CELLS, *pods.CELLS, *topics.CELLS, *databases.CELLS, *brokers.CELLS]

CELLS: Final[list[Cell]] = sorted(_ALL, key=lambda cell: (cell.kind.brokers, str(cell.kind)))
"""Cells of one kind follow each other, so that they share servers; those without a fault come first."""
