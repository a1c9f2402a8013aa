"""Recovers databases that were set back in the midst of random traffic; the tests of recovery, with other seeds."""

import logging
import time
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog

from deploy.servers import brokers
from deploy.servers.databases import cloned, url_as
from tests.integration.purge.test_brakes import check_open_transaction
from tests.integration.recovery import test_losses, test_operated, test_recovery, test_takeover
from tests.prove.report import Row, Task
from tests.support.pods.running_consumer import consumer_fixture
from tests.support.pods.set_back import SetBack, set_back_fixture

Round = Callable[[SetBack, int], Awaitable[None]]

LOST_IN_PART: Final = test_losses.test_a_loss_that_not_all_partitions_have_is_not_lost

ROUNDS: Final[dict[str, Round]] = {
    "a restored backup": test_recovery.test_a_restored_database_states_what_was_announced,
    "an empty database": test_recovery.test_an_empty_database_states_what_was_announced,
    "with a pod's work": test_recovery.test_what_a_pod_has_decided_on_a_restored_database_yields,
    "killed again and again": test_recovery.test_a_recovery_that_is_killed_again_and_again_has_the_same_result,
    "traffic goes on": test_losses.test_traffic_that_goes_on_through_a_failover_contradicts_nothing,
    "only the outputs show it": test_losses.test_what_only_the_outputs_show_is_not_lost,
    "lost in one partition": partial(LOST_IN_PART, lost=test_losses.in_one_partition),
    "an idle partition": partial(LOST_IN_PART, lost=test_losses.not_in_registrations),
    "with operators": test_operated.test_what_operators_did_at_random_is_as_before,
    "slots in order before": partial(test_takeover.check_taken_over, places="in order"),
    "slots at random before": partial(test_takeover.check_taken_over, places="at random"),
}
NEEDS_APACHE: Final[dict[str, Round]] = {
    "older than the topics": test_recovery.check_older_rows,
}
"""These delete records."""

OPEN_MINUTES: Final = 10
OPEN: Final = f"a transaction open for {OPEN_MINUTES} minutes"
"""Only if there is so much time."""
PARTITIONS: Final = 3


async def _open_transaction(stack: SetBack, _: int) -> None:
    await check_open_transaction(stack.consumers, OPEN_MINUTES * 60)


async def recoveries(server: str, template: str, task: Task, *, only: str = "") -> list[Row]:
    """Runs one round of each kind after the other until the time is over, on Apache Kafka if possible."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # a topic that was just created has no leader yet
    is_apache = not brokers.apache_missing()
    rounds = ROUNDS | (NEEDS_APACHE if is_apache else {})
    if is_apache and task.ends_at - time.monotonic() > OPEN_MINUTES * 60 * 1.5:
        rounds |= {OPEN: _open_transaction}
    rows = {name: Row("recoveries", name, unit="rounds") for name in rounds if only in name}
    seed, waiting = task.seed * 1_000_000, list(rows)
    with brokers.apache() if is_apache else brokers.tansu() as broker:
        while waiting and not task.is_over:
            name = waiting.pop(0)
            if name != OPEN:  # that once
                waiting.append(name)
            seed, row = seed + 1, rows[name]
            task.report(f"{name}; {sum(each.runs for each in rows.values()):,} rounds")
            started = time.monotonic()
            await broker.create_topics(PARTITIONS)
            with cloned(server, template) as url:
                async with (
                    consumer_fixture(url_as(url, "els_app"), url, broker) as consumers,
                    set_back_fixture(consumers) as stack,
                ):
                    consumers.restarts = True
                    try:
                        await rounds[name](stack, seed)
                    except Exception as error:  # noqa: BLE001  every error is reported with its seed
                        where = traceback.extract_tb(error.__traceback__)[-1]
                        row.found.append(f"seed {seed}: {type(error).__name__} in {where.line}: {error}")
            await brokers.delete_topics(broker.bootstrap_servers)
            row.runs += 1
            row.seconds += time.monotonic() - started
    return list(rows.values())
