"""What a split has left of the other half is shown nowhere, and deleted in chunks, and nothing is published."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from service.domain.cells import Slice, cell_of
from service.domain.delivery import IntakeLimits
from service.domain.input_limits import DEFAULT_LIMITS
from service.domain.topics import PENDING_EXPIRED
from service.operators.errors import OperationError
from service.operators.operations import Operations
from service.operators.privacy import ErasureRequest, PrivacyActions
from service.postgres.pool import Database
from service.postgres.statements import QUERIES, STATEMENTS
from service.purge import trimming
from service.purge.policy import PurgeReport
from service.purge.purge import count_due, purge_once
from service.store import console
from service.store.batches import BatchFilter
from service.store.operator_actions import Operator
from service.store.pending_content import PendingFilter
from service.store.quarantine import QuarantineFilter
from tests.support.builders.halves import KINDS, OWN, fill, named, split
from tests.support.pods.purger import FOR_EVER, SHORT, PurgeFixture, later

OTHERS = {named(kind, 0) for kind in KINDS}
TABLES = """
    select relname::text, attname::text
    from pg_attribute
    join pg_class on pg_class.oid = attrelid
    where relnamespace = 'els'::regnamespace and relkind = 'r' and attname in ('batch_id', 'aggregateid')
    order by 1
"""
VIEWS = """
    select table_name::text, array_agg(column_name::text order by column_name)
    from information_schema.columns
    where table_schema = 'ops' and table_name <> 'cell' and data_type not in ('interval', 'json')
    group by table_name
