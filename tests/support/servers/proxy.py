"""A TCP proxy on loopback whose connections can be cut, stalled, slowed down, forgotten, and answered by nobody."""

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final

from aiokafka.conn import create_conn

from deploy.local.processes import LOOPBACK

CHUNK: Final = 256 * 1024
TCP_REPAIR: Final = 19
"""Of Linux: a socket that is closed in repair mode says nothing to its peer. For administrators of the network only."""


def may_forget() -> bool:
    """Whether `Proxy.forget` is allowed here."""
    with socket.socket() as one:
        try:
            one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            return False
    return True


class Proxy:
    """Passes bytes on between whoever connects to `port` and the port that it stands for."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._delay = 0.0
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> "Proxy":
        """Listen; from then on it has its port."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Cut everything and listen no more."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> int:
        """Reset all connections that are open; returns how many there were."""
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    def stall(self) -> None:
        """Pass nothing on, and accept connections that answer nothing, until `flow`."""
        self._flows.clear()

    def slow(self, seconds: float) -> None:
        """Hold back each piece so long, until `flow`."""
        self._delay = seconds

    def flow(self) -> None:
        """Pass everything on, at once, also what was held back."""
        self._delay = 0.0
        self._flows.set()

    def forget(self) -> int:
        """Lose all connections that are open without a word, as a machine does that lost its power and came back.

        Who sends on one learns it; who waits for an answer does not. Raises OSError where that is not allowed.
        """
        links = list(self._links)
        for link in links:
            link.be_silent()
            link.abort()
        return len(links)

    def swallow(self) -> int:
        """Acknowledge for ever what comes on the connections that are open, and answer nothing.

        Those of before are closed: nobody is left who could close them, and a server has room for only so many.
        """
        for link in [link for link in self._links if link.dead]:
            link.abort()
        links = [link for link in self._links if not link.dead]
        for link in links:
            link.dead = True
        return len(links)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await self._flows.wait()
            there = await asyncio.open_connection(LOOPBACK, self._target)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, there[1])
        self._links.add(link)
        try:
            await asyncio.gather(self._pass(link, reader, there[1]), self._pass(link, there[0], writer))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            link.abort()
            self._links.discard(link)

    async def _pass(self, link: "_Link", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            if self._delay:
                await asyncio.sleep(self._delay)
            await self._flows.wait()
            if not link.dead:
                writer.write(data)
                await writer.drain()
        if not link.dead:
            with suppress(OSError):
                writer.write_eof()


async def kafka_through(proxy: Proxy, host: str, _: int, **options: Any) -> Any:
    """In the place of `aiokafka.client.create_conn`, as a broker names its own port to its clients."""
    return await create_conn(host, proxy.port, **options)


class _Link:
    """Both ends of one connection."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.dead = False
        self._writers = writers

    def be_silent(self) -> None:
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)

    def abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
