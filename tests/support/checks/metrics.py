"""Compares the summed metrics of pods with the tables and topics at the end of the recorded morning."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from deploy.servers.pods import Pod, until
from tests.support.checks.expected import Published

Labels = frozenset[tuple[str, str]]
Samples = dict[str, dict[Labels, float]]
"""Of each sample's name the values by labels."""

GAUGES = {
    "els_pending_content": "select count(*) from els.pending_content where state = 'pending'",
    "els_pending_batches": "select count(*) from ops.pending_batches",
    "els_outbox_pending": "select count(*) from els.outbox",
    "els_outbox_oldest_seconds": "select 0",
    "els_outbox_blocked_batches": "select 0",
    "els_quarantine_open": "select count(*) from els.quarantine where state = 'open'",
    "els_topics_paused": "select 0",
    "els_expired_content_last_day": "select 0",
    "els_invariant_violations": "select 0",
}
"""What describes the database, and is the same from each pod."""


COUNTERS = {
    "els_batches_registered_total": "select count(*) from els.batches",
    "els_batches_ready_total": "select count(*) from els.batches where state = 'ready'",
    "els_batches_failed_total": "select count(*) from els.batches where state = 'failed'",
    "els_slots_assigned_total": "select count(*) from els.slots where state = 'assigned'",
    "els_excess_content_total": "select reason, count(*) from els.excess_content group by reason",
    "els_quarantined_total": "select reason, count(*) from els.quarantine group by reason",
    "els_pending_content_expired_total": "select 0",
    "els_batches_timed_out_total": "select 0",
}
UPLOADS = (
    "slots where state = 'assigned'",
    "excess_content",
    "pending_content",
    "validation_failures",
    "confirmations",
)
WAITED_LEAST = "select count(*) from els.batches where ready_announced_at > completed_at"
REGULAR = "select count(*) from els.batches where class_id <> '' and ready_announced_at is not null"
"""Of two transactions with the same time, the second may have waited for the first."""
CONFIRMED = "select state, count(*) from els.confirmations where state <> 'pending' group by state"
OBSERVED = {
    "els_pending_content_age_seconds": "els_pending_content_reconciled_total",
    "els_batch_ready_seconds": "els_batches_ready_total",
    "els_event_to_publish_seconds": "els_outbox_published_total",
}


def parsed(text: str) -> Samples:
    """What an answer of /metrics says."""
    samples: Samples = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name][frozenset(sample.labels.items())] = sample.value
    return samples


async def check_metrics(
    pods: Sequence[Pod], database_url: str, published: Published, records: int, partitions: int
) -> None:
    """Every counter is the number of what is there, over all pods; every gauge of the database the same from each."""
    told: list[Samples] = []

    async def settled() -> bool:
        told[:] = [parsed(await pod.metrics()) for pod in pods]
        return not any(_gauges_differ(each, database_url) for each in told) and _lag(told) == [0.0] * partitions

    await until(settled, 90, lambda: f"gauges: {[_gauges_differ(each, database_url) for each in told]} {_lag(told)}")
    with psycopg.connect(database_url) as conn:
        wanted = {name: _counted(conn, query) for name, query in COUNTERS.items()}
        confirmed = _counted(conn, CONFIRMED)
        waited_least, regular = (_counted(conn, query).total() for query in (WAITED_LEAST, REGULAR))
        inputs = sum(_counted(conn, f"select count(*) from els.{table}")[()] for table in ("batches", "quarantine"))
        inputs += sum(_counted(conn, f"select count(*) from els.{table}")[()] for table in UPLOADS)
    wanted["els_outbox_published_total"] = Counter(
        {(topic,): len(events) for topic, events in published.events.items() if events}
    )
    for name, counts in wanted.items():
        assert _sum(told, name) == counts, name
    assert waited_least <= _sum(told, "els_batches_waiting_for_class_total").total() <= regular
    confirmations = _sum(told, "els_confirmations_total")
    del confirmations["pending",]  # those have been applied since, or not used
    assert confirmations == confirmed
    stored, reconciled = (_sum(told, f"els_pending_content_{what}_total").total() for what in ("stored", "reconciled"))
    assert stored - reconciled == _counted_once(database_url, GAUGES["els_pending_content"])
    assert _sum(told, "els_duplicates_total").total() == records - inputs
    for histogram, counter in OBSERVED.items():
        assert _sum(told, f"{histogram}_count").total() == _sum(told, counter).total(), histogram
    assert {labels for labels, _ in _sum(told, "els_transaction_seconds_count").items()} >= {("poll",), ("relay",)}
    assert len({frozenset(each["els_build_info"]) for each in told}) == 1


def _gauges_differ(told: Samples, database_url: str) -> dict[str, tuple[float | None, int]]:
    found = {}
    for name, query in GAUGES.items():
        wanted = _counted_once(database_url, query)
        value = told[name].get(frozenset())
        if value != wanted:
            found[name] = value, wanted
    return found


def _lag(told: Sequence[Samples]) -> list[float]:
    """Of each partition, by the pod that has it."""
    return [value for each in told for value in each["els_consumer_lag"].values()]


def _sum(told: Sequence[Samples], name: str) -> Counter[tuple[str, ...]]:
    """Over all pods, by the values of the labels; without what is 0."""
    total: Counter[tuple[str, ...]] = Counter()
    for each in told:
        for labels, value in each[name].items():
            total[tuple(text for _, text in sorted(labels))] += int(value)
    return +total


def _counted(conn: "psycopg.Connection[tuple[object, ...]]", query: str) -> Counter[tuple[str, ...]]:
    rows = conn.execute(query.encode()).fetchall()
    return +Counter({tuple(map(str, labels)): int(str(count)) for *labels, count in rows})


def _counted_once(database_url: str, query: str) -> int:
    with psycopg.connect(database_url) as conn:
        return _counted(conn, query).total()
