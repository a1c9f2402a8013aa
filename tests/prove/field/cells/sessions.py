"""What happens to sessions of the database: too few for all pods, cut short by settings; and who keeps dead rows."""

import asyncio
from contextlib import suppress
from typing import Final

import psycopg

from deploy.servers.pods import until
from tests.prove.field.cells.databases import until_named
from tests.prove.field.environment import Kind
from tests.prove.field.play import Cell, Play

ONE: Final = Kind()
ASYNC: Final = Kind(standby="async")
PODS: Final = 12
TWELVE: Final = Kind(pods=PODS, sessions=200)
NEEDED: Final = PODS * (6 + 3)
"""By the formula of docs/deployment.md, without /admin/ and without the 10 of everybody else."""
SLOT_SECONDS: Final = 300.0
"""ops.health names a replication slot that has been inactive for longer: a reader may be restarted."""
BURN: Final = "do $$ begin for i in 1..20001 loop perform pg_current_xact_id(); commit; end loop; end $$"
"""Uses up so many transactions, each without any effect: more than a standby may hold back unnoticed."""


async def many_pods(play: Play) -> None:
    """Twelve pods work, are killed and start again at once: they need no more sessions than the formula says."""
    assert not await _check(play, ELS_MAX_PODS=str(PODS)), "`check` complains of a server that allows enough"
    counting = asyncio.create_task(_count_sessions(play))
    try:
        async with play.load():
            await asyncio.sleep(5)
            async with play.fault():
                play.watch.down |= set(range(PODS))
                for pod in play.world.pods.all:
                    pod.kill()
                for pod in play.world.pods.all:
                    pod.start()
                await play.world.pods.ready()
                play.watch.down.clear()
            await asyncio.sleep(5)
    finally:
        counting.cancel()
        with suppress(asyncio.CancelledError):
            await counting


async def too_many_pods(play: Play) -> None:
    """`check` compares what the pods need with what the server allows, also where the pods have what they need now."""
    allowed = int(str(play.world.sql("show max_connections")[0][0])) - 3
    pods = allowed // 9 + 1
    async with play.load(), play.fault():
        needs = f"max_connections without the reserved ones is {allowed} and should be {pods * 9 + 10}"
        await play.run("check", names=f"too few connections: {needs}", ELS_MAX_PODS=str(pods))
    assert not await _check(play, ELS_MAX_PODS=str((allowed - 10) // 9)), "`check` complains of enough"


async def limit(play: Play) -> None:
    """The role of the pods may open fewer sessions than they need, for 15 s."""
    async with play.load(), play.fault():
        await asyncio.to_thread(play.world.sql, "alter role els_app connection limit 3")
        await asyncio.to_thread(play.world.sql, END_SESSIONS)
        await play.run("check", names="too few connections|too many connections")
        await asyncio.sleep(15)
        await asyncio.to_thread(play.world.sql, "alter role els_app connection limit -1")


async def role_with_timeout(play: Play) -> None:
    """Behind a transaction pooler, the settings are those of the role: somebody gave it a timeout of 15 ms."""
    world = play.world
    ((before,),) = world.sql("select setconfig from pg_db_role_setting join pg_roles on oid = setrole"
                             " where rolname = 'els_app' and setdatabase = 0") or [(None,)]  # fmt: skip
    async with play.load(), play.fault():
        await asyncio.to_thread(world.sql, "alter role els_app set statement_timeout = '15ms'")
        await asyncio.to_thread(world.sql, END_SESSIONS)
        await play.run("check", names="timeouts: statement_timeout is 15 ms")
        await asyncio.sleep(10)
        await asyncio.to_thread(world.sql, "alter role els_app reset statement_timeout")
        for setting in before or ():
            name, value = str(setting).split("=", 1)
            await asyncio.to_thread(world.sql, f"alter role els_app set {name} = '{value}'")
        await asyncio.to_thread(world.sql, END_SESSIONS)


async def abandoned_slot(play: Play) -> None:
    """A logical replication slot is left behind; dead rows of catalogs and WAL are kept until somebody drops it."""
    world = play.world
    await asyncio.to_thread(world.sql, "alter system set wal_level = logical")
    await asyncio.to_thread(world.postgres.stop)
    await asyncio.to_thread(world.postgres.start)
    async with play.load(rate=2):
        async with play.fault():
            await asyncio.to_thread(world.sql, "select pg_create_logical_replication_slot('abandoned', 'pgoutput')")
            await until_named(play, "replication slots are inactive.*abandoned", SLOT_SECONDS + 15)
            await _note_sizes(play, "with the slot")
            await asyncio.to_thread(world.sql, "select pg_drop_replication_slot('abandoned')")
        await _until_silent(play, "replication slots")


async def standby_that_reads(play: Play) -> None:
    """A transaction on a standby with hot standby feedback keeps dead rows on the primary."""
    world, standby = play.world, play.world.standby
    assert standby is not None
    await asyncio.to_thread(standby.feed_back)
    async with play.load():
        with psycopg.connect(standby.url()) as reader:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            reader.execute("select count(*) from els.batches")
            await asyncio.sleep(10)
            async with play.fault():
                await asyncio.to_thread(world.sql, BURN)
                await until_named(play, "kept for a standby")
                await _note_sizes(play, "while it reads")
                reader.rollback()
        await _until_silent(play, "kept for a standby")


END_SESSIONS: Final = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'els_app'"


async def _check(play: Play, **settings: str) -> list[str]:
    return [line for line in await play.run("check", **settings) if "connections" in line]


async def _count_sessions(play: Play) -> None:
    """Notes the greatest number of sessions of the pods; more than they should need is an error."""
    most = 0
    with psycopg.connect(play.world.url(), autocommit=True) as conn:
        while True:
            row = conn.execute("select count(*) from pg_stat_activity where usename = 'els_app'").fetchone()
            if row and row[0] > most:
                most = row[0]
                play.notes = [f"{most} sessions of {NEEDED}"]
            assert most <= NEEDED, f"{most} sessions, and the formula says {NEEDED}"
            await asyncio.sleep(0.1)


async def _note_sizes(play: Play, when: str) -> None:
    ((size,),) = await asyncio.to_thread(
        play.world.sql, "select pg_size_pretty(sum(pg_total_relation_size(relid))) from pg_stat_user_tables"
        " where schemaname = 'els' and relname like 'outbox%'"
    )  # fmt: skip
    play.notes.append(f"the outbox has {size} {when}")


async def _until_silent(play: Play, pattern: str) -> None:
    """Waits until it is not said any more."""
    await until(lambda: not play.watch.says(pattern), 30, lambda: f"{pattern} is still said")


CELLS: Final = [
    Cell("12 pods killed and started at once", TWELVE, many_pods),
    Cell("more pods than the server allows sessions for", ONE, too_many_pods, names="too few connections"),
    Cell("3 sessions for two pods, for 15 s", ONE, limit, names="pod .*too few connections"),
    Cell("a role with a timeout of 15 ms", Kind(pooler="transaction"), role_with_timeout,
         names="statement_timeout is 15 ms"),
    Cell("an abandoned replication slot", ONE, abandoned_slot, names="replication slots are inactive",
         reported_within=SLOT_SECONDS + 15, lasts=SLOT_SECONDS + 200, spoils=True),
    Cell("a standby that reads, with feedback", ASYNC, standby_that_reads, names="kept for a standby"),
]  # fmt: skip
