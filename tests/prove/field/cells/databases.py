"""What happens to the database: failover, names that point elsewhere, read-only, locks, poolers, restores."""

import asyncio
import shutil
from contextlib import suppress
from typing import Final

import psycopg

from deploy.servers.pods import until
from deploy.servers.standby import base_backup
from tests.prove.field.environment import Kind, els
from tests.prove.field.play import Cell, Play

ONE: Final = Kind()
ASYNC: Final = Kind(standby="async")
SYNC: Final = Kind(standby="sync")


async def alter(play: Play, *settings: str) -> None:
    """Changes settings of the server while it runs."""
    for setting in settings:
        await asyncio.to_thread(play.world.sql, f"alter system {setting}")
    await asyncio.to_thread(play.world.sql, "select pg_reload_conf()")


async def read_only(play: Play) -> None:
    """The server becomes read-only for 15 s."""
    async with play.load(), play.fault():
        await alter(play, "set default_transaction_read_only = on")
        await play.run("check", names="read-only: default_transaction_read_only is on")
        await asyncio.sleep(15)
        await alter(play, "reset default_transaction_read_only")


async def lock(play: Play) -> None:
    """Somebody locks a table for 30 s."""
    async with play.load(), play.fault(), await psycopg.AsyncConnection.connect(play.world.url()) as conn:
        await conn.execute("lock table els.slots")
        await asyncio.sleep(30)


async def end_sessions(play: Play) -> None:
    """All sessions of the service are ended, again and again."""
    async with play.load(), play.fault():
        for _ in range(10):
            await asyncio.to_thread(
                play.world.sql, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'els_app'"
            )
            await asyncio.sleep(0.5)


async def through_pooler(play: Play) -> None:
    """Everything goes through PgBouncer, which is restarted once."""
    bouncer = play.world.bouncer
    assert bouncer is not None
    async with play.load():
        await asyncio.sleep(5)
        async with play.fault():
            await asyncio.to_thread(bouncer.stop)
            await asyncio.sleep(1)
            await asyncio.to_thread(bouncer.start)


async def undeclared_pooler(play: Play) -> None:
    """A pod does not know of the pooler, which shares its sessions or refuses its settings."""
    pod = play.world.pods.all[0]
    right = pod._environment
    async with play.load(), play.fault():
        pod.kill()
        pod._environment = {**right, "ELS_DATABASE_POOLER": "none"}
        pod.start()
        await play.run("check", names="ELS_DATABASE_POOLER", ELS_DATABASE_POOLER="none")
        await asyncio.sleep(15)
        pod._environment = right
        pod.kill()
        pod.start()


async def name_points_to_standby(play: Play) -> None:
    """The name of the database points to a standby for 5 s; sessions that are open then stay there."""
    world = play.world
    assert world.standby is not None
    async with play.load(), play.fault():
        world.point_to(world.standby)
        world.database.cut()
        await asyncio.gather(play.run("check", names="the server is a standby"), asyncio.sleep(5))
        world.point_to(world.postgres)


async def fail_over(play: Play) -> None:
    """The primary is killed, and its standby, which has all commits that were acknowledged to it, is promoted."""
    async with play.load():
        async with play.fault():
            await asyncio.to_thread(play.world.fail_over)
        await recovered_if_behind(play)


async def fail_over_with_loss(play: Play) -> None:
    """The standby has received nothing for some seconds when the primary is killed: commits are lost."""
    world, standby = play.world, play.world.standby
    assert standby is not None
    async with play.load():
        await asyncio.sleep(2)
        await asyncio.to_thread(standby.disconnect)
        await asyncio.sleep(5)
        async with play.fault():
            await asyncio.to_thread(world.fail_over)
            await until_named(play, BEHIND)
        assert await recovered_if_behind(play), "nothing was lost, so nothing was tested"


