"""Makes the tables state what operators did in the lost time, before a recovery decides anything again."""

from collections.abc import Mapping
from functools import partial

from aiokafka import TopicPartition

from service.history.resumption import Resumption
from service.kafka.deliveries import IsSkipped
from service.recovery.acts import LostActs
from service.recovery.state import Recovering
from service.store import pending_content, quarantine, recovery, skipped_inputs, validation_failures
from service.store.pending_content import PendingFilter
from service.store.recovery import StoredContent


async def skipped_by_operators(
    recovering: Recovering, acts: LostActs, resumed: Mapping[TopicPartition, Resumption], *, dry_run: bool
) -> IsSkipped:
    """Note what operators have skipped in the lost time. Returns which inputs are not read, now or before.

    What was skipped of a log before the one that is `resumed` is read: other records are there. Raises
    NotRecoverable, psycopg.Error.
    """
    async with recovering.database.transaction() if dry_run else recovering.transaction() as conn:
        await skipped_inputs.note_skipped_inputs(conn, acts.skipped)
        known = await skipped_inputs.read_skipped_inputs(conn)
        if dry_run:
            await conn.rollback()
    for tp, some in known.items():
        last = max(resumed[tp].epoch if tp in resumed else 0, *(each.epoch for each in some))
        known[tp] = [each for each in some if each.epoch == last]
    return partial(skipped_inputs.is_skipped, known)


async def prepare(recovering: Recovering, acts: LostActs) -> None:
    """Store what operators removed as removed, and resume topics. Raises NotRecoverable, psycopg.Error."""
    for batch_id, texts in acts.removed.items():
        async with recovering.transaction() as conn:
            await pending_content.remove_pending_content(conn, PendingFilter(batch_id, list(texts)))
    async with recovering.transaction() as conn:
        for topic, skips in acts.resumed.items():
            await quarantine.resume_topic(conn, topic, skips=skips)
        if acts.received:
            removed = [
                (batch_id, StoredContent("removed", None, at, at, content))
                for (batch_id, text), content in acts.received.items()
                for at in [acts.removed[batch_id][text]]
            ]
            await recovery.write_removed(conn, removed)
        if failures := acts.received_failures:
            await validation_failures.store_failures(conn, [(failure, "pending") for failure in failures.values()])
        for batch_id, uploads in acts.removed_failures.items():
            await validation_failures.remove_failures(conn, PendingFilter(batch_id, sorted(uploads)))
