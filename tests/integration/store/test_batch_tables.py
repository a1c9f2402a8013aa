"""Which tables hold rows of a batch, and that statements of the main path reach those rows by the batch id.

Every key of such a table contains the batch id, so the rows of a batch never conflict with those of another. A
statement that is given batch ids reads each such table through an index condition on the batch id: the planner says so.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint

from deploy.servers import databases
from deploy.servers.pods import ROOT
from service.postgres.session import PLANNER, options_of
from service.postgres.statements import STATEMENTS
from service.postgres.tables import METADATA

BATCH_TABLES: Mapping[str, str] = {
    "batches": "batch_id",
    "slots": "batch_id",
    "pending_content": "batch_id",
    "excess_content": "batch_id",
    "validation_failures": "batch_id",
    "confirmations": "batch_id",
    "outbox": "aggregateid",
    "outbox_blocked": "batch_id",
    "incomplete_batches": "batch_id",
}
"""Each table whose rows belong to a batch, with the column that holds the batch id."""

OTHER_TABLES: Mapping[str, str] = {
    "policy": "one row for each time limit",
    "relays": "one row for each running relay",
    "outbox_format": "one row",
    "outbox_pages": "by number, the order in which its rows are published",
    "relay_shards": "one row for each shard of the outbox",
    "quarantine": "by topic and record; a record need not name a batch",
    "topic_refusals": "one row for each input topic",
    "rejected_bytes": "a row for each input topic and hour of two days",
    "crash_marks": "by topic and partition; a record need not name a batch",
    "progress": "one row for each input partition",
    "server_identity": "one row",
    "slice": "one row",
    "transfer": "at most one row",
    "trimming": "at most one row",
    "recovery": "at most one row",
    "purge_hold": "at most one row",
    "purge_rounds": "one row",
    "input_topics": "a row for each input topic",
    "output_topics": "a row for each output topic",
    "erasures": "a digest for each subject that was erased; it says neither which nor of which batch",
    "erasure_keys": "one row, and one for each export that was read",
    "notices": "a row for each notice",
    "expired_seen": "one row",
    "pods": "one row for each running pod",
    "search": "names and ids of a batch in another form; the purge writes it from all that changed",
    "search_progress": "one row",
    "lost_inputs": "by topic and partition, a row for each loss",
    "skipped_inputs": "a row for each offset that an operator has skipped",
    "operator_actions": "in order of time; an action need not concern a batch",
}
"""Tables whose rows do not belong to a batch, each with its reason."""

KEYS = (PrimaryKeyConstraint, UniqueConstraint)

MAIN_PATH = ("batches", "slots", "pending_content", "validation_failures", "confirmations", "outbox", "relays")
"""The modules of service/store whose statements events go through; some have statements for operators, too."""

NOT_BY_BATCH = {
    "fetch_outbox": "by shard: one query reads the waiting rows of all batches of a relay",
    "fetch_blocked": "by shard: an occasional query for events that could not be published",
    "count_outbox": "for a gauge: it counts the rows of all batches",
    "forget_blocked": "it reads all blocked batches, which are few",
    "find_expired": "for operators: a page of the expired content and failures of all batches",
    "count_expired": "for operators: the expired content and failures of all batches",
    "find_stranded_confirmations": "for the purge: what waits for a batch that is registered",
    "list_batches": "for operators: a page of all batches",
    "list_waiting_failures": "for operators: a page of the waiting failures of all batches",
    "list_pending_content": "for operators: a page of the pending content of all batches",
}
"""Statements of these modules that don't name batches, each with its reason."""


def test_every_table_is_listed_once_as_one_of_batches_or_not() -> None:
    assert sorted([*BATCH_TABLES, *OTHER_TABLES]) == sorted(table.name for table in METADATA.tables.values())


@pytest.mark.parametrize("table", BATCH_TABLES)
def test_keys_of_a_table_of_batches_contain_the_batch_id(table: str) -> None:
    found = METADATA.tables[f"els.{table}"]
    keys = [set(key.columns.keys()) for key in found.constraints if isinstance(key, KEYS)]
    keys += [{column.name for column in index.expressions} for index in found.indexes if index.unique]  # type: ignore[union-attr]
    assert keys
    assert all(BATCH_TABLES[table] in key for key in keys)
    assert not found.foreign_keys
    assert found.c[BATCH_TABLES[table]].computed is None


def main_path() -> list[str]:
    source = "".join((ROOT / "service" / "store" / f"{module}.py").read_text() for module in MAIN_PATH)
    return sorted(name for name in STATEMENTS if re.search(rf'"{name}"', source))


@pytest.fixture(scope="module")
def planner(server_url: str, template: str) -> Iterator[psycopg.Connection[Any]]:
    """A session in which no table is too small for its index."""
    with (
        databases.cloned(server_url, template) as url,
        psycopg.connect(url, autocommit=True, options=options_of(PLANNER)) as connection,
    ):
        yield connection


def reads(planner: psycopg.Connection[Any], name: str) -> list[tuple[str, str]]:
    """The tables that a statement reads, each with the condition that it goes to its index with."""
    numbers: dict[str, int] = {}
    statement = re.sub(
        r"%\((\w+)\)s", lambda found: f"${numbers.setdefault(found[1], len(numbers) + 1)}", STATEMENTS[name]
    ).replace("%%", "%")
    ((plan,),) = planner.execute(f"explain (generic_plan, format json) {statement}".encode()).fetchall()
    found: list[tuple[str, str]] = []
    todo = [plan[0]["Plan"]]
    while todo:
        node = todo.pop()
        todo += node.get("Plans", [])
        if node["Node Type"].endswith("Scan") and "Relation Name" in node:
            found.append((node["Relation Name"], node.get("Index Cond", "")))
    return found


@pytest.mark.parametrize("name", main_path())
def test_a_statement_of_the_main_path_names_its_batches(planner: psycopg.Connection[Any], name: str) -> None:
    by_batch = [
        re.search(rf"\b{BATCH_TABLES[table]} = ", condition) is not None
        for table, condition in reads(planner, name)
        if table in BATCH_TABLES
    ]
    assert all(by_batch) == (name not in NOT_BY_BATCH), reads(planner, name)


def test_the_exceptions_are_of_the_main_path() -> None:
    assert set(NOT_BY_BATCH) <= set(main_path())
