"""What can't be processed is kept whole, once; a topic that brings nothing else stops, and only that."""

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
from tests.support.interleaving.interleaving import forget

LIMIT = 10

_numbers = count()


class Pod:
    """The part of a pod that applies polls."""

    def __init__(self, url: str) -> None:
        self.database = Database(url, pool_size=1)
        limits = IntakeLimits(consecutive_rejections=LIMIT)
        self.intake = Intake(self.database, limits, Health("database"), forget)

    async def take(self, *deliveries: Delivery, probing: bool = False) -> Outcome:
        return await self.intake.take(deliveries, probing=probing)


@pytest.fixture
async def pods(app_url: str) -> AsyncIterator[tuple[Pod, Pod]]:
    """Two, with nothing in common but the database."""
    pods = Pod(app_url), Pod(app_url)
    yield pods
    for pod in pods:
        await pod.database.close()


@pytest.fixture
def conn(database_url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(database_url, autocommit=True)


def bad(topic: str = CONTENT_PROVISIONED, value: bytes | None = None, **record: Any) -> Delivery:
    """An input that is rejected, each another."""
    return delivery(topic, value or b"no JSON %d" % next(_numbers), **record)


def bads(number: int, topic: str = CONTENT_PROVISIONED) -> list[Delivery]:
    return [bad(topic) for _ in range(number)]


def kept(conn: psycopg.Connection[Any], columns: str) -> list[tuple[Any, ...]]:
    return conn.execute(f"select {columns} from els.quarantine order by id").fetchall()


def refused_in_a_row(conn: psycopg.Connection[Any]) -> dict[str, tuple[int, bool]]:
    rows = conn.execute("select topic, in_a_row, stopped_at is not null from els.topic_refusals").fetchall()
    return {topic: (in_a_row, stopped) for topic, in_a_row, stopped in rows}


async def resume(pod: Pod, topic: str) -> bool:
    async with pod.database.transaction() as connection:
        return await quarantine.resume_topic(connection, topic)


# -- what is kept


async def test_an_input_has_one_row_however_often_and_wherever_it_is_delivered(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(bad(value=b"{", partition=2, offset=7), bad(value=b"{", partition=2, offset=8))
    await pods[1].take(bad(value=b"{", partition=0, offset=0))
    assert kept(conn, 'topic, "partition", "offset", value, deliveries, state') == [
        (CONTENT_PROVISIONED, 2, 7, b"{", 3, "open")
    ]


async def test_a_repeat_of_what_an_operator_has_closed_does_not_open_it_again(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(bad(value=b"{"))
    conn.execute("update els.quarantine set state = 'discarded', closed_at = now()")
    await pods[0].take(bad(value=b"{"))
    assert kept(conn, "state, deliveries") == [("discarded", 2)]


async def test_nothing_and_empty_are_not_the_same_and_neither_are_key_and_value(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    pairs = [(None, None), (None, b""), (b"", None), (b"", b""), (b"ab", b"c"), (b"a", b"bc"), (b"abc", b"")]
    poll = [delivery(CONTENT_PROVISIONED, value, key=key) for key, value in pairs]
    await pods[0].take(*poll)
    assert sorted(kept(conn, "key, value"), key=repr) == sorted(pairs, key=repr)


async def test_the_same_input_on_two_topics_is_two(pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]) -> None:
    await pods[0].take(bad(value=b"{"), bad(BATCH_REGISTERED, b"{"))
    assert set(kept(conn, "topic, deliveries")) == {(CONTENT_PROVISIONED, 1), (BATCH_REGISTERED, 1)}


async def test_bytes_of_any_kind_are_kept_as_they_came(pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]) -> None:
    every = bytes(range(256))
    headers = [("text", b"x"), ("every", every), ("none", None), ("text", b"again"), ("na\0me", b"")]
    await pods[0].take(bad(value=every, key=every, headers=headers))
    ((key, value, found, error),) = kept(conn, "key, value, headers, error")
    assert (key, value) == (every, every)
    assert [name for name, _ in found] == ["text", "every", "none", "text", "na\ufffdme"]
    # Each character is a byte; that of 0, which jsonb can't hold, is one that no byte has.
    told = [None if text is None else text.replace("\ufffd", "\0").encode("latin-1") for _, text in found]
    assert told == [b"x", every, None, b"again", b""]
    assert error


async def test_an_error_that_quotes_the_input_can_be_kept_whatever_is_in_it(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    value = json.loads(content("b", "t")) | {"event_type": "a \0 and \ud800 in it"}
    await pods[0].take(bad(value=json.dumps(value).encode()), bad(value=json.dumps({"\0" * 3_000: 1}).encode()))
    assert [len(error) <= 2_000 for (error,) in kept(conn, "error")] == [True, True]


async def test_a_contradicting_registration_is_kept_with_its_value(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    first, second = registered("b", "e1", "e2"), registered("b", "e1", "e3")
    await pods[0].take(first)
    await pods[1].take(second)
    assert kept(conn, "reason, value") == [("conflicting_registration", second.value)]
    assert conn.execute("select essay_id from els.slots order by position").fetchall() == [("e1",), ("e2",)]


# -- topics that bring nothing else


async def test_refusals_in_a_row_are_counted_over_all_pods_and_the_topic_stops_at_the_limit(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    assert (await pods[0].take(*bads(6))).paused == set()
    rest = [*bads(6), provisioned("b", "t")]
    outcome = await pods[1].take(*rest)
    assert outcome.paused == {CONTENT_PROVISIONED}
    assert outcome.not_admitted == rest[4:]
    assert len(kept(conn, "id")) == LIMIT
    assert refused_in_a_row(conn) == {CONTENT_PROVISIONED: (LIMIT, True)}


async def test_a_stopped_topic_takes_nothing_on_any_pod_and_the_others_go_on(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(LIMIT))
    waiting = [provisioned("b", "t"), bad()]
    for pod in pods:
        outcome = await pod.take(waiting[0], registered("b", "e1"), waiting[1], bad(BATCH_REGISTERED, b"{"))
        assert (outcome.not_admitted, outcome.paused) == (waiting, {CONTENT_PROVISIONED})
    assert conn.execute("select batch_id, assigned from els.batches").fetchall() == [("b", 0)]
    assert kept(conn, "deliveries")[LIMIT:] == [(2,)]


async def test_one_success_between_refusals_starts_the_count_anew(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(LIMIT - 1))
    outcome = await pods[1].take(provisioned("b", "t"), *bads(LIMIT - 1))
    assert (outcome.not_admitted, outcome.paused) == ([], set())
    assert refused_in_a_row(conn) == {CONTENT_PROVISIONED: (LIMIT - 1, False)}
    await pods[0].take(provisioned("b", "t"))
    assert refused_in_a_row(conn) == {CONTENT_PROVISIONED: (0, False)}


async def test_contradicting_registrations_are_refusals_and_nothing_but_those_stops_their_topic(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(registered("b", "e1"))
    contradicting = [registered("b", f"x{number}") for number in range(2 * LIMIT)]
    outcome = await pods[0].take(*contradicting[: LIMIT - 1], registered("b", "e1"), contradicting[LIMIT - 1])
    assert (outcome.not_admitted, outcome.paused) == ([], set())
    assert refused_in_a_row(conn) == {BATCH_REGISTERED: (1, False)}
    outcome = await pods[1].take(*contradicting[LIMIT:-2], bad(BATCH_REGISTERED, b"{"))
    assert (outcome.not_admitted, outcome.paused) == ([], {BATCH_REGISTERED})
    assert refused_in_a_row(conn) == {BATCH_REGISTERED: (LIMIT, True)}
    # One that is good by itself is probed, and does not end it either.
    outcome = await pods[1].take(contradicting[-1], probing=True)
    assert (outcome.not_admitted, outcome.paused) == ([], {BATCH_REGISTERED})


async def test_resume_ends_a_stop_and_what_was_left_is_taken(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    outcome = await pods[0].take(*bads(LIMIT), provisioned("b", "t"))
    assert await resume(pods[1], CONTENT_PROVISIONED)
    again = await pods[0].take(*outcome.not_admitted)
    assert (again.not_admitted, again.paused) == ([], set())
    assert conn.execute("select text_storage_id from els.pending_content").fetchall() == [("t",)]
    assert not await resume(pods[1], CONTENT_PROVISIONED)


async def test_a_probe_that_is_good_ends_a_stop_and_one_that_is_bad_changes_nothing(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(LIMIT))
    worse, good = bad(), provisioned("b", "t")
    outcome = await pods[0].take(worse, good, probing=True)
    assert (outcome.not_admitted, outcome.paused) == ([worse, good], {CONTENT_PROVISIONED})
    assert len(kept(conn, "id")) == LIMIT

    outcome = await pods[0].take(good, worse, probing=True)
    assert (outcome.not_admitted, outcome.paused) == ([worse], set())
    assert conn.execute("select text_storage_id from els.pending_content").fetchall() == [("t",)]
    assert refused_in_a_row(conn) == {CONTENT_PROVISIONED: (0, False)}


# -- what operators see


async def test_the_list_comes_in_pages_the_newest_first_and_by_topic_and_state(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(*bads(3))
    await pods[0].take(*bads(2, BATCH_REGISTERED))
    ids = [id_ for (id_,) in kept(conn, "id")]
    conn.execute("update els.quarantine set state = 'replayed', closed_at = now() where id = %s", [ids[0]])

    async def listed(topic: str | None = None, **page: Any) -> list[int]:
        chosen = quarantine.QuarantineFilter(topic=topic)
        async with pods[0].database.transaction() as connection:
            return [row.id for row in await quarantine.list_quarantine(connection, chosen, **page)]

    assert await listed(page=2) == ids[:2:-1]
    assert await listed(page=9, before=ids[3]) == ids[2::-1]
    assert await listed(BATCH_REGISTERED, page=9) == ids[:2:-1]
    assert await listed(page=9, state="replayed") == ids[:1]


async def test_one_input_is_shown_whole_and_one_that_is_not_there_not_at_all(
    pods: tuple[Pod, Pod], conn: psycopg.Connection[Any]
) -> None:
    await pods[0].take(bad(value=b"\xff", key=None, headers=[("a", b"1")]))
    ((id_,),) = kept(conn, "id")
    async with pods[0].database.transaction() as connection:
        row = await quarantine.read_quarantined(connection, id_)
        assert await quarantine.read_quarantined(connection, id_ + 1) is None
    assert row is not None
    assert (row["value"], row["key"], row["headers"]) == (b"\xff", None, [["a", "1"]])
    assert row["reason"] == "not_utf8"
