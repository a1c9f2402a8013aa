"""Whatever happens on the way, each delivery ends applied, recognised or rejected, and is counted once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from deploy.local.processes import free_port
from deploy.servers.pods import until
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.events import ContentProvisioned
from service.domain.topics import CONTENT_PROVISIONED
from service.intake.intake import Intake
from service.intake.outcome import Effects
from service.postgres.pool import Database
from service.postgres.session import Timeouts
from service.runtime.health import Health
from service.runtime.loop import Backoff
from tests.support.builders.inputs import delivery, failed, provisioned, registered
from tests.support.checks.invariants import missing, violations
from tests.support.interleaving.interleaving import forget

BOUND = 30
"""Seconds after which a wait has failed."""

POISON = "poison"
"""The name of the file that the database of a test does not take."""


class Bench:
    """An intake on a database of its own, and what it says it did."""

    def __init__(self, url: str, superuser: str, limits: IntakeLimits | None = None) -> None:
        # What somebody holds is found out soon.
        self.database = Database(url, timeouts=Timeouts(lock_timeout=100))
        self.health = Health()
        self.effects: list[Effects] = []
        self.intake = Intake(self.database, limits or IntakeLimits(), self.health, self._told)
        self.conn = psycopg.connect(superuser, autocommit=True)

    async def _told(self, effects: Effects) -> None:
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

    def total(self, *what: str) -> int:
        """How many decisions of this kind there were over all transactions."""
        return sum(record.kind in what for each in self.effects for record in each.records)

    def poisoned(self, table: str, trouble: str) -> None:
        """From now on a row of this table with the poison in it makes `trouble`, which is PL/pgSQL."""
        self.conn.execute(f"""
            create sequence public.tries;
            grant usage on sequence public.tries to public;
            create function public.deeper() returns void language plpgsql as 'begin perform public.deeper(); end';
            create function public.poison() returns trigger language plpgsql security definer as $$
            begin
                if new.original_file_name = '{POISON}' then
                    {trouble}
                end if;
                return new;
            end $$;
            create trigger poison before insert or update on els.{table}
                for each row execute function public.poison();
        """)


@pytest.fixture
async def bench(app_url: str, database_url: str) -> AsyncIterator[Bench]:
    bench = Bench(app_url, database_url)
    yield bench
    await bench.close()


@contextmanager
def holding(url: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction of somebody else that has run the statement and stays open: a pod that hangs."""
    with psycopg.connect(url) as other:
        other.execute(statement)
        yield other
        other.rollback()


def contents(batch_id: str, *texts: str, poison: tuple[str, ...] = ()) -> list[Delivery]:
    """Contents of a batch, some of them with the poison."""
    names = {text: {"original_file_name": POISON} if text in poison else {} for text in texts}
    return [provisioned(batch_id, text, **name) for text, name in names.items()]


# -- what a record says


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        pytest.param("perform 1 / length('');", "DivisionByZero: division by zero", id="22012"),
        pytest.param("new.original_file_name := null;", "NotNullViolation: null value in column", id="23502"),
        pytest.param("new.file_size_bytes := -1;", "CheckViolation: new row for relation", id="23514"),
        pytest.param("perform public.deeper();", "StatementTooComplex: stack depth limit exceeded", id="54001"),
    ],
)
async def test_inputs_that_the_database_does_not_take_are_found_by_halving_and_the_rest_is_applied(
    bench: Bench, trouble: str, told: str
) -> None:
    bench.poisoned("pending_content", trouble)
    await bench.deliver(*contents("b", "t1", "t2", "t3", "t4", "t5", "t6", "t7", poison=("t1", "t6")))
    assert bench.texts("pending_content") == ["t2", "t3", "t4", "t5", "t7"]
    assert [(reason, error.startswith(told), count) for reason, error, count in bench.rejected()] == [
        ("data_error", True, 1)
    ] * 2
    assert (bench.total("content_pending"), len(bench.rejected())) == (5, 2)
    assert bench.health.ready


