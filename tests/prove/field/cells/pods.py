"""What happens to pods: killed, frozen, deployed one after the other; and to single servers, with 17 and 18."""

import asyncio
import os
import signal
from typing import Final

from tests.prove.field.environment import Kind
from tests.prove.field.play import Cell, Play

ONE: Final = Kind()


async def kill(play: Play) -> None:
    """A pod is killed and started."""
    pod = play.world.pods.all[0]
    async with play.load():
        async with play.fault():
            play.watch.down.add(0)
            pod.kill()
            await asyncio.sleep(3)
            pod.start()
            play.watch.down.clear()
        await asyncio.sleep(5)


async def freeze(play: Play) -> None:
    """A pod stands still for 20 s, longer than its session, and goes on with what it had in its hands."""
    pod = play.world.pods.all[0]
    async with play.load():
        async with play.fault():
            play.watch.down.add(0)
            os.kill(pod.pid, signal.SIGSTOP)
            await asyncio.sleep(20)
            os.kill(pod.pid, signal.SIGCONT)
            play.watch.down.clear()
        await asyncio.sleep(5)


async def deploy(play: Play) -> None:
    """Pods are replaced one after the other, as a rolling deployment does."""
    async with play.load(), play.fault():
        for number, pod in enumerate(play.world.pods.all):
            play.watch.down.add(number)
            pod.terminate()
            await pod.ended()
            pod.start()
            await pod.ready()
            play.watch.down.clear()


async def kill_postgres(play: Play) -> None:
    """The database is killed, and is away for 12 s."""
    async with play.load(), play.fault():
        await asyncio.to_thread(play.world.postgres.kill)
        await asyncio.sleep(12)
        await asyncio.to_thread(play.world.postgres.start)


async def restart_postgres(play: Play) -> None:
    """The database is stopped and started."""
    async with play.load(), play.fault():
        await asyncio.to_thread(play.world.postgres.stop)
        await asyncio.to_thread(play.world.postgres.start)


async def kill_broker(play: Play) -> None:
    """The only broker is killed, and is away for 12 s."""
    async with play.load(), play.fault():
        await asyncio.to_thread(play.world.kafka.server.kill)
        await asyncio.sleep(12)
        await asyncio.to_thread(play.world.kafka.server.start)


async def restart_broker(play: Play) -> None:
    """The only broker is stopped and started."""
    async with play.load(), play.fault():
        await asyncio.to_thread(play.world.kafka.server.stop)
        await asyncio.to_thread(play.world.kafka.server.start)


CELLS: Final = [
    Cell("a pod killed", ONE, kill, in_ci=True),
    Cell("a pod frozen for 20 s", ONE, freeze),
    Cell("rolling deployment of all pods", ONE, deploy),
    Cell("a pod frozen for 20 s", Kind(brokers=3), freeze),
    Cell("rolling deployment of all pods", Kind(brokers=3), deploy),
    Cell("rolling deployment of all pods", Kind(pooler="transaction"), deploy),
    Cell("the only broker killed", ONE, kill_broker, names="broker"),
    Cell("the only broker restarted", ONE, restart_broker),
    Cell("PostgreSQL killed", ONE, kill_postgres, names="database: "),
    Cell("PostgreSQL restarted", ONE, restart_postgres, in_ci=True),
    Cell("PostgreSQL killed", Kind(postgres=17), kill_postgres, names="database: "),
    Cell("PostgreSQL restarted", Kind(postgres=17), restart_postgres),
]
