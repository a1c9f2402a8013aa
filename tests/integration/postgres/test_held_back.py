"""Tests that ops.health names replication slots and standbys that keep dead rows from being removed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from deploy.local.postgres import Postgres
from deploy.local.processes import wait_until
from deploy.servers.ports import reserved_port
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


def started_standby(primary: Postgres, slot: str) -> Postgres:
    """A standby of a copy of the data, whose application name is its slot's if it has one."""
    place = primary.place.with_name("standby")
    primary.stop()
    place.mkdir()
    subprocess.run(["cp", "-a", primary.data, place / "data"], check=True)
    if primary.account:
        os.chown(place, primary.account.uid, primary.account.gid)
    primary.start()
    signal = place / "data" / "standby.signal"
    signal.touch()
    if primary.account:
        os.chown(signal, primary.account.uid, primary.account.gid)
    with (place / "data" / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"primary_conninfo = '{primary.url()}?application_name=reports'\n")
        settings.write(f"primary_slot_name = '{slot}'\n")
        settings.write("hot_standby_feedback = on\nwal_receiver_status_interval = 1s\n")
    home = place.with_name("home")
    home.mkdir()
    standby = Postgres(place, home, reserved_port(), primary._password, account=primary.account)
    standby.programs = primary.programs  # type: ignore[method-assign]  # they lie where the account can run them
    standby.start()
    return standby


@contextmanager
def standby_of(primary: Postgres, slot: str) -> Iterator[Postgres]:
    standby = started_standby(primary, slot)
    try:
        yield standby
    finally:
        standby.stop()
        shutil.rmtree(standby.place)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("slot", ["", "standby_1"])
def test_a_standby_that_reads_what_is_old_is_named(
    durable_postgres: Postgres, conn: psycopg.Connection, slot: str
) -> None:
    if slot:
        conn.execute("select pg_create_physical_replication_slot(%s, true)", [slot])
    conn.close()
    with (
        standby_of(durable_postgres, slot) as standby,
        psycopg.connect(durable_postgres.url(), autocommit=True) as primary,
    ):
        with psycopg.connect(standby.url()) as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            reader.execute("select count(*) from els.batches")
            fed_back = "select from els.held_back() where transactions is not null"
            assert wait_until(lambda: primary.execute(fed_back).fetchone() is not None, BOUND)
            assert attention(primary) == []
            primary.execute(BURN)
            (line,) = attention(primary)
            assert line.endswith(f"are kept for a standby ({slot or 'reports'}): pg_stat_replication")
            reader.rollback()
        assert wait_until(lambda: attention(primary) == [], BOUND), "it goes on when the standby does"
