"""Implements the operator actions on notices: conditions that were reported and need no further action."""

from collections.abc import Sequence

from service.operators.errors import NotFound
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.store import operator_actions, progress
from service.store.operator_actions import Operator, Subject


class NoticeActions:
    """Marks notices as seen."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acknowledge(self, by: Operator, ids: Sequence[int] | None) -> list[int]:
        """Mark losses of inputs (None: all) as seen. Returns their ids, at least one. Raises OperationError."""
        async with transaction(self._database) as conn:
            seen = await progress.acknowledge_lost_inputs(conn, ids)
            if seen:
                subjects = [Subject(topic=topic, details={"lost_inputs": id_}) for id_, topic in seen]
                await operator_actions.insert_operator_actions(conn, by, "health acknowledge", subjects)
        if not seen:
            raise NotFound("there is no such notice that is not acknowledged")
        return [id_ for id_, _ in seen]
