"""Puts the rows of several cells into one database, so that they can be checked like those of one."""

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from service.domain.cells import slices_at

TABLES = (
    *("batches", "slots", "pending_content", "excess_content", "validation_failures", "confirmations"),
    *("incomplete_batches", "outbox_pages", "outbox_blocked", "quarantine", "lost_inputs", "operator_actions"),
)
"""Tables that tell what became of the inputs."""

OF_A_BATCH = TABLES[:7]

APART = 1_000_000
"""The numbers of rows that each database counts by itself are kept apart by so many."""


def check_slices(urls: Sequence[str]) -> None:
    """Asserts that each database, at its places, has only rows of its own batches."""
    for of, url in slices_at(urls):
        with psycopg.connect(url) as conn:
            for table in OF_A_BATCH:
                query = sql.SQL("select batch_id from {} where els.cell_of(batch_id, %s) <> %s")
                foreign = conn.execute(query.format(sql.Identifier("els", table)), of).fetchall()
                assert foreign == [], f"{table} of {of} has rows of other cells"


def copy_union(urls: Sequence[str], into: str) -> None:
    """Copies the rows of all these databases into another one, which has none; each only those of its own batches."""
    with psycopg.connect(into) as union:
        union.execute("set session_replication_role = replica")
        for number, url in enumerate(urls):
            with psycopg.connect(url) as cell:
                for table in TABLES:
                    _copy(cell, union, table, number)


def _copy(cell: psycopg.Connection[Any], union: psycopg.Connection[Any], table: str, number: int) -> None:
    query = """
        select column_name::text from information_schema.columns
        where table_schema = 'els' and table_name = %s and is_generated = 'NEVER'
        order by ordinal_position
    """
    names = [name for (name,) in cell.execute(query, [table])]
    values = [f'"{name}" + {number * APART}' if name in ("id", "seq") else f'"{name}"' for name in names]
    place = sql.Identifier("els", table)
    columns = sql.SQL(", ").join([sql.Identifier(name) for name in names])
    taking = sql.SQL("copy {} ({}) from stdin").format(place, columns)
    own = "batch_id is null or els.holds(batch_id)" if "batch_id" in names else "true"
    giving = f"copy (select {', '.join(values)} from els.{table} where {own}) to stdout"
    with cell.cursor().copy(giving.encode()) as rows, union.cursor().copy(taking) as taken:
        for data in rows:
            taken.write(data)
