"""What happens to clocks: that of the database, or of a pod, jumps by two days. Nothing may expire."""

import asyncio
from typing import Final

from deploy.servers.moved_clock import Clock, MovedPostgres
from deploy.servers.pods import until
from tests.prove.field import traffic
from tests.prove.field.environment import PURGE_SECONDS, Kind
from tests.prove.field.play import Cell, Play
from tests.prove.field.topics import REGISTERED

MOVED: Final = Kind(movable_clock=True)
TWO_DAYS: Final = 2 * 86_400
HELD: Final = "the purge is held: .*clock"


async def database(play: Play, seconds: int) -> None:
    """The database's clock jumps, and jumps back after 20 s, while content waits for its registration.

    Meanwhile a pod is killed: what it holds until a time of that clock must become free all the same.
    """
    server, one = play.world.postgres, play.world.pods.all[0]
    assert isinstance(server, MovedPostgres)
    early = await _early(play)
    async with play.load():
        await asyncio.sleep(2 * PURGE_SECONDS)
        async with play.fault():
            server.clock.move(seconds)
            await asyncio.sleep(18)
            play.watch.down.add(0)
            one.kill()
            await asyncio.sleep(2)
            server.clock.move(0)
            one.start()
            play.watch.down.clear()
        await asyncio.sleep(2)
    await _registered(play, early)


async def pod(play: Play) -> None:
    """The clock of a pod jumps, and jumps back after 20 s."""
    one = play.world.pods.all[0]
    clock = Clock(one._log.with_suffix(".clock"))
    right = one._environment
    early = await _early(play)
    play.watch.down.add(0)
    one.kill()
    one._environment = {**right, **clock.environment}
    one.start()
    await one.ready()
    play.watch.down.clear()
    async with play.load():
        await asyncio.sleep(2 * PURGE_SECONDS)
        async with play.fault():
            clock.move(TWO_DAYS)
            await asyncio.sleep(20)
            clock.move(0)
        await asyncio.sleep(2)
    one._environment = right
    await _registered(play, early)


async def _early(play: Play) -> list[traffic.Record]:
    """Sends content without registrations. Returns these."""
    some = play.batches(40)
    await play.send([record for record in some if record.topic != REGISTERED])
    return [record for record in some if record.topic == REGISTERED]


async def _registered(play: Play, registrations: list[traffic.Record]) -> None:
    """Sends the registrations at last: all content must still wait for them."""
    ((expired,),) = await asyncio.to_thread(
        play.world.sql, "select count(*) from els.pending_content where state = 'expired'"
    )
    assert expired == 0, f"{expired} contents have expired"

    def is_corrected() -> bool:
        query = "select count(*) from els.progress where applied_until > now() + interval '1 hour'"
        return play.world.sql(query) == [(0,)]

    await until(is_corrected, 20, lambda: "partitions count as applied up to a time that has not come", every=1)
    await play.send(registrations)


CELLS: Final = [
    Cell("the database's clock two days ahead for 20 s", MOVED, lambda play: database(play, TWO_DAYS), names=HELD),
    Cell("the database's clock two days back for 20 s", MOVED, lambda play: database(play, -TWO_DAYS), names=HELD),
    Cell("a pod's clock two days ahead for 20 s", MOVED, pod, names=HELD, spoils=True),
]
