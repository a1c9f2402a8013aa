"""Reads one batch, and finds what a text may name."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.console.pages.reads import ROWS, ConsolePage, Query, Reads
from service.console.wording import step
from service.operators.advice import advise
from service.operators.errors import InvalidRequest, NotFound
from service.store import console
from service.store.pending_content import PendingFilter


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
    text, rows, error = query.text("text"), [], None
    since, until = query.since(), query.until()
    if text:
        try:
            rows = list(await reads.operations.search.find(text, page=ROWS, since=since, until=until))
        except (NotFound, InvalidRequest) as nothing:
            error = str(nothing)
    return {"text": text, "since": query.text("since"), "until": query.text("until"), "rows": rows, "error": error}


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage("find", "Find", "find.html", _find),
        ConsolePage("batch", "Batch", "batch.html", _batch, is_in_menu=False),
    )
