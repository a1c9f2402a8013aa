"""Tests that each delivery ends applied, recognised as a repeat or rejected after any error, and is counted once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from deploy.servers.pods import until
from deploy.servers.ports import reserved_port
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import ContentProvisioned
from service.domain.topics import CONTENT_PROVISIONED
from service.intake import attempts
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.runtime.health import Health
from service.runtime.loop import Backoff
from tests.support.builders.inputs import delivery, failed, provisioned, registered
from tests.support.checks.invariants import missing, violations
from tests.support.pods.applier import forget

BOUND = 90
"""Seconds after which a wait has failed."""

POISON = "poison"
"""The file name that the database of a test rejects."""


class IntakeFixture:
    """An intake on a database of its own, with the effects that it reports."""

    def __init__(self, url: str, superuser: str, limits: IntakeLimits | None = None) -> None:
        # A short timeout, so that held locks are detected soon.
        self.database = Database(url, timeouts=Timeouts(lock_timeout=100))
        self.health = Health()
        self.effects: list[Effects] = []
        self.intake = Intake(self.database, limits or IntakeLimits(), self.health, self._committed)
        self.conn = psycopg.connect(superuser, autocommit=True)

    async def _committed(self, effects: Effects) -> None:
        self.effects.append(effects)

    async def close(self) -> None:
        self.conn.close()
        await self.database.close()

    async def deliver(self, *deliveries: Delivery) -> None:
        """As the consumer does."""
        outcome = await self.intake.take(deliveries)
        assert (outcome.next_transaction, outcome.not_admitted) == ([], [])
        await self.intake.take_exclusive(outcome.deferred)

    def column(self, query: str) -> list[Any]:
        return [value for (value,) in self.conn.execute(query).fetchall()]

    def texts(self, table: str) -> list[str]:
        """The contents in a table, sorted."""
        return self.column(f"select text_storage_id from els.{table} where text_storage_id is not null order by 1")

    def rejected(self) -> list[tuple[Any, ...]]:
        return self.conn.execute("select reason, error, deliveries from els.quarantine order by id").fetchall()

    def total(self, *kinds: str) -> int:
        """The number of effects of these kinds in all transactions."""
        return sum(record.kind in kinds for each in self.effects for record in each.records)

    def poison(self, table: str, action: str) -> None:
        """Make each row of this table with the poison execute `action`, which is PL/pgSQL."""
        self.conn.execute(f"""
            create sequence public.tries;
            grant usage on sequence public.tries to public;
            create function public.deeper() returns void language plpgsql as 'begin perform public.deeper(); end';
            create function public.poison() returns trigger language plpgsql security definer as $$
            begin
                if new.original_file_name = '{POISON}' then
                    {action}
                end if;
                return new;
            end $$;
            create trigger poison before insert or update on els.{table}
                for each row execute function public.poison();
        """)


@pytest.fixture
async def applier(app_url: str, database_url: str) -> AsyncIterator[IntakeFixture]:
    applier = IntakeFixture(app_url, database_url)
    yield applier
    await applier.close()


@contextmanager
def holding(url: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of another session that has run the statement and stays open, like a pod that hangs."""
    with psycopg.connect(url) as other:
        other.execute(statement)
        yield other
        other.rollback()


def contents(batch_id: str, *texts: str, poison: tuple[str, ...] = ()) -> list[Delivery]:
    """Contents of a batch, some of them with the poison."""
    names = {text: {"original_file_name": POISON} if text in poison else {} for text in texts}
    return [provisioned(batch_id, text, **name) for text, name in names.items()]


# -- errors that the data of a record causes


@pytest.mark.parametrize(
    ("action", "error"),
    [
        pytest.param("perform 1 / length('');", "DivisionByZero: division by zero", id="22012"),
        pytest.param("new.original_file_name := null;", "NotNullViolation: null value in column", id="23502"),
        pytest.param("new.file_size_bytes := -1;", "CheckViolation: new row for relation", id="23514"),
        pytest.param("perform public.deeper();", "StatementTooComplex: stack depth limit exceeded", id="54001"),
    ],
)
async def test_inputs_that_the_database_rejects_are_found_by_bisection_and_the_rest_is_applied(
    applier: IntakeFixture, action: str, error: str
) -> None:
    applier.poison("pending_content", action)
    await applier.deliver(*contents("b", "t1", "t2", "t3", "t4", "t5", "t6", "t7", poison=("t1", "t6")))
    assert applier.texts("pending_content") == ["t2", "t3", "t4", "t5", "t7"]
    assert [(reason, found.startswith(error), count) for reason, found, count in applier.rejected()] == [
        ("data_error", True, 1)
    ] * 2
    assert (applier.total("content_pending"), len(applier.rejected())) == (5, 2)
    assert applier.health.ready


