"""Tests that a database clock that jumped does not make everything expire."""

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from service.operators.errors import Conflict
from service.operators.notices import NoticeActions
from service.postgres.pool import Database
from service.purge.clocks import ROUNDS, TOLERANCE, Clocks
from service.store.operator_actions import Operator


class PodClocks:
    """The clocks of a pod, which a test can move. The database's clock moves against them the other way."""

    def __init__(self) -> None:
        self.wall = self.monotonic = 0.0

    def of_a_pod(self) -> Clocks:
        return Clocks(lambda: time.time() + self.wall, lambda: time.monotonic() + self.monotonic)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture
def conn(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize(
    ("wall", "monotonic", "may"),
    [
        (0, 0, True),
        (TOLERANCE - 60, 0, True),
        (TOLERANCE + 60, 0, False),
        (-TOLERANCE - 60, 0, False),
        (0, TOLERANCE + 60, False),
        (0, -TOLERANCE - 60, False),
    ],
    ids=["agree", "nearly", "database behind", "database ahead", "moved back", "moved forward"],
)
async def test_the_purge_stops_where_the_clocks_do_not_agree(
    database: Database, wall: float, monotonic: float, may: bool
) -> None:
    pod = PodClocks()
    clocks = pod.of_a_pod()
    assert await clocks.may_purge(database)
    pod.wall, pod.monotonic = wall, monotonic
    assert await clocks.may_purge(database) is may


async def test_it_goes_on_after_three_rounds_in_which_they_agree_on_any_pod(
    database: Database, conn: psycopg.Connection[Any]
) -> None:
    pod = PodClocks()
    clocks, other = pod.of_a_pod(), PodClocks().of_a_pod()
    pod.wall = -26 * 3600
    assert not await clocks.may_purge(database)
    assert not await other.may_purge(database)
    ((held,),) = conn.execute("select attention from ops.health").fetchall()
    assert any("the purge is held" in line for line in held)
    pod.wall = 0
    rounds = [await clocks.may_purge(database) for _ in range(ROUNDS - 1)]
    assert rounds == [False] * (ROUNDS - 2) + [True]  # the other pod's round counts
    assert conn.execute("select count(*) from els.purge_hold").fetchone() == (0,)
    ((kinds, notices),) = conn.execute("select notice_kinds, notices from ops.health").fetchall()
    assert kinds == ["clocks"]
    assert notices[0].startswith("the purge was held since ")


async def test_a_difference_that_an_operator_acknowledged_does_not_stop_it_again(
    database: Database, conn: psycopg.Connection[Any]
) -> None:
    pod = PodClocks()
    clocks = pod.of_a_pod()
    pod.wall = 3600
    assert not await clocks.may_purge(database)
    with pytest.raises(Conflict, match="what needs an action cannot be acknowledged"):
        await NoticeActions(database).acknowledge(Operator("me"))
    (seen,) = await NoticeActions(database).acknowledge(Operator("me", "a virtual clock"), ["clocks"])
    assert "apart" in seen
    assert await clocks.may_purge(database)
    assert await clocks.may_purge(database)
    pod.wall = 3600 + TOLERANCE + 60
    assert not await clocks.may_purge(database)
    pod.wall = 0
    while not await clocks.may_purge(database):
        pass
    pod.wall = 3600
    assert not await clocks.may_purge(database)
    assert conn.execute("select count(*) from ops.operator_actions").fetchone() == (1,)
