"""What has waited too long for a registration expires, and nothing else does."""

import asyncio
from typing import Any

import pytest

from deploy.servers.pods import until
from service.domain.delivery import IntakeLimits
from service.domain.topics import PENDING_EXPIRED
from service.purge import purge
from service.purge.policy import PurgeReport, RetentionPolicy
from service.purge.purge import purge_once
from service.store import retention
from tests.support.builders.events import content, deliveries, failure, registration
from tests.support.builders.progress import say_applied
from tests.support.checks import invariants
from tests.support.pods.applier import deliver
from tests.support.pods.purger import DAY, POLICY, TRACE, PurgeFixture, later


async def test_content_that_waited_too_long_becomes_expired_and_one_event_is_published(house: PurgeFixture) -> None:
    await house.poll(content("c1", traceparent=TRACE, tracestate="vendor=1"), content("c2"), content("c3", "d"))
    report = await house.purge(1.01)
    assert report == PurgeReport(expired_content=3)
    assert house.states() == {"c1": "expired", "c2": "expired", "c3": "expired"}
    assert sorted(house.subjects(PENDING_EXPIRED)) == ["c1", "c2", "c3"]
    assert await house.purge(1.02) == PurgeReport()
    assert len(house.events(PENDING_EXPIRED)) == 3