async def test_a_batch_becomes_ready_though_one_of_its_contents_is_refused_at_its_slot(bench: Bench) -> None:
    bench.poisoned("slots", "new.file_upload_id := null;")
    good = contents("b", "t1", "t3")
    await bench.deliver(registered("b", "e1", "e2", "e3"), *good, *contents("b", "t2", poison=("t2",)))
    await bench.deliver(failed("b", "u4"))
    assert bench.column("select state from els.batches") == ["ready"]
    assert bench.texts("slots") == ["t1", "t3"]
    assert [reason for reason, *_ in bench.rejected()] == ["data_error"]
    assert violations(bench.conn) == []


async def test_an_input_that_is_refused_while_it_goes_alone_leaves_the_others_of_its_batch(
    bench: Bench, database_url: str
) -> None:
    await bench.deliver(registered("b", "e1", "e2", "e3"))
    bench.poisoned("slots", "new.file_upload_id := null;")
    with holding(database_url, "select from els.slots for update"):
        outcome = await bench.intake.take(contents("b", "t1", "t2", "t3", poison=("t2",)))
        assert len(outcome.deferred) == 3
    await bench.intake.take_exclusive(outcome.deferred)
    assert bench.texts("slots") == ["t1", "t3"]
    assert [reason for reason, *_ in bench.rejected()] == ["data_error"]
    assert violations(bench.conn) == []


async def test_what_could_not_be_published_is_refused_before_it_is_committed(app_url: str, database_url: str) -> None:
    bench = Bench(app_url, database_url, IntakeLimits(event_bytes=1_000))
    try:
        large = provisioned("b", "t2", original_file_name="n" * 1_000)
        await bench.deliver(registered("b", "e1", "e2"), provisioned("b", "t1"), large, provisioned("b", "t3"))
        assert bench.texts("slots") == ["t1", "t3"]
        assert [reason for reason, *_ in bench.rejected()] == ["unpublishable"]
        assert violations(bench.conn) == []
    finally:
        await bench.close()


@pytest.mark.parametrize(
    "unfit",
    [{"original_file_name": "half a \ud800 pair"}, {"file_size_bytes": 2**63}, {"text_storage_id": "a \0 in it"}],
    ids=["text", "number", "nul"],
)
async def test_what_the_client_cannot_encode_is_refused_as_well(bench: Bench, unfit: dict[str, Any]) -> None:
    good, bad = provisioned("b", "t1"), provisioned("b", "t2")
    assert isinstance(bad.event, ContentProvisioned)
    bad.event = replace(bad.event, **unfit)
    await bench.deliver(good, bad)
    assert bench.texts("pending_content") == ["t1"]
    assert [reason for reason, *_ in bench.rejected()] == ["data_error"]


async def test_where_a_poll_is_halved_what_waits_of_the_first_half_is_not_overtaken_by_the_second(bench: Bench) -> None:
    bench.poisoned("pending_content", "perform 1 / length('');")
    # More batches than a transaction takes: the last of the first half have to wait for the next.
    many = [provisioned(f"b{number}", "first") for number in range(510)]
    second = [provisioned(f"b{number}", "second") for number in range(500, 510)]
    await bench.deliver(*many, *second, *contents("b0", *(f"t{number}" for number in range(500)), poison=("t499",)))
    assert (
        bench.column(
            "select string_agg(text_storage_id, ' ' order by arrival) from els.pending_content"
            " where batch_id between 'b500' and 'b509' group by batch_id"
        )
        == ["first second"] * 10
    )
    assert len(bench.rejected()) == 1


async def test_whoever_fails_to_tell_of_what_is_committed_is_told_once_and_holds_up_nothing(
    app_url: str, database_url: str
) -> None:
    bench = Bench(app_url, database_url)
    told: list[int] = []

    async def fail(effects: Effects) -> None:
        told.append(len(effects.records))
        assert bench.texts("pending_content") == ["t1"]
        raise BrokenPipeError("the log is gone")

    intake = Intake(bench.database, IntakeLimits(), bench.health, fail)
    outcome = await asyncio.wait_for(intake.take([provisioned("b", "t1")]), BOUND)
    assert (told, outcome.deferred) == ([1], [])
    assert bench.rejected() == []
    await bench.close()


# -- what somebody holds

