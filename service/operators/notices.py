"""Reads the verdict of ops.health, and implements the operator action on it: to mark its notices as seen."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from psycopg import AsyncConnection

from service.operators.errors import Conflict, InvalidRequest, NotFound
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.store import notices, operator_actions, progress, retention
from service.store.notices import Condition
from service.store.operator_actions import Operator, Subject

NOTICE_KINDS: Final = ("lost_inputs", "expired_content", "late_batches", "clocks", "servers")
"""The kinds of notices."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of the whole service: "action needed", "notice" or "fine", and the reasons."""

    level: str
    conditions: Sequence[Condition]


class NoticeActions:
    """Reads the verdict of ops.health, and marks notices as seen."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def verdict(self) -> Verdict:
        """Read ops.health. Raises OperationError."""
        async with transaction(self._database) as conn:
            return Verdict(*await notices.read_verdict(conn))

    async def acknowledge(
        self, by: Operator, kinds: Sequence[str] = (), ids: Sequence[int] = (), *, dry_run: bool = False
    ) -> list[str]:
        """Mark as seen the notices of these kinds, and these losses of inputs; without both, all notices.

        Later occurrences show again. The kind `clocks` also lets the purge go on while it is held, since whether the
        database's clock is right is for a person to say. A dry run changes nothing.

        Returns what was marked, in words, at least one. Raises Conflict where one of the kinds needs an action, or only
        such are left, and other OperationErrors.
        """
        marked: dict[str, Subject] = {}
        with suppress(_DryRun):
            async with transaction(self._database) as conn:
                _, conditions = await notices.read_verdict(conn)
                needed = {each.kind: each.line for each in conditions if each.level == "action needed"}
                _check_kinds(kinds, needed)
                marked = await _acknowledge(conn, kinds, ids)
                if not marked and needed and not kinds and not ids:
                    raise Conflict(f"what needs an action cannot be acknowledged: {_first(needed)}")
                if not marked:
                    raise NotFound("there is no such notice that is not acknowledged")
                if dry_run:
                    raise _DryRun
                await operator_actions.insert_operator_actions(conn, by, "health acknowledge", list(marked.values()))
        return list(marked)


class _DryRun(Exception):
    """Rolls a dry run back."""


def _check_kinds(kinds: Sequence[str], needed: Mapping[str, str]) -> None:
    """Raises Conflict where a kind needs an action, and InvalidRequest where there is none of that name."""
    for kind in kinds:
        if kind in needed and kind != "clocks":
            raise Conflict(f"this needs an action and cannot be acknowledged: {needed[kind]}")
        if kind not in NOTICE_KINDS:
            raise InvalidRequest(f"there is no kind of notice {kind}; there are: {', '.join(NOTICE_KINDS)}")


async def _acknowledge(conn: AsyncConnection[Any], kinds: Sequence[str], ids: Sequence[int]) -> dict[str, Subject]:
    """Mark what was asked for. Returns the subject of each, by what was marked in words."""
    chosen = set(kinds or (() if ids else NOTICE_KINDS))
    marked: dict[str, Subject] = {}
    if ids or "lost_inputs" in chosen:
        for id_, topic in await progress.acknowledge_lost_inputs(conn, None if "lost_inputs" in chosen else ids):
            marked[f"loss {id_} of {topic}"] = Subject(topic=topic, details={"lost_inputs": id_})
    if "expired_content" in chosen and (seen := await notices.acknowledge_expired(conn)):
        until, contents, failures = seen
        what = f"{contents} expired contents" + (f" and {failures} validation failures" if failures else "")
        marked[f"{what}, until {until:%Y-%m-%d %H:%M:%S}Z"] = Subject(
            details={"expired_content": contents, "expired_failures": failures, "until": until}
        )
    if "late_batches" in chosen and (late := await notices.acknowledge_late(conn)):
        until, count = late
        marked[f"{count} late batches, until {until:%Y-%m-%d %H:%M:%S}Z"] = Subject(
            details={"late_batches": count, "until": until}
        )
    if "clocks" in kinds and (hold := await retention.acknowledge_purge_hold(conn)):
        marked[hold] = Subject(details={"purge_hold": hold})
    for kind in ("clocks", "servers"):
        if kind in chosen:
            for notice in await notices.acknowledge_notices(conn, kind):
                marked[f"notice {notice.id}: {notice.detail}"] = Subject(
                    details={"notice": notice.id, "kind": kind, "detail": notice.detail}
                )
    return marked


def _first(needed: Mapping[str, str]) -> str:
    others = f", and {len(needed) - 1} more" if len(needed) > 1 else ""
    return f"{next(iter(needed.values()))}{others}"
