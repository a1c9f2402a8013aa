"""Implements the operator actions on notices: conditions that were reported and need no further action."""

from collections.abc import Sequence

from service.operators.errors import NotFound
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.store import operator_actions, progress, retention
from service.store.operator_actions import Operator, Subject


class NoticeActions:
    """Marks notices as seen."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acknowledge(self, by: Operator, ids: Sequence[int] | None) -> list[str]:
        """Mark losses of inputs as seen: the given ones, or all; without ids also clocks that do not agree.

        Returns what was marked, in words, at least one. Raises OperationError.
        """
        async with transaction(self._database) as conn:
            seen = await progress.acknowledge_lost_inputs(conn, ids)
            hold = await retention.acknowledge_purge_hold(conn) if ids is None else None
            subjects = [Subject(topic=topic, details={"lost_inputs": id_}) for id_, topic in seen]
            subjects += [Subject(details={"purge_hold": hold})] if hold else []
            if subjects:
                await operator_actions.insert_operator_actions(conn, by, "health acknowledge", subjects)
        if not subjects:
            raise NotFound("there is no such notice that is not acknowledged")
        return [f"loss {id_} of {topic}" for id_, topic in seen] + ([hold] if hold else [])
