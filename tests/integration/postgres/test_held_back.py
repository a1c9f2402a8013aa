"""Tests that ops.health names replication slots and standbys that keep dead rows from being removed."""

from collections.abc import Iterator

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.local.processes import wait_until
from deploy.servers.standby import NAME, standby_of
from service.postgres import migration

BOUND = 60
"""Seconds after which a wait has failed."""

BURN = "do $$ begin for i in 1..20001 loop perform pg_current_xact_id(); commit; end loop; end $$"
"""Uses up so many transactions, each without any effect."""


@pytest.fixture
def conn(durable_postgres: Postgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(durable_postgres.url(), autocommit=True) as conn:
        conn.execute("alter system set wal_level = logical")
    durable_postgres.stop()
    durable_postgres.start()
    migration.upgrade(durable_postgres.url())
    with psycopg.connect(durable_postgres.url(), autocommit=True) as conn:
        yield conn


def attention(conn: psycopg.Connection, view: str = "ops.health") -> list[str]:
    """The lines about what is held back, as an operator sees them."""
    conn.execute("set role els_ops")
    (lines,) = conn.execute(f"select attention from {view}".encode()).fetchone() or ([],)
    conn.execute("reset role")
    return [line for line in lines if "replication" in line]


def without_patience(conn: psycopg.Connection) -> str:
    """A view as ops.health, for which a slot is inactive at once."""
    (text,) = conn.execute("select pg_get_viewdef('ops.health')").fetchone() or [""]
    assert "'00:05:00'" in text
    text = text.replace("'00:05:00'", "'00:00:00'")
    conn.execute(f"create or replace view ops.at_once as {text}".encode())
    conn.execute("grant select on ops.at_once to els_ops; alter view ops.at_once owner to els_owner")
    return "ops.at_once"


@pytest.mark.parametrize("kind", ["logical", "physical"])
def test_a_slot_that_nobody_uses_is_named(conn: psycopg.Connection, kind: str) -> None:
    of_kind = {"logical": "('left', 'pgoutput')", "physical": "('left', true)"}[kind]
    conn.execute(f"select pg_create_{kind}_replication_slot{of_kind}".encode())
    assert attention(conn) == []
    (line,) = attention(conn, without_patience(conn))
    assert line.endswith("keep WAL and dead rows (left): pg_replication_slots")
    assert conn.execute("select inactive_slots from ops.at_once").fetchone() == (1,)
    conn.execute("select pg_drop_replication_slot('left')")
    assert attention(conn, "ops.at_once") == []


@pytest.mark.timeout(200)
@pytest.mark.parametrize("slot", ["", "standby_1"])
def test_a_standby_that_reads_what_is_old_is_named(
    durable_postgres: Postgres, conn: psycopg.Connection, slot: str
) -> None:
    if slot:
        conn.execute("select pg_create_physical_replication_slot(%s, true)", [slot])
    conn.close()
    with (
        standby_of(durable_postgres) as standby,
        psycopg.connect(durable_postgres.url(), autocommit=True) as primary,
    ):
        standby.feed_back(slot)
        with psycopg.connect(standby.url()) as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            reader.execute("select count(*) from els.batches")
            fed_back = "select from els.held_back() where transactions is not null"
            assert wait_until(lambda: primary.execute(fed_back).fetchone() is not None, BOUND)
            assert attention(primary) == []
            primary.execute(BURN)
            (line,) = attention(primary)
            assert line.endswith(f"are kept for a standby ({slot or NAME}): pg_stat_replication")
            reader.rollback()
        assert wait_until(lambda: attention(primary) == [], BOUND), "it goes on when the standby does"