async def test_a_batch_becomes_ready_although_one_of_its_contents_is_rejected_at_its_slot(
    applier: IntakeFixture,
) -> None:
    applier.poison("slots", "new.file_upload_id := null;")
    good = contents("b", "t1", "t3")
    await applier.deliver(registered("b", "e1", "e2", "e3"), *good, *contents("b", "t2", poison=("t2",)))
    await applier.deliver(failed("b", "u4"))
    assert applier.column("select state from els.batches") == ["ready"]
    assert applier.texts("slots") == ["t1", "t3"]
    assert [reason for reason, *_ in applier.rejected()] == ["data_error"]
    assert violations(applier.conn) == []


async def test_an_input_that_is_rejected_in_an_exclusive_transaction_does_not_affect_its_batch(
    applier: IntakeFixture, database_url: str
) -> None:
    await applier.deliver(registered("b", "e1", "e2", "e3"))
    applier.poison("slots", "new.file_upload_id := null;")
    with holding(database_url, "select from els.slots for update"):
        outcome = await applier.intake.take(contents("b", "t1", "t2", "t3", poison=("t2",)))
        assert len(outcome.deferred) == 3
    await applier.intake.take_exclusive(outcome.deferred)
    assert applier.texts("slots") == ["t1", "t3"]
    assert [reason for reason, *_ in applier.rejected()] == ["data_error"]
    assert violations(applier.conn) == []


async def test_content_whose_event_is_too_large_is_rejected_before_the_commit(app_url: str, database_url: str) -> None:
    applier = IntakeFixture(app_url, database_url, IntakeLimits(event_bytes=1_000))
    try:
        large = provisioned("b", "t2", original_file_name="n" * 1_000)
        await applier.deliver(registered("b", "e1", "e2"), provisioned("b", "t1"), large, provisioned("b", "t3"))
        assert applier.texts("slots") == ["t1", "t3"]
        assert [reason for reason, *_ in applier.rejected()] == ["unpublishable"]
        assert violations(applier.conn) == []
    finally:
        await applier.close()


@pytest.mark.parametrize(
    "unfit",
    [{"original_file_name": "half a \ud800 pair"}, {"file_size_bytes": 2**63}, {"text_storage_id": "a \0 in it"}],
    ids=["text", "number", "nul"],
)
async def test_values_that_the_client_cannot_encode_are_rejected(applier: IntakeFixture, unfit: dict[str, Any]) -> None:
    good, bad = provisioned("b", "t1"), provisioned("b", "t2")
    assert isinstance(bad.event, ContentProvisioned)
    bad.event = bad.event._replace(**unfit)
    await applier.deliver(good, bad)
    assert applier.texts("pending_content") == ["t1"]
    assert [reason for reason, *_ in applier.rejected()] == ["data_error"]


async def test_in_a_bisected_poll_the_second_half_does_not_overtake_the_first(applier: IntakeFixture) -> None:
    applier.poison("pending_content", "perform 1 / length('');")
    # More batches than fit into a transaction: the last of the first half wait for the next one.
    many = [provisioned(f"b{number}", "first") for number in range(510)]
    second = [provisioned(f"b{number}", "second") for number in range(500, 510)]
    await applier.deliver(*many, *second, *contents("b0", *(f"t{number}" for number in range(500)), poison=("t499",)))
    assert (
        applier.column(
            "select string_agg(text_storage_id, ' ' order by arrival) from els.pending_content"
            " where batch_id between 'b500' and 'b509' group by batch_id"
        )
        == ["first second"] * 10
    )
    assert len(applier.rejected()) == 1


async def test_an_error_while_effects_are_reported_does_not_apply_the_poll_again(
    app_url: str, database_url: str
) -> None:
    applier = IntakeFixture(app_url, database_url)
    reported: list[int] = []

    async def fail(effects: Effects) -> None:
        reported.append(len(effects.records))
        assert applier.texts("pending_content") == ["t1"]
        raise BrokenPipeError("the log is closed")

    intake = Intake(applier.database, IntakeLimits(), applier.health, fail)
    outcome = await asyncio.wait_for(intake.take([provisioned("b", "t1")]), BOUND)
    assert (reported, outcome.deferred) == ([1], [])
    assert applier.rejected() == []
    await applier.close()