async def fail_over_synchronously(play: Play) -> None:
    """The primary is killed, and its synchronous standby is promoted: no commit is lost."""
    async with play.load():
        async with play.fault():
            await asyncio.to_thread(play.world.fail_over)
            await alter(play, "reset synchronous_standby_names")
        assert not await recovered_if_behind(play), "commits were lost"


async def fail_over_while_commits_wait(play: Play) -> None:
    """The synchronous standby receives nothing any more, so that commits wait; then it takes over without them.

    Nobody was told that they were done, so nothing may follow from them.
    """
    standby = play.world.standby
    assert standby is not None
    async with play.load():
        await asyncio.to_thread(standby.disconnect)
        await asyncio.sleep(8)
        async with play.fault():
            await asyncio.to_thread(play.world.fail_over)
        assert not await recovered_if_behind(play), "commits were lost that had been acknowledged"


async def standby_away(play: Play) -> None:
    """The synchronous standby is away for 15 s: commits wait, and none is cancelled."""
    standby = play.world.standby
    assert standby is not None
    async with play.load(), play.fault():
        await asyncio.to_thread(standby.kill)
        await asyncio.sleep(15)
        await asyncio.to_thread(standby.start)


async def restore(play: Play) -> None:
    """A backup is restored that is older than what was published; `recover` brings it up to date."""
    server = play.world.postgres
    copy = server.data.with_name("backup")
    async with play.load():
        await asyncio.sleep(2)
        await asyncio.to_thread(base_backup, server, copy)
        await asyncio.sleep(5)
        await asyncio.to_thread(server.kill)
        shutil.rmtree(server.data)
        copy.rename(server.data)
        async with play.fault():
            await asyncio.to_thread(server.start)
            await until_named(play, BEHIND)
        assert await recovered_if_behind(play), "nothing was lost, so nothing was tested"


BEHIND: Final = "behind"


async def until_named(play: Play, pattern: str, seconds: float = 40) -> None:
    """Waits until the service has said this, for a limited time: the outcome says whether it has."""
    with suppress(AssertionError):
        await until(lambda: play.watch.first(pattern, play.began) is not None, seconds, lambda: pattern)


async def recovered_if_behind(play: Play) -> bool:
    """Does what the runbook says where the database is behind its topics. Returns whether it was."""
    await asyncio.sleep(3)
    found = await asyncio.to_thread(play.world.sql, "select state from els.recovery where state <> 'none'")
    if not found:
        return False
    await asyncio.to_thread(lambda: els("recover", "--acts", "/dev/null", **play.world.settings))
    play.end_fault()
    return True


CELLS: Final = [
    Cell("read-only for 15 s", ONE, read_only, names="read.?only", in_ci=True),
    Cell("a table locked for 30 s", ONE, lock, names="transactions: |database: .*lock|waits? for"),
    Cell("sessions ended again and again", ONE, end_sessions),
    Cell("a backup restored", ONE, restore, names=BEHIND, spoils=True),
    Cell("the pooler restarted", Kind(pooler="session"), through_pooler),
    Cell("the pooler restarted", Kind(pooler="transaction"), through_pooler),
    Cell("sessions ended again and again", Kind(pooler="session"), end_sessions),
    Cell("sessions ended again and again", Kind(pooler="transaction"), end_sessions),
    Cell(
        "the pooler is not declared",
        Kind(pooler="session"),
        undeclared_pooler,
        names="ELS_DATABASE_POOLER to session",
        spoils=True,
    ),
    Cell("the pooler is not declared", Kind(pooler="transaction"), undeclared_pooler, names="pooler", spoils=True),
    Cell("the name points to the standby for 5 s", ASYNC, name_points_to_standby, names="read.?only|standby"),
    Cell("failover", ASYNC, fail_over, spoils=True),
    Cell("failover that loses commits", ASYNC, fail_over_with_loss, names=BEHIND, spoils=True),
    Cell("the standby away for 15 s", SYNC, standby_away, names="standby"),
    Cell("failover", SYNC, fail_over_synchronously, spoils=True),
    Cell("failover while commits wait", SYNC, fail_over_while_commits_wait, spoils=True),
]
