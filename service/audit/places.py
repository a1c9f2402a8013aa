"""Checks that the rows of each batch are in the database of its cell, and in no other."""

from service.audit.findings import Findings, Knowledge
from service.history.facts import History


def elsewhere(history: History, _: Knowledge) -> Findings:
    """Cell: no other cell works on the batch, and what a split has left there is what its own cell has."""
    own = {slot.essay_id: slot.text or slot.upload or "" for slot in history.slots}
    for row in history.elsewhere:
        what = f"{row.what} {row.subject}".rstrip()
        if not row.is_history:
            yield "cell", f"{what} is in cell {row.cell}, which would work on it"
        elif row.is_new:
            yield "cell", f"{what} is in cell {row.cell}, where no split has left it"
        elif row.what == "slot" and row.value and history.batch and own.get(row.subject) != row.value:
            there = own.get(row.subject) or "nothing"
            yield "cell", f"{what} has {row.value} in cell {row.cell}, and {there} in its own cell"