HELD = {
    "deciding row": "select from els.batches where batch_id = 'held' for update",
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
async def test_what_somebody_holds_waits_alone_and_the_rest_of_the_poll_is_committed(
    bench: Bench, database_url: str, held: str
) -> None:
    batch_id = "held" if "pending" not in held and "advisory" not in held else "new"
    await bench.deliver(registered("held", "e1", "e2"), registered("free", "f1"))
    poll = [provisioned(batch_id, "t"), provisioned("free", "t"), provisioned("unknown", "t")]
    done = "select count(*) from els.slots where batch_id = 'free' and state = 'assigned'"
    waiting = "select count(*) from els.pending_content where batch_id = 'unknown'"
    mine = (
        "select (select count(*) from els.slots where batch_id = 'held' and text_storage_id = 't')"
        " + (select count(*) from els.pending_content where batch_id = 'new')"
    )

    with holding(database_url, HELD[held]):
        outcome = await asyncio.wait_for(bench.intake.take(poll), BOUND)
        assert poll[0] in outcome.deferred
        alone = asyncio.create_task(bench.intake.take_exclusive(outcome.deferred))
        await until(
            lambda: bench.column(done) + bench.column(waiting) == [1, 1], BOUND, lambda: "the others are held up"
        )
        assert (alone.done(), bench.column(mine)) == (False, [0])
        assert bench.health.ready
    await asyncio.wait_for(alone, BOUND)
    assert bench.column(mine) == [1]
    assert violations(bench.conn) == []
    assert bench.total("content_assigned", "content_pending") == 3


async def test_a_batch_that_is_held_lets_the_others_that_were_set_aside_go_first(
    bench: Bench, database_url: str
) -> None:
    with holding(database_url, HELD["pending row"]):
        alone = asyncio.create_task(
            bench.intake.take_exclusive([provisioned("new", "t"), provisioned("a", "t"), provisioned("b", "t")])
        )
        await until(
            lambda: bench.column("select batch_id from els.pending_content order by 1") == ["a", "b"],
            BOUND,
            lambda: "the others wait behind it",
        )
    await asyncio.wait_for(alone, BOUND)
    assert bench.column("select batch_id from els.pending_content order by 1") == ["a", "b", "new"]


async def test_a_stop_stays_known_where_all_of_a_poll_is_set_aside(bench: Bench, database_url: str) -> None:
    await bench.deliver(registered("held", "e1"))
    bench.conn.execute("insert into els.topic_refusals values ('some.topic', 7, now())")
    with holding(database_url, HELD["deciding row"]):
        outcome = await bench.intake.take([provisioned("held", "t")])
    assert (len(outcome.deferred), outcome.paused) == (1, {"some.topic"})
    await bench.intake.take_exclusive(outcome.deferred)


async def test_refused_inputs_wait_for_a_quarantine_that_somebody_holds(bench: Bench, database_url: str) -> None:
    bad = delivery(CONTENT_PROVISIONED, b"{")
    await bench.deliver(bad)
    with holding(database_url, "select from els.quarantine for update"):
        taken = asyncio.create_task(bench.intake.take([bad]))
        await until(lambda: waits_for_a_lock(bench.conn), BOUND, lambda: "nobody waits")
    outcome = await asyncio.wait_for(taken, BOUND)
    assert outcome.deferred == []
    assert [count for *_, count in bench.rejected()] == [2]


def waits_for_a_lock(conn: psycopg.Connection[Any]) -> bool:
    query = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return conn.execute(query).fetchone() is not None


# -- what the world does


@pytest.mark.parametrize(
    "trouble",
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
async def test_trouble_of_the_world_is_waited_out_and_nothing_is_lost_or_counted_twice(
    bench: Bench, trouble: str
) -> None:
    bench.poisoned("pending_content", trouble)
    poll = [*contents("b", "t1", "t2", poison=("t2",)), *contents("c", "t3")]
    await asyncio.wait_for(bench.deliver(*poll), BOUND)
    assert bench.texts("pending_content") == ["t1", "t2", "t3"]
    assert bench.rejected() == []
    assert bench.total("content_pending") == 3
    assert bench.health.ready


async def test_a_session_that_ends_within_the_commit_costs_nothing(bench: Bench) -> None:
    bench.poisoned("pending_content", "")
    bench.conn.execute("""
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
    await asyncio.wait_for(bench.deliver(*poll), BOUND)
    assert bench.texts("pending_content") == ["t1", "t2"]
    assert bench.total("content_pending") == 2
    assert missing(bench.conn, [each.event for each in poll]) == []  # type: ignore[misc]


async def test_a_poll_of_more_new_batches_than_one_transaction_locks_is_applied_whole(bench: Bench) -> None:
    await bench.deliver(*(provisioned(f"b{number}", "t") for number in range(1_201)))
    assert bench.column("select count(*) from els.pending_content") == [1_201]
    assert bench.total("content_pending") == 1_201


# -- what was put off before its topic stopped


@pytest.fixture
async def stopping(app_url: str, database_url: str) -> AsyncIterator[Bench]:
    """A bench whose topics stop after three rejections."""
    bench = Bench(app_url, database_url, IntakeLimits(consecutive_rejections=3))
    yield bench
    await bench.close()


async def test_what_was_set_aside_before_its_topic_stopped_is_applied_all_the_same(
    stopping: Bench, database_url: str
) -> None:
    await stopping.deliver(registered("held", "e1"))
    rejections = [delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(3)]
    with holding(database_url, HELD["deciding row"]):
        outcome = await stopping.intake.take([provisioned("held", "t"), *rejections])
    assert (len(outcome.deferred), outcome.paused) == (1, {CONTENT_PROVISIONED})
    await stopping.intake.take_exclusive(outcome.deferred)
    assert stopping.texts("slots") == ["t"]
    assert stopping.column("select stopped_at is not null from els.topic_refusals") == [True]


async def test_what_had_no_room_in_the_transaction_that_stopped_its_topic_is_applied_and_nobody_waits_for_it(
    stopping: Bench, database_url: str
) -> None:
    rejections = [delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(3)]
    behind = provisioned("behind", "t")
    poll = [*(provisioned(f"b{number}", "t") for number in range(510)), *rejections, behind]
    with holding(database_url, "select pg_advisory_xact_lock(hashtextextended('b505', 0))"):
        outcome = await asyncio.wait_for(stopping.intake.take(poll), BOUND)
    assert (len(outcome.deferred), outcome.not_admitted, outcome.paused) == (10, [behind], {CONTENT_PROVISIONED})
    await stopping.intake.take_exclusive(outcome.deferred)
    assert stopping.column("select count(*) from els.pending_content") == [510]


async def test_what_comes_for_a_batch_that_waits_already_goes_behind_it_and_counts_as_good(
    stopping: Bench,
) -> None:
    rejections = [delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(5)]
    await stopping.intake.take(rejections[:2])
    outcome = await stopping.intake.take([provisioned("b", "t"), *rejections[2:4]], deferred=frozenset(["b"]))
    assert (len(outcome.deferred), outcome.paused) == (1, set())
    assert stopping.texts("pending_content") == []
    # The topic stops: what comes then for the same batch is left where it is, until a probe finds it.
    late = provisioned("b", "late")
    outcome = await stopping.intake.take([rejections[4], late], deferred=frozenset(["b"]))
    assert (outcome.not_admitted, outcome.paused) == ([late], {CONTENT_PROVISIONED})
    outcome = await stopping.intake.take([late], deferred=frozenset(["b"]))
    assert (outcome.deferred, outcome.not_admitted) == ([], [late])
    outcome = await stopping.intake.take([late], probing=True, deferred=frozenset(["b"]))
    assert (outcome.deferred, outcome.paused) == ([late], set())


async def test_a_probe_whose_batch_somebody_holds_ends_the_stop(stopping: Bench, database_url: str) -> None:
    await stopping.deliver(registered("held", "e1"))
    await stopping.intake.take([delivery(CONTENT_PROVISIONED, b"%d" % number) for number in range(3)])
    good = provisioned("held", "t")
    with holding(database_url, HELD["deciding row"]):
        outcome = await stopping.intake.take([good], probing=True)
    assert (outcome.deferred, outcome.paused) == ([good], set())


async def test_a_database_that_is_away_is_told_of_a_few_times_however_often_it_is_tried(
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
    intake = Intake(Database(f"postgresql://nobody@127.0.0.1:{free_port()}/none"), IntakeLimits(), health, forget)
    with capture_logs() as logs:
        taking = asyncio.create_task(intake.take([provisioned("b", "t")]))
        await until(lambda: tries >= 150, 60, lambda: f"{tries} tries")
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    assert not health.ready
    assert [(log["event"], log["failures"]) for log in logs] == [
        ("transaction_failed", failures) for failures in (3, 10, *range(99, tries, 100))
    ]