"""

OF_ALL_ROWS = {
    "audit": "history/tables.py leaves out what belongs to other cells",
    "erasures": "an erasure is of all that is there",
    "trimming": "it deletes the rows of others",
}
"""Folders of sql/queries whose statements read all rows, each with its reason."""
GIVEN_ROWS = {
    "read_database_state": "whether the database was used",
    "close_quarantine": "by ids that were found before",
    "find_quarantined": "whether the record is stored",
    "list_input_actions": "of one rejected input",
}

BATCH_TABLES = (
    *("batches", "slots", "pending_content", "excess_content", "validation_failures", "confirmations"),
    *("search", "quarantine", "operator_actions", "outbox_pages"),
)


@pytest.fixture
async def half(database_url: str, house: PurgeFixture) -> AsyncIterator[Database]:
    """One half of a split, whose tables have rows of both."""
    await fill(house)
    database = Database(database_url, of=OWN)
    yield database
    await database.close()


def held(house: PurgeFixture) -> dict[str, dict[int, list[str]]]:
    """The rows of each table that has a batch id, by cell."""
    found: dict[str, dict[int, list[str]]] = {}
    for table, column in house.rows(TABLES):
        query = sql.SQL("select {0}, t::text from els.{1} as t where {0} is not null order by 1, 2")
        found[table] = {0: [], 1: []}
        for batch_id, row in house.conn.execute(query.format(sql.Identifier(column), sql.Identifier(table))):
            found[table][cell_of(batch_id, OWN.cells)].append(row)
    return found


def shown(url: str) -> dict[str, list[str]]:
    """What each view shows operators: all its rows, without ages."""
    with psycopg.connect(url) as conn:
        views = conn.execute(VIEWS).fetchall()
        conn.execute("set role els_ops")
        found = {}
        for view, columns in views:
            names = sql.SQL(", ").join(map(sql.Identifier, columns))
            query = sql.SQL("select row({})::text from ops.{} order by 1").format(names, sql.Identifier(view))
            found[view] = [row for (row,) in conn.execute(query)]
    return found


def shown_batches(house: PurgeFixture) -> dict[str, set[str]]:
    """The batches of which each view with batch ids shows something."""
    views = [view for view, columns in house.rows(VIEWS) if "batch_id" in columns]
    found = {view: {id_ for (id_,) in house.rows(f"select batch_id from ops.{view}") if id_} for view in views}
    assert len(found) > 10
    return found


async def trim(half: Database, **options: Any) -> PurgeReport:
    return await purge_once(half, FOR_EVER, now=later(0), **options)


def trims(house: PurgeFixture) -> bool:
    ((found,),) = house.rows("select trims from ops.cell")
    return bool(found)


async def test_every_row_of_another_cell_is_deleted_and_no_other(house: PurgeFixture, half: Database) -> None:
    before = held(house)
    assert {table for table, cells in before.items() if not (cells[0] and cells[1])} == set()
    assert await trim(Database(house.url)) == PurgeReport()
    assert held(house) == before

    split(house.conn, cuts=False)
    due = await count_due(half, FOR_EVER, now=later(0))
    report = await trim(half)
    assert held(house) == {table: {0: [], 1: cells[1]} for table, cells in before.items()}
    assert report == PurgeReport(trimmed_batches=len(OTHERS))
    assert due == PurgeReport(trimmed_batches=3)  # those that are registered
    assert house.rows("select trims, trimmed_until from ops.cell") == [(False, None)]
    assert await trim(half) == PurgeReport()


async def test_views_show_what_they_will_show_when_it_is_deleted(house: PurgeFixture, half: Database) -> None:
    for cell in (0, 1):  # a violation of an invariant
        house.conn.execute(
            "update els.pending_content set batch_id = %s where batch_id = %s",
            [named("open", cell), named("waits", cell)],
        )
    whole = shown(house.url)
    assert {view for view, ids in shown_batches(house).items() if {cell_of(id_, 2) for id_ in ids} != {0, 1}} == set()
    split(house.conn, cuts=False)
    assert {view for view, ids in shown_batches(house).items() if ids & OTHERS or not ids} == set()
    house.conn.execute("update els.slice set cells = 1, cell = 0, trims = false")
    split(house.conn)
    hidden = shown(house.url)
    await trim(half)
    assert hidden == shown(house.url)
    changed = {view for view in whole if whole[view] != hidden[view]}
    assert changed == shown_batches(house).keys() | {"health", "outbox_backlog"}


async def test_other_tasks_leave_the_other_half_alone(house: PurgeFixture, half: Database) -> None:
    split(house.conn, cuts=False)
    before = held(house)
    with house.locked(min(OTHERS)):  # so that nothing is trimmed
        due = await count_due(half, SHORT, now=later(200))
        report = await purge_once(half, SHORT, now=later(200))
    assert {table: cells[0] for table, cells in held(house).items()} == {
        table: cells[0] for table, cells in before.items()
    }
    assert (due.expired_content, due.expired_failures, due.deleted_actions) == (1, 1, 1)
    assert (report.expired_content, report.trimmed_batches, report.passed_over) == (1, 0, 1)
    assert {cell_of(event["data"]["batch_id"], 2) for event in house.events(PENDING_EXPIRED)} == {1}


async def test_a_round_goes_on_where_the_last_one_ended_and_begins_again_after_another_split(
    house: PurgeFixture, half: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trimming, "ROWS_PER_PAGE", 3)
    monkeypatch.setattr(trimming, "SLOTS_PER_TRIM", 1)
    monkeypatch.setattr(trimming, "TRIM_SECONDS", 0)
    split(house.conn, cuts=False)
    seen = [""]
    while trims(house):
        busy = sorted(OTHERS)[len(seen) % 5]
        with house.locked(busy):
            await trim(half)
        await asyncio.gather(trim(half), trim(half))
        ((until,),) = house.rows("select coalesce(trimmed_until, 'z') from ops.cell")
        seen.append(until)
        assert len(seen) < 50
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert not any(cells[0] for cells in held(house).values())

    house.conn.execute("update els.slice set trims = true")
    await trim(half)
    assert house.rows("select trimmed_until is not null from ops.cell") == [(True,)]
    house.conn.execute("update els.slice set cells = 4")
    assert house.rows("select trimmed_until from ops.cell") == [(None,)]
    quarter = Database(house.url, of=Slice(4, OWN.cell))
    while trims(house):
        await trim(quarter)
    await quarter.close()
    left = {id_ for ids in shown_batches(house).values() for id_ in ids}
    assert left == {id_ for kind in KINDS if cell_of(id_ := named(kind, 1), 4) == OWN.cell}
    assert len(left) < len(KINDS)


async def test_an_erasure_blanks_the_other_half_too_until_it_is_deleted(house: PurgeFixture, half: Database) -> None:
    split(house.conn, cuts=False)
    house.conn.execute("delete from els.outbox_pages")
    house.conn.execute("delete from els.outbox")
    report = await PrivacyActions(half).erase(Operator("anna", "case 7"), ErasureRequest("user", name="a teacher"))
    assert {row["batch_id"] for row in report.batches} == {named("done", cell) for cell in (0, 1)}
    assert house.rows("select count(*) from els.batches where user_id = 'a teacher'") == [(0,)]
    names = "select batch_id, original_file_name from els.slots where state = 'assigned'"
    found = {batch_id: name for batch_id, name in house.rows(names) if batch_id.startswith("done")}
    assert found == dict.fromkeys((named("done", 0), named("done", 1)), "[erased]")


async def reads(database: Database) -> dict[str, set[str]]:
    """The batches that searches, lists of operators and the console's lists return."""
    do = Operations(database, IntakeLimits(), DEFAULT_LIMITS)
    rows: dict[str, Sequence[Any]] = {
        **{f"find {text}": await do.search.find(text, page=99) for text in ("a teacher", ".txt", "upload-t")},
        "batches": (await do.batches.list(BatchFilter(), page=99)).rows,
        "batches of a user": (await do.batches.list(BatchFilter(user_id="a teacher"), page=99)).rows,
    }
    for state in ("pending", "expired"):
        rows[f"{state} contents"] = (await do.pending.list(PendingFilter(), page=99, state=state)).rows
        rows[f"{state} failures"] = (await do.pending.list_failures(PendingFilter(), page=99, state=state)).rows
    for state in ("open", "discarded"):
        page = await do.quarantine.list(QuarantineFilter(), page=99, state=state, before=None)
        rows[f"{state} inputs"] = page.rows
    async with database.transaction() as conn:
        rows["late"] = await console.list_late_batches(conn, 99)
        rows["waiting"] = await console.list_waiting_batches(conn, 99)
        rows["expired"] = await console.list_expired_batches(conn, 99)
        rows["blocked"] = await console.list_outbox_blocked(conn, 99)
        rows["inputs"] = await console.list_open_quarantine(conn, QuarantineFilter(), page=99, before=None)
        rows["actions"] = await console.list_operator_actions(conn, page=99)
    return {
        read: {id_ for row in found if (id_ := row["batch_id"] if isinstance(row, dict) else row.batch_id)}
        for read, found in rows.items()
    }


