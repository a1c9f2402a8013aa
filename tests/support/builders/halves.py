"""Fills a database of all batches with rows of two cells in every table, and makes it one of them, as a split does."""

from typing import Any
from uuid import uuid4

import psycopg

from service.domain.cells import Slice, cell_of
from service.domain.topics import BATCH_REGISTERED
from service.postgres.statements import STATEMENTS
from tests.support.builders.events import confirmation, content, failure, registration
from tests.support.pods.operator_stage import expire, expire_failures
from tests.support.pods.purger import FOR_EVER, PurgeFixture, later

OWN = Slice(2, 1)
KINDS = ("done", "confirmed", "open", "waits", "expired")


def named(kind: str, cell: int) -> str:
    """Names the batch of a kind that belongs to a cell."""
    return next(name for number in range(99) if cell_of(name := f"{kind}-{number}", OWN.cells) == cell)


async def fill(house: PurgeFixture) -> None:
    """Lets both cells have rows in every table: by inputs, as far as inputs write them."""
    for cell in range(OWN.cells):
        done, confirmed, open_, waits, expired = (named(kind, cell) for kind in KINDS)
        await house.poll(registration(done, 2, user_id="a teacher"), content("t1", done), failure("f1", done))
        await house.poll(content("surplus", done), failure("surplus", done))
        await house.poll(
            registration(confirmed, 1, class_id="8a"), confirmation("8a", confirmed), content("t", confirmed)
        )
        await house.poll(registration(open_, 2), content("t1", open_))
        await house.poll(content("gone", expired), content("taken", expired), failure("gone", expired))
        expire(house.conn, "gone")
        expire_failures(house.conn, "gone")
        await house.poll(content("t", waits), failure("f", waits), confirmation("8a", waits))
    await house.purge(2, FOR_EVER)
    await house.purge(0, FOR_EVER)
    house.conn.execute("update els.batches set timed_out_at = now() where state = 'registered'")
    house.conn.execute(
        "update els.pending_content set state = 'removed', closed_at = now() where text_storage_id = 'taken'"
    )
    for cell in range(OWN.cells):
        plant(house.conn, *(named(kind, cell) for kind in ("done", "waits", "expired")))


def plant(conn: psycopg.Connection[Any], done: str, waits: str, expired: str) -> None:
    """Adds what inputs do not write."""
    conn.execute("insert into els.outbox_blocked values (%s, 1, 'topic', 'too large', now(), now())", [done])
    conn.execute(
        "insert into els.outbox (id, aggregateid, type, payload, correlation_id)"
        " values (gen_random_uuid(), %s, 'topic', '{}', gen_random_uuid())",
        [done],
    )
    conn.execute("insert into els.incomplete_batches values (%s, '[]')", [expired])
    conn.execute(
        "insert into els.operator_actions (who, action, batch_id, why)"
        " values ('anna', 'pending remove', %s, 'asked for')",
        [waits],
    )
    for state, name in (("open", waits), ("discarded", done)):
        conn.execute(
            'insert into els.quarantine (topic, fingerprint, state, "partition", "offset", key, value, reason, error,'
            " first_seen_at, last_seen_at, closed_at, batch_id, original_file_name)"
            " values (%s, sha256(%s), %s, 0, 0, 'k', 'v', 'r', 'e', now(), now(), %s, %s, 'early.txt')",
            [BATCH_REGISTERED, name.encode(), state, None if state == "open" else later(0), name],
        )


def split(conn: psycopg.Connection[Any], *, cuts: bool = True) -> None:
    """Makes the database cell 1 of 2; without the cut, all rows of the other half stay."""
    if not cuts:
        conn.execute("update els.slice set cells = %s, cell = %s, since = now(), trims = true", OWN)
        return
    run = uuid4()
    conn.execute(
        "insert into els.transfer (run, kind, state, cells, cell, origin) values (%s, 'split', 'sealed', 1, 0, 'here')",
        [run],
    )
    cut = {"run": run, "cells": OWN.cells, "cell": OWN.cell, "who": "anna", "why": "too many"}
    assert conn.execute(STATEMENTS["cut_cell"].encode(), cut).fetchall()
