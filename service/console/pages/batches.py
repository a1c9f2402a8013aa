"""Reads one batch, and finds what a text may name."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.console.pages.reads import ROWS, ConsolePage, Query, Reads
from service.console.wording import step
from service.operators.advice import advise
from service.operators.errors import InvalidRequest, NotFound, OperationError, TooSlow
from service.postgres.queries import NamedRow
from service.store import console
from service.store.pending_content import PendingFilter

CELL_SEARCH_SECONDS: Final = 10.0
"""How long a search waits for one of several cells."""


async def _batch(reads: Reads, query: Query) -> Mapping[str, Any]:
    batch_id, after = query.required("id"), query.position("after")
    batch, slots = await reads.operations.batches.show(batch_id, page=ROWS, after=after)
    waiting: dict[str, list[dict[str, Any]]] = {}
    pending = reads.operations.pending
    for state in ("pending", "expired", "removed"):
        condition = PendingFilter(batch_id)
        contents = (await pending.list(condition, page=ROWS, state=state)).rows
        failures = (await pending.list_failures(condition, page=ROWS, state=state)).rows
        waiting[state] = [row._asdict() | {"upload": row.text_storage_id} for row in contents]
        waiting[state] += [dict(row) | {"upload": row["file_upload_id"]} for row in failures]
    async with reads.tables() as conn:
        actions = await console.list_operator_actions(conn, page=ROWS, batch_id=batch_id)
    _, steps = advise(batch_id, batch if batch["state"] != "unknown" else None, batch)
    return {
        "id": batch_id,
        "batch": batch,
        "steps": list(map(step, steps)),
        "slots": slots,
        "waiting": waiting,
        "actions": actions,
    }


async def _find(reads: Reads, query: Query) -> Mapping[str, Any]:
    return _found(query, {None: await _search(reads, query)})


async def _find_in_all(cells: Mapping[int, Reads], query: Query) -> Mapping[str, Any]:
    answers = await asyncio.gather(*(_search(reads, query, CELL_SEARCH_SECONDS) for reads in cells.values()))
    return _found(query, dict(zip(cells, answers, strict=True)))


async def _search(reads: Reads, query: Query, seconds: float | None = None) -> Sequence[NamedRow] | OperationError:
    """Search one database, for a limited time where there are others. Raises OperationError if it is the only one."""
    text, since, until = query.text("text"), query.since(), query.until()
    if not text:
        return []
    try:
        async with asyncio.timeout(seconds):
            if seconds and (error := await reads.unavailable()):
                return error
            return await reads.operations.search.find(text, page=ROWS, since=since, until=until)
    except TimeoutError:
        return TooSlow(f"it has not answered within {seconds:.0f} s")
    except (NotFound, InvalidRequest) as nothing:
        return nothing
    except OperationError as error:
        if seconds is None:
            raise
        return error


def _found(query: Query, answers: Mapping[int | None, Sequence[NamedRow] | OperationError]) -> Mapping[str, Any]:
    """Put the answers of all cells together, the newest first; of one database, it is as it was found."""
    rows: list[NamedRow] = []
    nothing, missing = None, []
    for cell, answer in answers.items():
        if isinstance(answer, NotFound | InvalidRequest):
            nothing = str(answer)
        elif isinstance(answer, OperationError):
            missing.append(cell)
        else:
            rows += [{**row, "cell": cell} for row in answer]
    if len(answers) > 1:
        rows.sort(key=lambda row: (row["at"] is not None, row["at"]), reverse=True)  # an open slot has no time
    return {
        **{name: query.text(name) for name in ("text", "since", "until")},
        "rows": rows,
        "error": None if rows else nothing,
        "missing": missing,
    }


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage("find", "Find", "find.html", _find, read_all=_find_in_all, is_of_all=True),
        ConsolePage("batch", "Batch", "batch.html", _batch, is_in_menu=False, batch="id"),
    )