# -- locks that other transactions hold

HELD = {
    "counter row": "select from els.batches where batch_id = 'held' for update",
    "slots": "select from els.slots where batch_id = 'held' for update",
    "slot of a content": "update els.slots set state = 'assigned', text_storage_id = 't', file_upload_id = 'u',"
    " original_file_name = 'n', raw_file_storage_id = 'r', file_size_bytes = 0, correlation_id = gen_random_uuid(),"
    " taken_at = now() where batch_id = 'held' and essay_id = 'e1'",
    "advisory lock": "select pg_advisory_xact_lock(hashtextextended('new', 0))",
    "pending row": "insert into els.pending_content (batch_id, text_storage_id, arrival, file_upload_id,"
    " original_file_name, raw_file_storage_id, file_size_bytes, correlation_id, stored_at, waiting_since)"
    " values ('new', 't', 1, 'u', 'n', 'r', 0, gen_random_uuid(), now(), now())",
}


@pytest.mark.parametrize("held", HELD)
async def test_records_of_held_batches_wait_exclusively_and_the_rest_of_the_poll_is_committed(
    applier: IntakeFixture, database_url: str, held: str
) -> None:
    batch_id = "held" if "pending" not in held and "advisory" not in held else "new"
    await applier.deliver(registered("held", "e1", "e2"), registered("free", "f1"))
    poll = [provisioned(batch_id, "t"), provisioned("free", "t"), provisioned("unknown", "t")]
    done = "select count(*) from els.slots where batch_id = 'free' and state = 'assigned'"
    waiting = "select count(*) from els.pending_content where batch_id = 'unknown'"
    mine = (
        "select (select count(*) from els.slots where batch_id = 'held' and text_storage_id = 't')"
        " + (select count(*) from els.pending_content where batch_id = 'new')"
    )

    with holding(database_url, HELD[held]):
        outcome = await asyncio.wait_for(applier.intake.take(poll), BOUND)
        assert poll[0] in outcome.deferred
        exclusive = asyncio.create_task(applier.intake.take_exclusive(outcome.deferred))
        await until(
            lambda: applier.column(done) + applier.column(waiting) == [1, 1],
            BOUND,
            lambda: "the others are not applied",
        )
        assert (exclusive.done(), applier.column(mine)) == (False, [0])
        assert applier.health.ready
    await asyncio.wait_for(exclusive, BOUND)
    assert applier.column(mine) == [1]
    assert violations(applier.conn) == []
    assert applier.total("content_assigned", "content_pending") == 3


async def test_a_held_batch_does_not_delay_other_deferred_batches(applier: IntakeFixture, database_url: str) -> None:
    with holding(database_url, HELD["pending row"]):
        exclusive = asyncio.create_task(
            applier.intake.take_exclusive([provisioned("new", "t"), provisioned("a", "t"), provisioned("b", "t")])
        )
        await until(
            lambda: applier.column("select batch_id from els.pending_content order by 1") == ["a", "b"],
            BOUND,
            lambda: "the others wait behind it",
        )
    await asyncio.wait_for(exclusive, BOUND)
    assert applier.column("select batch_id from els.pending_content order by 1") == ["a", "b", "new"]


async def test_paused_topics_are_returned_where_a_whole_poll_is_deferred(
    applier: IntakeFixture, database_url: str
) -> None:
    await applier.deliver(registered("held", "e1"))
    applier.conn.execute("insert into els.topic_refusals values ('some.topic', 7, now())")
    with holding(database_url, HELD["counter row"]):
        outcome = await applier.intake.take([provisioned("held", "t")])
    assert (len(outcome.deferred), outcome.paused) == (1, {"some.topic"})
    await applier.intake.take_exclusive(outcome.deferred)


async def test_rejected_inputs_wait_for_a_locked_quarantine(applier: IntakeFixture, database_url: str) -> None:
    bad = delivery(CONTENT_PROVISIONED, b"{")
    await applier.deliver(bad)
    with holding(database_url, "select from els.quarantine for update"):
        taken = asyncio.create_task(applier.intake.take([bad]))
        await until(lambda: waits_for_a_lock(applier.conn), BOUND, lambda: "no transaction waits")
    outcome = await asyncio.wait_for(taken, BOUND)
    assert outcome.deferred == []
    assert [count for *_, count in applier.rejected()] == [2]