async def test_searches_and_lists_leave_the_other_half_out(house: PurgeFixture, half: Database) -> None:
    before = await reads(house.database)
    assert {read for read, ids in before.items() if {cell_of(id_, 2) for id_ in ids} != {0, 1}} == set()
    split(house.conn, cuts=False)
    assert await reads(half) == {read: ids - OTHERS for read, ids in before.items()}


async def test_operators_are_told_which_cell_has_a_batch(house: PurgeFixture, half: Database) -> None:
    split(house.conn, cuts=False)
    before, by = held(house), Operator("anna", "case 7")
    do, batch_id = Operations(half, IntakeLimits(), DEFAULT_LIMITS), named("expired", 0)
    some = PendingFilter(batch_id)
    actions: Sequence[Callable[[], Awaitable[object]]] = (
        lambda: do.pending.show(batch_id, "gone"),
        lambda: do.pending.count_removable(some),
        lambda: do.pending.remove(by, "pending clear", some),
        lambda: do.pending.restore(by, some),
        lambda: do.batches.show(batch_id, page=9, after=0),
        lambda: do.batches.close(by, batch_id),
        lambda: do.batches.republish(by, batch_id),
    )
    for action in actions:
        with pytest.raises(OperationError, match="belongs to cell 0 of 2, and this is cell 1 of 2"):
            await action()
    restored = await do.pending.restore(by, PendingFilter(), everything=True)
    assert (restored.contents, restored.failures) == (1, 1)
    assert {table: cells[0] for table, cells in held(house).items()} == {
        table: cells[0] for table, cells in before.items()
    }


def test_a_statement_for_people_or_the_purge_reads_only_own_rows() -> None:
    """Unless it is given batches, or ids of rows, by somebody who has looked for own ones."""
    of_batches = re.compile(rf"\b(from|join) els\.({'|'.join(BATCH_TABLES)})\b")
    folders = {path.stem: path.parent.name for path in QUERIES.glob("*/*.sql")}
    found = {
        name
        for name, text in STATEMENTS.items()
        if of_batches.search(text) and not re.search(r"els\.own_|els\.cell_of|\(batch_ids?\)", text)
    }
    assert {name for name in found if folders[name] not in OF_ALL_ROWS} == GIVEN_ROWS.keys()
