"""Recovers databases that were set back in the midst of random traffic; the tests of recovery, with other seeds."""

import time
from collections.abc import Awaitable, Callable

from deploy.servers import brokers
from deploy.servers.databases import cloned, url_as
from tests.integration.recovery import test_recovery
from tests.prove.report import Row, Task
from tests.support.pods.running_consumer import consumer_fixture
from tests.support.pods.set_back import SetBack, set_back_fixture

ROUNDS: dict[str, Callable[[SetBack, int], Awaitable[None]]] = {
    "a restored backup": test_recovery.test_a_restored_database_states_what_was_announced,
    "an empty database": test_recovery.test_an_empty_database_states_what_was_announced,
    "with a pod's work": test_recovery.test_what_a_pod_has_decided_on_a_restored_database_yields,
    "killed again and again": test_recovery.test_a_recovery_that_is_killed_again_and_again_has_the_same_result,
}
PARTITIONS = 3


async def recoveries(server: str, template: str, task: Task, *, only: str = "") -> list[Row]:
    """Runs one round of each kind after the other until the time is over, on Apache Kafka if possible."""
    rows = {name: Row("recoveries", name, unit="rounds") for name in ROUNDS if only in name}
    seed = task.seed * 1_000_000
    with brokers.tansu() if brokers.apache_missing() else brokers.apache() as broker:
        while not task.is_over:
            for name, row in rows.items():
                seed += 1
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
                            await ROUNDS[name](stack, seed)
                        except AssertionError as error:
                            row.found.append(f"seed {seed}: {error}")
                await brokers.delete_topics(broker.bootstrap_servers)
                row.runs += 1
                row.seconds += time.monotonic() - started
    return list(rows.values())
