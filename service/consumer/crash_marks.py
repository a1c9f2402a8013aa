"""Poison-record isolation: which records a crashed pod may have died of."""

from dataclasses import dataclass

DEATHS = 3
"""So many deaths with one record alone convict it."""

PORTION = 16
"""A mark is narrowed to a sixteenth with each death: a poll of 2,000 is down to one record after three."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """The records of a partition that a pod may have died of: from the next one to `end` (exclusive)."""

    end: int
    portion: int
    convict: int | None = None
    """The offset of the record that was alone in too many deaths."""


def suspects(mark: tuple[int, int | None, int], position: int, poll: int) -> Suspects:
    """What a mark (offset, records, deaths) that was left behind says about a partition that goes on at `position`."""
    offset, records, deaths = mark
    if records is None or position >= offset + records:
        return Suspects(position + poll, max(1, poll // PORTION))
    if records == 1 and deaths >= DEATHS:
        return Suspects(offset + 1, 1, offset)
    return Suspects(offset + records, max(1, records // PORTION))
