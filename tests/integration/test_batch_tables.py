"""The tables distribute by batch (sql/citus.sql), and the statements of the main path go by it.

A statement that names its batches reads every table of theirs by an index that begins with the batch, as the planner
tells: a node that has not these batches is not asked.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
import pytest
from sqlalchemy import PrimaryKeyConstraint, UniqueConstraint

from service.postgres.session import PLANNER
from service.postgres.statements import STATEMENTS
from service.postgres.tables import METADATA
from tests.support import databases
from tests.support.pods import ROOT

CITUS = (ROOT / "sql" / "citus.sql").read_text()
CALL = re.compile(r"select (\w+)\('els\.(\w+)'(?:, '(\w+)')?(?:, colocate_with => '(?:els\.)?(\w+)')?\);")

DISTRIBUTED: Mapping[str, str] = {
    table: column for call, table, column, _ in CALL.findall(CITUS) if call == "create_distributed_table"
}
"""Each distributed table with its column."""

KEYS = (PrimaryKeyConstraint, UniqueConstraint)

MAIN_PATH = ("store", "outbox")
"""The modules whose statements events go through."""

NOT_BY_BATCH = {
    "fetch_outbox": "by shard: what waits is read for all batches of a relay at once, from each node",
    "fetch_blocked": "by shard: a look now and then at what could not be published",
    "delete_outbox": "by batch or by shard, whichever index; each row names its batch, which tells the node",
    "count_outbox": "a gauge, and only as far as it counts exactly",
    "forget_blocked": "it goes through the few that are blocked",
}
"""Statements of the main path that don't name batches, each with its reason."""


def test_every_table_is_named_once() -> None:
    named = sorted(table for _, table, _, _ in CALL.findall(CITUS))
    assert named == sorted(["alembic_version", *(table.name for table in METADATA.tables.values())])
    assert len(CALL.findall(CITUS)) == len(re.findall(r"(?m)^select ", CITUS))


def test_what_is_distributed_lies_with_its_batch() -> None:
    calls = [call for call in CALL.findall(CITUS) if call[0] == "create_distributed_table"]
    assert [(table, beside) for _, table, _, beside in calls] == [
        (table, "none" if table == "batches" else "batches") for table in DISTRIBUTED
    ]
    assert calls[0][1] == "batches"


@pytest.mark.parametrize("table", DISTRIBUTED)
def test_keys_of_a_distributed_table_hold_its_column(table: str) -> None:
    """A key that does not could not be watched over by any one node."""
    found = METADATA.tables[f"els.{table}"]
    keys = [set(key.columns.keys()) for key in found.constraints if isinstance(key, KEYS)]
    keys += [{column.name for column in index.expressions} for index in found.indexes if index.unique]  # type: ignore[union-attr]
    assert keys
    assert all(DISTRIBUTED[table] in key for key in keys)
    assert not found.foreign_keys
    assert found.c[DISTRIBUTED[table]].computed is None


def main_path() -> list[str]:
    source = "".join((ROOT / "service" / f"{module}.py").read_text() for module in MAIN_PATH)
    return sorted(name for name in STATEMENTS if re.search(rf'"{name}"', source))


@pytest.fixture(scope="module")
def planner(server_url: str, template: str) -> Iterator[psycopg.Connection[Any]]:
    """A session in which no table is too small for its index."""
    with (
        databases.cloned(server_url, template) as url,
        psycopg.connect(url, autocommit=True, options=" ".join(PLANNER)) as connection,
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
        re.search(rf"\b{DISTRIBUTED[table]} = ", condition) is not None
        for table, condition in reads(planner, name)
        if table in DISTRIBUTED
    ]
    assert all(by_batch) == (name not in NOT_BY_BATCH), reads(planner, name)


def test_the_exceptions_are_of_the_main_path() -> None:
    assert set(NOT_BY_BATCH) <= set(main_path())