TABLES = ["batches", "slots", "pending_content", "outbox_pages", "quarantine"]


@pytest.mark.parametrize("table", TABLES)
async def test_a_table_that_somebody_locks_is_reported_with_who_it_is(
    applier: IntakeFixture, database_url: str, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LOCKED_SECONDS", 1.0)
    await applier.deliver(registered("b", "e1"))
    bad = delivery(CONTENT_PROVISIONED, b"{")
    with holding(database_url, f"lock table els.{table}") as other:
        taking = asyncio.create_task(applier.deliver(provisioned("b", "t"), provisioned("new", "t"), bad))
        await until(lambda: not applier.health.ready, BOUND, lambda: "it is not reported")
        (why,) = applier.health.parts.values()
        told = f"a lock is held by others for long: AccessExclusiveLock on els.{table} by process "
        assert why == f"{told}{other.info.backend_pid} ({other.info.user}, unknown program)"
    await asyncio.wait_for(taking, BOUND)
    assert applier.health.ready


async def test_batches_that_wait_for_locks_are_reported_together(
    applier: IntakeFixture, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its turn seldom, but nothing gets through."""
    monkeypatch.setattr(attempts, "LOCKED_SECONDS", 1.0)
    poll = [provisioned(f"b{number}", "t") for number in range(200)]
    with holding(database_url, "lock table els.pending_content"):
        taking = [asyncio.create_task(applier.intake.take_exclusive([each])) for each in poll]
        # By itself, none would be reported before its second turn: after 200 / 3 turns of 0.1 s.
        await until(lambda: not applier.health.ready, 6, lambda: "it is not reported")
    await asyncio.wait_for(asyncio.gather(*taking), BOUND)
    assert applier.health.ready


async def test_what_is_cancelled_is_not_reported_later(applier: IntakeFixture, database_url: str) -> None:
    await applier.deliver(registered("b", "e1"))
    with holding(database_url, "lock table els.slots"):
        taking = asyncio.create_task(applier.deliver(provisioned("b", "t")))
        await until(lambda: not applier.health.ready, 15, lambda: "it is not reported")
        taking.cancel()
        await asyncio.wait([taking])
        assert not applier.health.ready
    await applier.deliver(provisioned("b", "t"))
    assert applier.health.ready


def waits_for_a_lock(conn: psycopg.Connection[Any]) -> bool:
    query = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return conn.execute(query).fetchone() is not None


# -- errors of the environment


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(f"if nextval('public.tries') <= 3 then raise 'again' using errcode = '{state}'; end if;", id=state)
        for state in ("40P01", "40001", "23505", "23503", "53200", "57014", "08006")
    ]
    + [
        pytest.param(
            "if nextval('public.tries') <= 2 then perform pg_terminate_backend(pg_backend_pid()); end if;",
            id="disconnected",
        )
    ],
)
async def test_errors_of_the_environment_are_retried_and_nothing_is_lost_or_counted_twice(
    applier: IntakeFixture, action: str
) -> None:
    applier.poison("pending_content", action)
    poll = [*contents("b", "t1", "t2", poison=("t2",)), *contents("c", "t3")]
    await asyncio.wait_for(applier.deliver(*poll), BOUND)
    assert applier.texts("pending_content") == ["t1", "t2", "t3"]
    assert applier.rejected() == []
    assert applier.total("content_pending") == 3
    assert applier.health.ready


async def test_a_session_that_ends_during_the_commit_loses_nothing(applier: IntakeFixture) -> None:
    applier.poison("pending_content", "")
    applier.conn.execute("""
        create function public.end_session() returns trigger language plpgsql security definer as $$
        begin
            if nextval('public.tries') <= 2 then
                perform pg_terminate_backend(pg_backend_pid());
            end if;
            return null;
        end $$;
        create constraint trigger ending after insert on els.pending_content
            deferrable initially deferred for each row execute function public.end_session();
    """)
    poll = contents("b", "t1", "t2")
    await asyncio.wait_for(applier.deliver(*poll), BOUND)
    assert applier.texts("pending_content") == ["t1", "t2"]
    assert applier.total("content_pending") == 2
    assert missing(applier.conn, [each.event for each in poll]) == []  # type: ignore[misc]


async def test_a_poll_with_more_new_batches_than_one_transaction_locks_is_applied_completely(
    applier: IntakeFixture,
) -> None:
    await applier.deliver(*(provisioned(f"b{number}", "t") for number in range(1_201)))
    assert applier.column("select count(*) from els.pending_content") == [1_201]
    assert applier.total("content_pending") == 1_201


# -- records that are not applied yet when their topic pauses


@pytest.fixture
async def pausing(app_url: str, database_url: str) -> AsyncIterator[IntakeFixture]:
    """An intake whose topics pause after three rejections."""
    applier = IntakeFixture(app_url, database_url, IntakeLimits(consecutive_rejections=3))
    yield applier
    await applier.close()


async def test_records_that_were_deferred_before_their_topic_paused_are_applied(
    pausing: IntakeFixture, database_url: str
) -> None:
    await pausing.deliver(registered("held", "e1"))
    rejections = [delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(3)]
    with holding(database_url, HELD["counter row"]):
        outcome = await pausing.intake.take([provisioned("held", "t"), *rejections])
    assert (len(outcome.deferred), outcome.paused) == (1, {CONTENT_PROVISIONED})
    await pausing.intake.take_exclusive(outcome.deferred)
    assert pausing.texts("slots") == ["t"]
    assert pausing.column("select stopped_at is not null from els.topic_refusals") == [True]


async def test_records_for_the_next_transaction_are_applied_although_their_topic_paused(
    pausing: IntakeFixture, database_url: str
) -> None:
    rejections = [delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(3)]
    behind = provisioned("behind", "t")
    poll = [*(provisioned(f"b{number}", "t") for number in range(510)), *rejections, behind]
    with holding(database_url, "select pg_advisory_xact_lock(hashtextextended('b505', 0))"):
        outcome = await asyncio.wait_for(pausing.intake.take(poll), BOUND)
    assert (len(outcome.deferred), outcome.not_admitted, outcome.paused) == (10, [behind], {CONTENT_PROVISIONED})
    await pausing.intake.take_exclusive(outcome.deferred)
    assert pausing.column("select count(*) from els.pending_content") == [510]


async def test_records_of_a_deferred_batch_are_deferred_behind_it_and_count_as_valid(
    pausing: IntakeFixture,
) -> None:
    rejections = [delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(5)]
    await pausing.intake.take(rejections[:2])
    outcome = await pausing.intake.take([provisioned("b", "t"), *rejections[2:4]], deferred=frozenset(["b"]))
    assert (len(outcome.deferred), outcome.paused) == (1, set())
    assert pausing.texts("pending_content") == []
    # The topic pauses: later records of the same batch are not admitted until a probe.
    late = provisioned("b", "late")
    outcome = await pausing.intake.take([rejections[4], late], deferred=frozenset(["b"]))
    assert (outcome.not_admitted, outcome.paused) == ([late], {CONTENT_PROVISIONED})
    outcome = await pausing.intake.take([late], deferred=frozenset(["b"]))
    assert (outcome.deferred, outcome.not_admitted) == ([], [late])
    outcome = await pausing.intake.take([late], probing=True, deferred=frozenset(["b"]))
    assert (outcome.deferred, outcome.paused) == ([late], set())


async def test_a_probe_of_a_held_batch_ends_the_pause(pausing: IntakeFixture, database_url: str) -> None:
    await pausing.deliver(registered("held", "e1"))
    await pausing.intake.take([delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(3)])
    good = provisioned("held", "t")
    with holding(database_url, HELD["counter row"]):
        outcome = await pausing.intake.take([good], probing=True)
    assert (outcome.deferred, outcome.paused) == ([good], set())


async def test_an_unavailable_database_is_logged_a_few_times_however_often_it_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0

    def pause(backoff: Backoff) -> float:
        nonlocal tries
        tries += 1
        backoff.failures += 1
        return 0.0

    monkeypatch.setattr(Backoff, "pause", pause)
    health = Health()
    intake = Intake(Database(f"postgresql://nobody@127.0.0.1:{reserved_port()}/none"), IntakeLimits(), health, forget)
    with capture_logs() as logs:
        taking = asyncio.create_task(intake.take([provisioned("b", "t")]))
        await until(lambda: tries >= 150, 60, lambda: f"{tries} tries")
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    assert not health.ready
    assert [(log["event"], log["failures"]) for log in logs] == [
        ("transaction_failed", failures) for failures in (3, 10, *range(99, tries, 100))
    ]
