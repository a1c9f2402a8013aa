"""Tests that a database which was set back states what was announced, once it is recovered."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiokafka import TopicPartition

from deploy.servers.brokers import PARTITIONS, Broker
from deploy.servers.pods import until
from service.domain.delivery import IntakeLimits
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    OUTGOING_TOPICS,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
    VALIDATION_FAILED,
)
from service.history.topics import open_reader, topic_partitions
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.purge.policy import RetentionPolicy
from service.purge.purge import purge_once
from service.recovery.state import NotRecoverable
from service.runtime.health import Health
from tests.support.builders.inputs import confirmation, content, delivery, failure, registration
from tests.support.checks.recovered import applied_and_kept, check_recovered, stated
from tests.support.pods.running_consumer import BOUND, ConsumerFixture, consumer_fixture
from tests.support.pods.set_back import SetBack, set_back_fixture, traffic

LEAVES = pytest.mark.only_in_test_all("leaving a group, which the embedded broker is slow to see")
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.only_in_test_all("more traffic")) for seed in (1, 2))]


@pytest.fixture
async def stack(strict_consumers: ConsumerFixture) -> AsyncIterator[SetBack]:
    strict_consumers.restarts = True
    async with set_back_fixture(strict_consumers) as stack:
        yield stack


@pytest.mark.parametrize("seed", SEEDS[:3])
async def test_a_restored_database_states_what_was_announced(stack: SetBack, seed: int) -> None:
    await applied_and_kept(stack, random.Random(seed))
    before = await stated(stack)
    await stack.set_back()
    running = stack.consumers.start_one()
    await stack.consumers.becomes("select state from els.recovery", "behind")
    await until(lambda: "behind" in str(running.health.parts["consumer"]), BOUND, lambda: str(running.health.parts))
    recovered = await stack.recover()
    assert (recovered.contradictions, recovered.incomplete) == ([], [])
    await until(lambda: running.health.ready, BOUND, lambda: str(running.health.parts))
    await stack.stop()
    await check_recovered(stack, before)


@LEAVES
@pytest.mark.parametrize("seed", SEEDS[:2])
async def test_an_empty_database_states_what_was_announced(stack: SetBack, seed: int) -> None:
    await applied_and_kept(stack, random.Random(seed))
    before = await stated(stack)
    stack.clear()
    await stack.recover()
    last_number = stack.consumers.value("select pg_sequence_last_value('els.outbox_seq_seq')")
    assert last_number >= await stack.highest_number(), "new events would have lower numbers"
    await check_recovered(stack, before)


@LEAVES
async def test_after_the_recovery_of_an_empty_database_relays_use_all_partitions(stack: SetBack) -> None:
    """How many they used before is in no topic."""
    await applied_and_kept(stack, random.Random(0), batches=5)
    stack.clear()
    await stack.recover()
    assert stack.consumers.value("select count(*) from els.output_topics") == 0
    await stack.start()
    await stack.send(traffic(random.Random(1), "later", 5))
    await stack.settled()
    rows = stack.consumers.conn.execute("select distinct partitions, found from els.output_topics").fetchall()
    assert rows == [(PARTITIONS, PARTITIONS)]


@LEAVES
@pytest.mark.parametrize("seed", SEEDS[:3])
async def test_what_a_pod_has_decided_on_a_restored_database_yields(stack: SetBack, seed: int) -> None:
    """Nothing of it is published: a pod that is not checked, and whose relay did not reach the broker."""
    chance = random.Random(seed)
    later = await applied_and_kept(stack, chance)
    before = await stated(stack)
    await stack.set_back()
    intake = Intake(stack.database, IntakeLimits(), Health(), forget)
    chance.shuffle(later)
    for topic, partition, value in later:
        await intake.take([delivery(topic, value, partition=partition)])
    assert stack.state() != before.state
    await stack.recover()
    await check_recovered(stack, before)


BATCH_TABLES = ("batches", "slots", "pending_content", "excess_content", "validation_failures", "confirmations")
MONTH = 30 * 86_400


async def test_inputs_that_were_deleted_unread_are_listed(app_url: str, database_url: str, apache: Broker) -> None:
    async with consumer_fixture(app_url, database_url, apache) as consumers, set_back_fixture(consumers) as stack:
        await consumers.start()
        await stack.send([(CONTENT_PROVISIONED, 0, content("b", "t1"))])
        await consumers.all_committed()
        await consumers.stop()
        await stack.send([(CONTENT_PROVISIONED, 0, content("b", text)) for text in ("t2", "t3", "t4")])
        tp = TopicPartition(CONTENT_PROVISIONED, 0)
        await consumers.delete_records(tp, consumers.ends[tp] - 1)
        for _ in range(2):  # a second recovery does not list them again
            await stack.recover()
            lost = consumers.conn.execute("select records, cause from ops.lost_inputs").fetchall()
            assert lost == [(2, "deleted")]
        assert consumers.value("select count(*) from els.pending_content") == 2


ROWS = "select '{0}', t::text from els.{0} as t where batch_id like 'old%%' and batch_id <> all (%s)"


async def test_rows_that_are_older_than_the_topics_stay_as_they_are(
    app_url: str, database_url: str, apache: Broker
) -> None:
    """The backup holds thirty days, the topics one."""
    async with consumer_fixture(app_url, database_url, apache) as consumers, set_back_fixture(consumers) as stack:
        await check_older_rows(stack, 3)


async def check_older_rows(stack: SetBack, seed: int) -> None:
    """Asserts that rows stay byte for byte, if the topics have nothing of them any more."""
    chance = random.Random(seed)
    await stack.start()
    await stack.send(traffic(chance, "old", 30))
    await stack.settled()
    async with open_reader(stack.kafka) as reader:
        outputs = await reader.end_offsets((await topic_partitions(stack.kafka))[OUTGOING_TOPICS])
    for tp, end in stack.consumers.ends.items():
        await stack.consumers.delete_records(tp, end)
    for tp, end in outputs.items():  # their last record says how far back they reach
        await stack.consumers.delete_records(tp, max(0, end - 1))
    applied = f"select bool_and(applied_until > '{stack.consumers.value('select now()')}') from els.progress"
    await stack.consumers.becomes(applied, True)
    await stack.stop()

    still_there = [orjson.loads(value)["data"]["batch_id"] for _, _, value in await stack.outputs()]

    def old() -> set[tuple[Any, ...]]:
        return {
            row
            for table in BATCH_TABLES
            for row in stack.consumers.conn.execute(ROWS.format(table), [still_there]).fetchall()
        }

    kept = old()
    assert {table for table, _ in kept} == set(BATCH_TABLES)
    await applied_and_kept(stack, chance)
    before = await stated(stack)
    await stack.set_back()
    await stack.recover()
    assert old() ^ kept == set()
    await check_recovered(stack, before, is_audited=False)  # the audit would miss the records that were deleted


APPLIED = f"select count(applied_until) from els.progress where topic = '{BATCH_REGISTERED}'"


async def test_a_recovery_is_refused_where_announcements_may_be_missing(
    app_url: str, database_url: str, apache: Broker
) -> None:
    """The database was not known to be behind, and goes on."""
    async with consumer_fixture(app_url, database_url, apache) as consumers, set_back_fixture(consumers) as stack:
        await stack.start()
        await stack.send(
            [(BATCH_REGISTERED, 0, registration("b", ["e1"])), (CONTENT_PROVISIONED, 0, content("b", "t1"))]
        )
        await stack.settled()
        await stack.stop()
        before = stack.state()
        for tp in (await topic_partitions(stack.kafka))[OUTGOING_TOPICS]:
            await consumers.delete_records(tp, -1)  # up to its end
        with pytest.raises(NotRecoverable, match="do not reach back to"):
            await stack.recover()
        assert consumers.value("select count(*) from els.recovery") == 0
        await stack.recover(accept_unknown=True)
        assert stack.state() ^ before == set()
        assert consumers.value("select count(*) from els.outbox_pages") == 0


async def forget(_: Effects) -> None:
    """Reports nothing."""


@LEAVES
@pytest.mark.parametrize("seed", SEEDS[:2])
async def test_a_recovery_that_is_killed_again_and_again_has_the_same_result(stack: SetBack, seed: int) -> None:
    chance = random.Random(seed)
    await applied_and_kept(stack, chance)
    before = await stated(stack)
    await stack.set_back()
    for number in range(6):
        attempt = asyncio.create_task(stack.recover())
        await asyncio.wait([attempt], timeout=chance.uniform(0.4, 0.5 + number / 3))
        attempt.cancel()
        await asyncio.wait([attempt])
        assert attempt.cancelled() or number
    await stack.recover()
    await check_recovered(stack, before)


async def test_another_implementation_is_taken_over_without_contradiction(stack: SetBack) -> None:
    """Its outputs contradict themselves: the first record counts, the others are listed."""
    essays = [f"e{number}" for number in range(4)]
    await stack.send([(BATCH_REGISTERED, 0, registration("b", essays))])
    await stack.send([(CONTENT_PROVISIONED, number % 3, content("b", f"t{number}")) for number in range(6)])
    for essay_id, text in (("e2", "t0"), ("e0", "t3"), ("e2", "t1")):
        await stack.announce(SLOT_ASSIGNED, "b", essay_id=essay_id, text_storage_id=text)
    await stack.announce(EXCESS_CONTENT, "b", text_storage_id="t4", reason="batch_not_registered")
    await stack.announce(EXCESS_CONTENT, "b", text_storage_id="t5", reason="BATCH_FULL")
    recovered = await stack.recover()
    ((_, contradiction),) = recovered.contradictions
    assert contradiction.endswith("at 2: slot e2 has content t1, and was announced with another one")
    slots: dict[str, str] = dict(
        stack.consumers.conn.execute("select essay_id, text_storage_id from els.slots").fetchall()
    )
    assert (slots["e2"], slots["e0"]) == ("t0", "t3")
    assert {slots["e1"], slots["e3"]} <= {"t1", "t2", "t4"}
    assert stack.consumers.value("select count(*) from els.slots where raw_file_storage_id is null") == 0
    assert stack.consumers.value("select count(*) from els.excess_content where text_storage_id = 't5'") == 1
    assert stack.consumers.value("select state from els.batches") == "ready"
    stack.start_relay()
    await stack.published()
    topics = Counter(topic for topic, _, value in await stack.outputs() if b'"event_id"' in value)
    assert topics == {SLOT_ASSIGNED: 2, EXCESS_CONTENT: 1, BATCH_COMPLETED: 1, BATCH_READY: 1}


@LEAVES
async def test_a_batch_whose_registration_is_lost_waits_for_it(stack: SetBack) -> None:
    await stack.send([(CONTENT_PROVISIONED, 0, content("b", text)) for text in ("t1", "t2")])
    await stack.announce(SLOT_ASSIGNED, "b", essay_id="e2", text_storage_id="t1")
    assert (await stack.recover()).incomplete == ["b"]
    await stack.consumers.start()
    stack.consumers.conn.execute("update els.pending_content set waiting_since = now() - interval '2 days'")
    await until(lambda: stack.consumers.value(APPLIED) == 3, BOUND, lambda: "the registrations are not applied")
    await purge_once(stack.database, RetentionPolicy(60, MONTH, MONTH))
    assert stack.consumers.value("select count(*) from els.pending_content where state = 'pending'") == 2
    attention = stack.consumers.value("select attention from ops.health")
    assert any("ops.incomplete_batches" in line for line in attention)

    await stack.send([(BATCH_REGISTERED, 0, registration("b", ["e1", "e2"]))])
    await stack.consumers.all_committed()
    assert stack.consumers.value("select error from els.quarantine").partition(": ")[2].startswith("batch b was")
    await stack.consumers.stop()
    assert (await stack.recover()).incomplete == []
    slots = stack.consumers.conn.execute("select essay_id, text_storage_id from els.slots order by position")
    assert slots.fetchall() == [("e1", "t2"), ("e2", "t1")]
    assert stack.consumers.value("select count(*) from els.incomplete_batches") == 0


@LEAVES
async def test_more_failures_than_slots_wait_for_a_lost_registration(stack: SetBack) -> None:
    failures = [failure("b", f"f{number}") for number in range(3)]
    await stack.consumers.start()
    await stack.send([(CONTENT_PROVISIONED, 0, content("b", "t1")), *((VALIDATION_FAILED, 0, f) for f in failures)])
    await stack.consumers.all_committed()
    await stack.consumers.stop()
    await stack.send([(BATCH_REGISTERED, 0, registration("b", ["e1", "e2", "e3"]))])
    await stack.announce(SLOT_ASSIGNED, "b", essay_id="e2", text_storage_id="t1")
    await stack.recover()
    states = stack.consumers.conn.execute("select state from els.validation_failures order by state")
    assert [state for (state,) in states] == ["slot", "slot", "surplus"]
    topics = stack.consumers.conn.execute("select topic from ops.outbox_events order by seq, topic desc")
    assert {topic for (topic,) in topics} == {VALIDATION_ERRORS, BATCH_COMPLETED, BATCH_READY}


@LEAVES
async def test_a_confirmation_that_changed_nothing_counts_where_its_batch_has_not_failed(stack: SetBack) -> None:
    """On a restored database a pod has given the last slot to a failure; the topics have a content in it."""
    await stack.consumers.start()
    await stack.send([(BATCH_REGISTERED, 0, registration("b", ["e1"], class_id="8a"))])
    await stack.consumers.all_committed()
    await stack.send([(VALIDATION_FAILED, 0, failure("b", "f1"))])
    await stack.consumers.all_committed()
    await stack.send([(ASSOCIATIONS_CONFIRMED, 0, confirmation("b", "8a"))])
    await stack.consumers.all_committed()
    await stack.consumers.stop()
    assert stack.consumers.value("select state from els.confirmations") == "unused"
    essay = {"essay_id": "e1", "text_storage_id": "t1"}
    await stack.announce(SLOT_ASSIGNED, "b", **essay)
    await stack.announce(BATCH_COMPLETED, "b", essays_for_processing=[essay])
    assert (await stack.recover()).contradictions == []
    assert stack.consumers.value("select state from els.confirmations") == "applied"
    assert stack.consumers.value("select state from els.batches") == "ready"
    topics = stack.consumers.conn.execute("select topic from ops.outbox_events order by seq").fetchall()
    assert topics == [(BATCH_READY,)]
