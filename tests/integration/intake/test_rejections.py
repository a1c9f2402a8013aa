"""Tests that rejected records are quarantined once, and that consecutive rejections pause their topic only."""

import json
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import psycopg
import pytest

from service.domain.delivery import Delivery, IntakeLimits
from service.domain.topics import BATCH_REGISTERED, CONTENT_PROVISIONED
from service.intake.intake import Intake
from service.intake.outcome import Outcome
from service.postgres.pool import Database
from service.runtime.health import Health
from service.store import quarantine
from tests.support.builders.inputs import content, delivery, provisioned, registered
from tests.support.pods.applier import forget

LIMIT = 10
ENOUGH = 10_000
"""Bytes of rejections within a day that pause a topic."""

_numbers = count()


class Pod:
    """The part of a pod that applies polls."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=1)
        limits = IntakeLimits(LIMIT, ENOUGH)
        self.intake = Intake(self.database, limits, Health("database"), forget)

    async def take(self, *deliveries: Delivery, probing: bool = False) -> Outcome:
        return await self.intake.take(deliveries, probing=probing)


@pytest.fixture
async def pods(app_url: str) -> AsyncIterator[tuple[Pod, Pod]]:
    """Two pods that share only the database."""
    pods = Pod(app_url), Pod(app_url)
    yield pods
    for pod in pods:
        await pod.database.close()


@pytest.fixture
def conn(database_url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(database_url, autocommit=True)


def bad(topic: str = CONTENT_PROVISIONED, value: bytes | None = None, **record: Any) -> Delivery:
    """An input that is rejected, each with another value."""
    return delivery(topic, value or b"no JSON %d" % next(_numbers), **record)


def bads(number: int, topic: str = CONTENT_PROVISIONED) -> list[Delivery]:
    return [bad(topic) for _ in range(number)]


def quarantined(conn: psycopg.Connection[Any], columns: str) -> list[tuple[Any, ...]]:
    return conn.execute(f"select {columns} from els.quarantine order by id").fetchall()


def rejection_counters(conn: psycopg.Connection[Any]) -> dict[str, tuple[int, bool]]:
    rows = conn.execute("select topic, in_a_row, stopped_at is not null from els.topic_refusals").fetchall()
    return {topic: (in_a_row, stopped) for topic, in_a_row, stopped in rows}


async def resume(pod: Pod, topic: str) -> bool:
    async with pod.database.transaction() as connection:
        return await quarantine.resume_topic(connection, topic)


# -- quarantine


async def test_an_input_has_one_row_however_often_and_wherever_it_is_delivered(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(bad(value=b"{", partition=2, offset=7), bad(value=b"{", partition=2, offset=8))
    await pods[1].take(bad(value=b"{", partition=0, offset=0))
    assert quarantined(conn, 'topic, "partition", "offset", value, deliveries, state') == [
        (CONTENT_PROVISIONED, 2, 7, b"{", 3, "open")
    ]


async def test_a_repeat_of_an_input_that_an_operator_has_closed_does_not_open_it_again(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(bad(value=b"{"))
    conn.execute("update els.quarantine set state = 'discarded', closed_at = now()")
    await pods[0].take(bad(value=b"{"))
    assert quarantined(conn, "state, deliveries") == [("discarded", 2)]


async def test_null_and_empty_differ_and_so_do_key_and_value(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    pairs = [(None, None), (None, b""), (b"", None), (b"", b""), (b"ab", b"c"), (b"a", b"bc"), (b"abc", b"")]
    poll = [delivery(CONTENT_PROVISIONED, value, key=key) for key, value in pairs]
    await pods[0].take(*poll)
    assert sorted(quarantined(conn, "key, value"), key=repr) == sorted(pairs, key=repr)


async def test_the_same_input_on_two_topics_has_two_rows(pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]) -> None:
    await pods[0].take(bad(value=b"{"), bad(BATCH_REGISTERED, b"{"))
    assert set(quarantined(conn, "topic, deliveries")) == {(CONTENT_PROVISIONED, 1), (BATCH_REGISTERED, 1)}


async def test_bytes_of_any_kind_are_stored_unchanged(pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]) -> None:
    every = bytes(range(256))
    headers = [("text", b"x"), ("every", every), ("none", None), ("text", b"again"), ("na\0me", b"")]
    await pods[0].take(bad(value=every, key=every, headers=headers))
    ((key, value, found, error),) = quarantined(conn, "key, value, headers, error")
    assert (key, value) == (every, every)
    assert [name for name, _ in found] == ["text", "every", "none", "text", "na\ufffdme"]
    # Each character stands for a byte. That for 0, which jsonb cannot hold, is one that stands for no byte.
    stored = [None if text is None else text.replace("\ufffd", "\0").encode("latin-1") for _, text in found]
    assert stored == [b"x", every, None, b"again", b""]
    assert error


async def test_an_error_that_quotes_the_input_can_be_stored_whatever_it_contains(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    value = json.loads(content("b", "t")) | {"event_type": "a \0 and \ud800 in it"}
    await pods[0].take(bad(value=json.dumps(value).encode()), bad(value=json.dumps({"\0" * 3_000: 1}).encode()))
    assert [len(error) <= 2_000 for (error,) in quarantined(conn, "error")] == [True, True]


async def test_a_conflicting_registration_is_quarantined_with_its_value(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    first, second = registered("b", "e1", "e2"), registered("b", "e1", "e3")
    await pods[0].take(first)
    await pods[1].take(second)
    assert quarantined(conn, "reason, value") == [("conflicting_registration", second.value)]
    assert conn.execute("select essay_id from els.slots order by position").fetchall() == [("e1",), ("e2",)]


# -- paused topics


async def test_consecutive_rejections_are_counted_over_all_pods_and_pause_the_topic_at_the_limit(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    assert (await pods[0].take(*bads(6))).paused == set()
    rest = [*bads(6), provisioned("b", "t")]
    outcome = await pods[1].take(*rest)
    assert outcome.paused == {CONTENT_PROVISIONED}
    assert outcome.not_admitted == rest[4:]
    assert len(quarantined(conn, "id")) == LIMIT
    assert rejection_counters(conn) == {CONTENT_PROVISIONED: (LIMIT, True)}


async def test_a_paused_topic_is_paused_on_all_pods_and_the_other_topics_are_not(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(LIMIT))
    waiting = [provisioned("b", "t"), bad()]
    for pod in pods:
        outcome = await pod.take(waiting[0], registered("b", "e1"), waiting[1], bad(BATCH_REGISTERED, b"{"))
        assert (outcome.not_admitted, outcome.paused) == (waiting, {CONTENT_PROVISIONED})
    assert conn.execute("select batch_id, assigned from els.batches").fetchall() == [("b", 0)]
    assert quarantined(conn, "deliveries")[LIMIT:] == [(2,)]


async def test_one_valid_record_between_rejections_restarts_the_count(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(LIMIT - 1))
    outcome = await pods[1].take(provisioned("b", "t"), *bads(LIMIT - 1))
    assert (outcome.not_admitted, outcome.paused) == ([], set())
    assert rejection_counters(conn) == {CONTENT_PROVISIONED: (LIMIT - 1, False)}
    await pods[0].take(provisioned("b", "t"))
    assert rejection_counters(conn) == {CONTENT_PROVISIONED: (0, False)}


async def test_conflicting_registrations_count_as_rejections_and_pause_their_topic(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(registered("b", "e1"))
    conflicting = [registered("b", f"x{number}") for number in range(2 * LIMIT)]
    outcome = await pods[0].take(*conflicting[: LIMIT - 1], registered("b", "e1"), conflicting[LIMIT - 1])
    assert (outcome.not_admitted, outcome.paused) == ([], set())
    assert rejection_counters(conn) == {BATCH_REGISTERED: (1, False)}
    outcome = await pods[1].take(*conflicting[LIMIT:-2], bad(BATCH_REGISTERED, b"{"))
    assert (outcome.not_admitted, outcome.paused) == ([], {BATCH_REGISTERED})
    assert rejection_counters(conn) == {BATCH_REGISTERED: (LIMIT, True)}
    # A probe with one that is valid by itself does not end the pause, either.
    outcome = await pods[1].take(conflicting[-1], probing=True)
    assert (outcome.not_admitted, outcome.paused) == ([], {BATCH_REGISTERED})


async def test_resume_ends_a_pause_and_the_remaining_records_are_applied(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    outcome = await pods[0].take(*bads(LIMIT), provisioned("b", "t"))
    assert await resume(pods[1], CONTENT_PROVISIONED)
    again = await pods[0].take(*outcome.not_admitted)
    assert (again.not_admitted, again.paused) == ([], set())
    assert conn.execute("select text_storage_id from els.pending_content").fetchall() == [("t",)]
    assert not await resume(pods[1], CONTENT_PROVISIONED)


async def test_a_valid_probe_ends_a_pause_and_an_invalid_one_changes_nothing(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(LIMIT))
    invalid, good = bad(), provisioned("b", "t")
    outcome = await pods[0].take(invalid, good, probing=True)
    assert (outcome.not_admitted, outcome.paused) == ([invalid, good], {CONTENT_PROVISIONED})
    assert len(quarantined(conn, "id")) == LIMIT

    outcome = await pods[0].take(good, invalid, probing=True)
    assert (outcome.not_admitted, outcome.paused) == ([invalid], set())
    assert conn.execute("select text_storage_id from els.pending_content").fetchall() == [("t",)]
    assert rejection_counters(conn) == {CONTENT_PROVISIONED: (0, False)}


# -- lists for operators


async def test_the_list_is_paged_newest_first_and_filtered_by_topic_and_state(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(3))
    await pods[0].take(*bads(2, BATCH_REGISTERED))
    ids = [id_ for (id_,) in quarantined(conn, "id")]
    conn.execute("update els.quarantine set state = 'replayed', closed_at = now() where id = %s", [ids[0]])

    async def listed(topic: str | None = None, **page: Any) -> list[int]:
        filtered = quarantine.QuarantineFilter(topic=topic)
        async with pods[0].database.transaction() as connection:
            return [row.id for row in await quarantine.list_quarantine(connection, filtered, **page)]

    assert await listed(page=2) == ids[:2:-1]
    assert await listed(page=9, before=ids[3]) == ids[2::-1]
    assert await listed(BATCH_REGISTERED, page=9) == ids[:2:-1]
    assert await listed(page=9, state="replayed") == ids[:1]


async def test_one_input_is_read_completely_and_a_missing_one_is_none(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(bad(value=b"\xff", key=None, headers=[("a", b"1")]))
    ((id_,),) = quarantined(conn, "id")
    async with pods[0].database.transaction() as connection:
        row = await quarantine.read_quarantined(connection, id_)
        assert await quarantine.read_quarantined(connection, id_ + 1) is None
    assert row is not None
    assert (row["value"], row["key"], row["headers"]) == (b"\xff", None, [["a", "1"]])
    assert row["reason"] == "not_utf8"


# -- repeats, bytes, and rejections that are skipped


async def test_repeats_of_one_rejection_count_once_over_all_polls_and_pods(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    for pod in pods * 3:
        outcome = await pod.take(*(bad(value=b"the same") for _ in range(LIMIT)))
        assert outcome.paused == set()
    assert rejection_counters(conn) == {CONTENT_PROVISIONED: (1, False)}
    assert quarantined(conn, "deliveries") == [(6 * LIMIT,)]


async def test_a_topic_pauses_while_too_many_bytes_of_it_were_rejected_within_a_day(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    one, two = pods
    size = ENOUGH // 2 + 1
    assert (await one.take(bad(value=b"a" * size))).paused == set()
    assert (await one.take(bad(value=b"a" * size))).paused == set(), "a repeat takes no room"
    assert (await two.take(bad(value=b"b" * size))).paused == {CONTENT_PROVISIONED}
    outcome = await one.take(provisioned("b", "t1"))
    assert (len(outcome.not_admitted), outcome.paused) == (1, {CONTENT_PROVISIONED})
    assert (await one.take(provisioned("b", "t1"), probing=True)).paused == {CONTENT_PROVISIONED}, "a valid one"
    conn.execute("update els.rejected_bytes set hour = hour - interval '25 hours'")
    assert (await one.take(provisioned("b", "t2"))).paused == set()


async def test_a_topic_that_was_paused_because_of_bytes_is_resumed(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    pod, _ = pods
    assert (await pod.take(bad(value=b"a" * ENOUGH))).paused == {CONTENT_PROVISIONED}
    assert await resume(pod, CONTENT_PROVISIONED)
    assert (await pod.take(bad(value=b"b"))).paused == set()


async def test_rejections_that_an_operator_skips_do_not_pause_the_topic_before_the_next_valid_record(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    pod, _ = pods
    await pod.take(*bads(LIMIT))
    async with pod.database.transaction() as connection:
        assert await quarantine.resume_topic(connection, CONTENT_PROVISIONED, skips=True)
    outcome = await pod.take(*bads(3 * LIMIT))
    assert (outcome.not_admitted, outcome.paused) == ([], set())
    assert (await pod.take(provisioned("b", "t"))).paused == set()
    assert (await pod.take(*bads(LIMIT))).paused == {CONTENT_PROVISIONED}
