"""Begins and ends the state "recovery" in the database, and commits where the pods continue.

The state outlives its process: until a recovery has finished or was abandoned, no pod applies, publishes or purges
anything. Each run of `recover` has an id, which its transactions compare: a run that another one has replaced, or whose
database was set back once more, writes nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, UnknownMemberIdError
from psycopg import AsyncConnection
from psycopg.errors import LockNotAvailable

from service.domain.topics import INCOMING_TOPICS
from service.history.topics import count_members, open_reader, topic_partitions
from service.kafka.group import offset_text
from service.postgres.pool import Database
from service.store import operator_actions, progress, recovery
from service.store.operator_actions import Operator, Subject
from service.store.progress import DatabaseState, ProgressRow
from service.store.recovery import RecoveryState

QUIET_SECONDS: Final = 21.0
"""The longest time in which a relay that has stopped may still send."""

LEAVE_SECONDS: Final = 120.0
"""How long to wait until the pods have left the consumer group, and the relays have given their shards back."""


Partitions = Mapping[TopicPartition, int]


class NotRecoverable(Exception):
    """The recovery does not begin, or does not continue. The message says why, in one line."""


@dataclass(frozen=True, slots=True)
class Recovering:
    """A recovery that this process has begun."""

    database: Database
    run: UUID
    why: str
    """Why the database was behind."""
    begun: RecoveryState
    rows: Mapping[TopicPartition, ProgressRow]
    """The rows of the partitions when it began."""

    @property
    def reads_everything(self) -> bool:
        """Whether all that the topics have is read, since it is not known what the database lacks."""
        return self.begun.known_until is None

    @asynccontextmanager
    async def transaction(self, *, pipelined: bool = False) -> AsyncIterator[AsyncConnection[Any]]:
        """Run a transaction of this recovery.

        Raises psycopg.Error, which `is_refusal` where another process has taken the recovery over.
        """
        async with self.database.transaction(pipelined=pipelined) as conn:
            await recovery.hold_recovery(conn, self.run)
            yield conn


async def begin(database: Database, *, dry_run: bool = False) -> Recovering:
    """Begin a recovery, or continue one, whichever state the database is in. Raises NotRecoverable, psycopg.Error.

    Waits for the end of a transaction of another recovery: the server ends one whose process is frozen.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + LEAVE_SECONDS
    while True:
        try:
            return await _begin(database, dry_run=dry_run)
        except LockNotAvailable:
            if clock() > until:
                raise NotRecoverable("another recovery is in the midst of a transaction: end its process") from None


async def _begin(database: Database, *, dry_run: bool) -> Recovering:
    run = uuid4()
    async with database.transaction() as conn:
        state = await progress.read_database_state(conn)
        rows = await progress.read_progress(conn)
        why = state.why or "an operator has asked for a recovery"
        begun = await recovery.begin_recovery(conn, run, why)
        if dry_run:
            await conn.rollback()
    return Recovering(database, run, begun.why, begun, rows)


async def await_silence(
    recovering: Recovering,
    kafka: Mapping[str, Any],
    group: str,
    output_ends: Callable[[], Awaitable[Partitions]],
    *,
    quiet_seconds: float = QUIET_SECONDS,
) -> None:
    """Wait until no pod is in the consumer group, and no relay can publish any more. Raises NotRecoverable, KafkaError.

    Where a relay has lived in the last minute, nothing must have arrived on the output topics for `quiet_seconds`.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + LEAVE_SECONDS
    while True:
        async with recovering.transaction() as conn:
            held, has_lived = await recovery.read_relays(conn)
        members = await count_members(kafka, group)
        if not held and not members:
            break
        if clock() > until:
            raise NotRecoverable(f"{members} pods are still in the consumer group, and relays hold {held} shards")
        await asyncio.sleep(0.5)
    ends, since = await output_ends(), clock()
    while has_lived and clock() < since + quiet_seconds:
        await asyncio.sleep(min(1.0, quiet_seconds))
        if (now := await output_ends()) != ends:
            ends, since = now, clock()


async def finish(
    recovering: Recovering,
    kafka: Mapping[str, Any],
    group: str,
    inputs: Collection[TopicPartition],
    by: Operator,
    details: Subject,
) -> None:
    """Let the pods continue at the rows of the database. Raises NotRecoverable, KafkaError, psycopg.Error."""
    async with recovering.transaction() as conn:
        rows = await progress.read_progress(conn)
    # Not those of partitions that are no more: the client would try to commit them for ever.
    there = {
        tp: offset_text(row.next_offset, row.epoch, recovering.database.slice)
        for tp, row in rows.items()
        if tp in inputs
    }
    await _commit(kafka, group, there)
    async with recovering.transaction() as conn:
        state = await progress.read_database_state(conn)
        await progress.end_recovery(conn, state)
        await operator_actions.insert_operator_actions(conn, by, "recover", [details])


async def abandon(database: Database, by: Operator) -> None:
    """End the state without a recovery: pods compare the database with its topics again. Raises NotRecoverable."""
    async with database.transaction() as conn:
        state = await progress.read_database_state(conn)
        if state.state is None:
            raise NotRecoverable("no recovery has begun, and the database is not known to be behind")
        details = {"why_behind": state.why, "state": state.state}
        await progress.abandon_recovery(conn)
        await operator_actions.insert_operator_actions(conn, by, "recover abandon", [Subject(details=details)])


async def begin_fresh(
    database: Database, kafka: Mapping[str, Any], group: str, by: Operator, *, dry_run: bool = False
) -> Mapping[TopicPartition, int]:
    """Apply all inputs as new ones to an empty database. Returns where each partition begins.

    Raises NotRecoverable, KafkaError, psycopg.Error.
    """
    async with database.transaction() as conn:
        state = await progress.read_database_state(conn)
        rows = await progress.read_progress(conn)
    if rows or state.has_batches:
        raise NotRecoverable("the database is not empty: recover without --fresh")
    inputs = (await topic_partitions(kafka))[INCOMING_TOPICS]
    async with open_reader(kafka) as reader:
        beginnings: Mapping[TopicPartition, int] = await reader.beginning_offsets(inputs)
    if dry_run:
        return beginnings
    await _commit(kafka, group, {tp: offset_text(offset, 0, database.slice) for tp, offset in beginnings.items()})
    async with database.transaction() as conn:
        await _end_fresh(conn, state, beginnings)
        details = {"why_behind": state.why, "fresh": True}
        await operator_actions.insert_operator_actions(conn, by, "recover", [Subject(details=details)])
    return beginnings


async def _end_fresh(
    conn: AsyncConnection[Any], state: DatabaseState, beginnings: Mapping[TopicPartition, int]
) -> None:
    await progress.end_recovery(conn, state)
    if beginnings:
        await progress.resume_progress(conn, [(tp, 0, offset) for tp, offset in beginnings.items()])


async def _commit(kafka: Mapping[str, Any], group: str, offsets: Mapping[TopicPartition, tuple[int, str]]) -> None:
    """Set the offsets of the group, which must have no members: a pod could commit later ones afterwards."""
    if not offsets:
        return
    client = AIOKafkaConsumer(**kafka, group_id=group, enable_auto_commit=False)
    await client.start()
    try:
        client.assign(list(offsets))
        await client.commit(dict(offsets))
    except (CommitFailedError, UnknownMemberIdError, IllegalGenerationError):
        raise NotRecoverable("pods are still in the consumer group: wait until they have left it") from None
    finally:
        await client.stop()
