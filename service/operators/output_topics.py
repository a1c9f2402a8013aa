"""Implements the operator action on output topics: relays use the partitions that were added."""

from collections.abc import Mapping, Sequence

from service.operators.errors import Conflict
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.store import operator_actions, output_topics, relays
from service.store.operator_actions import Operator, Subject
from service.store.output_topics import Adopted


class OutputTopicActions:
    """Says which partitions relays use."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def adopt(
        self,
        by: Operator,
        found: Mapping[str, int] | None = None,
        *,
        while_publishing: bool = False,
        dry_run: bool = False,
    ) -> Sequence[Adopted]:
        """Make relays use all partitions of the output topics: as many as are `found`, by default as relays found.

        Returns the topics that change. Raises OperationError, Conflict while relays run unless it is done
        `while_publishing`: the events of one batch may then be in two partitions, and be read out of order.
        """
        async with transaction(self._database) as conn:
            running = await relays.count_relays(conn)
            if running and not (while_publishing or dry_run):
                raise Conflict(
                    f"{running} relays publish now: stop all pods with the role relay and wait until readers have no"
                    " lag, or allow it while they publish, if the readers order events by the header seq",
                    parameter="while_publishing",
                )
            if dry_run:
                return await output_topics.find_added_partitions(conn, found or {})
            await output_topics.note_partitions(conn, found or {})
            adopted = await output_topics.adopt_partitions(conn)
            subjects = [
                Subject(topic=topic, details={"used_before": before, "partitions": now, "relays": running})
                for topic, before, now in adopted
            ]
            if subjects:
                await operator_actions.insert_operator_actions(conn, by, "topics adopt", subjects)
        return adopted
