"""Reads the log of operator actions, the pods, and what `check` says."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from service.console.pages.reads import ROWS, ConsolePage, Query, Reads
from service.operators.errors import OperationError
from service.store import console

CHECK_SECONDS: Final = 120.0
"""How long `check` may take: each broker that is silent, and not closed, takes it 10 to 20 s."""


async def _actions(reads: Reads, query: Query) -> Mapping[str, Any]:
    given = {name: query.text(name) for name in ("who", "action", "batch", "topic")}
    since, until = query.since(), query.until()
    async with reads.tables() as conn:
        rows = await console.list_operator_actions(
            conn,
            page=ROWS,
            who=given["who"],
            action=given["action"],
            batch_id=given["batch"],
            topic=given["topic"],
            since=since,
            until=until,
            before=query.row_id("before"),
        )
    times = {"since": since and since.isoformat(), "until": until and until.isoformat()}
    return {"rows": rows, "given": given | times, "more": rows[-1]["id"] if len(rows) == ROWS else None}


async def _system(reads: Reads, query: Query) -> Mapping[str, Any]:
    pods = None
    with suppress(OperationError):  # the page says so, as all do; and `check` says more
        async with reads.tables() as conn:
            pods = await console.list_pods(conn)
    return {"rows": await reads.checked() if query.text("run") else None, "pods": pods}


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage("actions", "Actions", "actions.html", _actions),
        ConsolePage(
            "system", "System", "system.html", _system, shows_persons=False, needs_database=False, seconds=CHECK_SECONDS
        ),
    )