async def test_content_that_has_not_waited_long_stays_pending(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    assert await house.purge(0.99) == PurgeReport()
    assert house.states() == {"c1": "pending"}


async def test_without_a_time_given_the_databases_clock_decides(house: PurgeFixture) -> None:
    await house.poll(content("old"), content("new"))
    house.conn.execute("update els.pending_content set waiting_since = now() - interval '25 h' where arrival = 1")
    say_applied(house.conn)
    assert await purge_once(house.database, POLICY) == PurgeReport(expired_content=1)
    assert sorted(house.states().values()) == ["expired", "pending"]


async def test_failures_expire_without_an_event(house: PurgeFixture) -> None:
    await house.poll(failure("f1"), failure("f2", "d"))
    assert await house.purge(1.01) == PurgeReport(expired_failures=2)
    assert house.failures() == {"f1": "expired", "f2": "expired"}
    assert house.rows("select count(*) from els.outbox_pages") == [(0,)]
    assert house.rows("select count(expired_at) from ops.validation_failures") == [(2,)]


async def test_expired_content_that_is_delivered_again_stays_expired(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    await house.purge(1.01)
    before = invariants.state(house.conn)
    await house.poll(content("c1"), failure("f1"))
    assert invariants.state(house.conn) == before


async def test_a_registration_that_comes_late_still_finds_what_expired(house: PurgeFixture) -> None:
    await house.poll(content("c1"), failure("f1"))
    await house.purge(1.01)
    await house.poll(content("c2"))
    await house.poll(registration(essays=3))
    slots = house.rows("select coalesce(text_storage_id, file_upload_id) from els.slots order by position")
    assert slots == [("c1",), ("c2",), ("f1",)]
    assert house.states() == {}
    assert house.rows("select state, closed_at from els.validation_failures") == [("slot", None)]
    assert house.rows("select state from ops.batches") == [("ready",)]


async def test_what_is_due_goes_in_chunks_in_the_order_of_arrival(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ROWS_PER_CHUNK", 3)
    names = [f"c{number}" for number in range(10)]
    await house.poll(*(content(name) for name in names))
    assert await house.purge(1.01) == PurgeReport(expired_content=10)
    assert [len(chunk.done) for chunk in house.chunks] == [3, 3, 3, 1]
    assert house.subjects(PENDING_EXPIRED) == names


async def test_a_batch_that_another_transaction_works_on_is_skipped_and_blocks_no_other(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ROWS_PER_CHUNK", 2)
    await house.poll(*(content(f"c{number}", "busy") for number in range(5)))
    await house.poll(content("free", "free"), failure("f1", "busy"))
    with house.locked("busy"):
        report = await house.purge(1.01)
        assert report == PurgeReport(expired_content=1, passed_over=1)
        assert house.subjects(PENDING_EXPIRED) == ["free"]
    assert await house.purge(1.01) == PurgeReport(expired_content=5, expired_failures=1)


async def test_a_registration_that_commits_while_the_purge_reads_takes_effect(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content was found due before its batch was registered; under the lock it is not changed."""
    await house.poll(content("c1"), failure("f1"))
    find = retention.find_due
    found: list[Any] = []

    async def register_meanwhile(*arguments: Any) -> Any:
        keys = await find(*arguments)
        if not found:
            found.extend(keys)
            await house.poll(registration(essays=2))
        return keys

    monkeypatch.setattr(retention, "find_due", register_meanwhile)
    assert await house.purge(0.5, RetentionPolicy(1, 30 * DAY, DAY)) == PurgeReport()
    assert found == [("b", "c1")]
    assert house.events(PENDING_EXPIRED) == []
    assert house.rows("select state from ops.batches") == [("ready",)]


async def test_a_registration_that_comes_while_the_purge_holds_the_batch_waits_and_finds_the_content(
    house: PurgeFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.poll(content("c1"))
    expire = retention.expire_content
    arrived: list[asyncio.Task[None]] = []

    async def expire_with_a_registration_waiting(*arguments: Any) -> Any:
        expired = await expire(*arguments)
        if not arrived:
            arrived.append(asyncio.create_task(deliver(house.database, deliveries(registration(essays=1)))))
            await until(lambda: _one_waits(house), 60, lambda: "no transaction waits for the batch")
        return expired

    monkeypatch.setattr(retention, "expire_content", expire_with_a_registration_waiting)
    assert (await house.purge(1.01)).expired_content == 1
    await arrived[0]
    assert house.rows("select text_storage_id from els.slots") == [("c1",)]
    types = [kind for (kind,) in house.rows("select topic from ops.outbox_events order by seq")]
    assert types[0] == PENDING_EXPIRED
    assert len(types) == 4
    assert invariants.violations(house.conn) == []


async def _one_waits(house: PurgeFixture) -> bool:
    waiting = """
        select exists (
            select
            from pg_locks
            inner join pg_database
                on pg_database.oid = pg_locks.database
            where datname = current_database()
                and locktype = 'advisory'
                and not granted
        )
    """
    return house.rows(waiting) == [(True,)]


async def test_content_of_a_registered_batch_is_never_touched(house: PurgeFixture) -> None:
    """Not even where it must not be: it stays for ops.invariant_violations to show."""
    await house.poll(registration(essays=1))
    await house.poll(content("c1", "d"))
    house.conn.execute("update els.pending_content set batch_id = 'b'")
    await purge_once(house.database, POLICY, now=later(0.9 * 365))
    assert house.states() == {"c1": "pending"}
    assert house.events(PENDING_EXPIRED) == []


async def test_what_was_restored_can_expire_again_which_is_another_event(house: PurgeFixture) -> None:
    await house.poll(content("c1"))
    await house.purge(1.01)
    restore = "update els.pending_content set state = 'pending', closed_at = null, waiting_since = %s"
    house.conn.execute(restore, [later(1.5)])
    assert await house.purge(2.4) == PurgeReport()
    assert await house.purge(2.6) == PurgeReport(expired_content=1)
    assert len({event["event_id"] for event in house.events(PENDING_EXPIRED)}) == 2


async def test_an_event_that_is_too_large_does_not_stop_the_purge(house: PurgeFixture) -> None:
    await house.poll(content("c1", original_file_name="x" * 3000), content("c2"))
    assert await house.purge(1.01, limits=IntakeLimits(event_bytes=2000)) == PurgeReport(expired_content=2)
    assert house.subjects(PENDING_EXPIRED) == ["c2"]
