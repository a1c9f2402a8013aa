"""Ends the state "behind" by applying the inputs that the database lacks once more.

No input is lost by that. What was announced for them in the lost time may be announced once more, with another slot.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError

from service.domain.topics import INCOMING_TOPICS
from service.history.topics import open_reader, topic_partitions
from service.kafka.group import offset_text
from service.postgres.pool import Database
from service.store import operator_actions, progress
from service.store.operator_actions import Operator, Subject


class NotRecoverable(Exception):
    """Nothing was changed. The message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Rewound:
    """Where the pods continue, and how many records will be read again at most."""

    why: str
    """Why the database was behind."""
    records: int
    offsets: Mapping[TopicPartition, int]


async def rewind(
    database: Database,
    kafka: Mapping[str, Any],
    group: str,
    by: Operator,
    *,
    fresh: bool = False,
    dry_run: bool = False,
) -> Rewound:
    """Let the pods continue at the rows of the database, or with `fresh` in an empty database at the first records.

    Raises NotRecoverable, KafkaError, TimeoutError, psycopg.Error.
    """
    async with database.transaction() as conn:
        state = await progress.read_database_state(conn)
        rows = await progress.read_progress(conn)
    if state.state is None:
        raise NotRecoverable("the database is not known to be behind: there is nothing to recover")
    if fresh and (rows or state.has_batches):
        raise NotRecoverable("the database is not empty: recover without --fresh")
    if not fresh and not rows and not state.has_batches:
        raise NotRecoverable("the database is empty: use --fresh if all inputs are to be applied as new ones")
    inputs = (await topic_partitions(kafka))[INCOMING_TOPICS]
    async with open_reader(kafka) as reader:
        beginnings, ends = await reader.beginning_offsets(inputs), await reader.end_offsets(inputs)
    offsets = {tp: rows[tp].next_offset if tp in rows else beginnings[tp] for tp in inputs}
    rewound = Rewound(
        state.why or "", sum(max(0, ends[tp] - max(beginnings[tp], offsets[tp])) for tp in inputs), offsets
    )
    if dry_run:
        return rewound
    epochs = {tp: rows[tp].epoch if tp in rows else 0 for tp in inputs}
    await _commit(kafka, group, {tp: offset_text(offset, epochs[tp]) for tp, offset in offsets.items()})
    async with database.transaction() as conn:
        await progress.end_recovery(conn, state)
        missing = [(tp, 0, offset) for tp, offset in offsets.items() if tp not in rows]
        if missing:
            await progress.resume_progress(conn, missing)
        details = {"why_behind": rewound.why, "records": rewound.records, "fresh": fresh}
        await operator_actions.insert_operator_actions(conn, by, "recover", [Subject(details=details)])
    return rewound


async def _commit(kafka: Mapping[str, Any], group: str, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
    """Set the offsets of the group, which must have no members: a pod could commit later ones afterwards."""
    client = AIOKafkaConsumer(**kafka, group_id=group, enable_auto_commit=False)
    await client.start()
    try:
        client.assign(list(offsets))
        await client.commit(dict(offsets))
    except (CommitFailedError, UnknownMemberIdError, IllegalGenerationError):
        raise NotRecoverable("pods are still in the consumer group: wait until they have left it") from None
    finally:
        await client.stop()
