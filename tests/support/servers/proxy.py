"""A TCP proxy on loopback that can reset, stall, delay, lose or never answer its connections."""

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final

from aiokafka.conn import create_conn

from deploy.local.processes import LOOPBACK

CHUNK: Final = 256 * 1024
TCP_REPAIR: Final = 19
"""A socket option of Linux: closing a socket in repair mode sends nothing to the peer. Needs CAP_NET_ADMIN."""


def may_forget() -> bool:
    """Returns whether `Proxy.forget` is allowed here."""
    with socket.socket() as one:
        try:
            one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            return False
    return True


class Proxy:
    """Passes bytes on between clients of `port` and the target port."""

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
        """Starts to listen and sets `port`."""
        self._server = await asyncio.start_server(self._serve, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Stops to listen and resets all connections."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> int:
        """Resets all open connections. Returns their number."""
        links = list(self._links)
        for link in links:
            link.abort()
        return len(links)

    def point_to(self, target: int) -> None:
        """Passes new connections on to another port, as a name does that is changed."""
        self._target = target

    def stall(self) -> None:
        """Passes nothing on until `flow`; new connections are accepted but not answered."""
        self._flows.clear()

    def slow(self, seconds: float) -> None:
        """Delays all data by `seconds`, until `flow`."""
        self._delay = seconds

    def flow(self) -> None:
        """Passes everything on without delay, including what was held back."""
        self._delay = 0.0
        self._flows.set()

    def forget(self) -> int:
        """Loses all open connections without closing them, as a machine does after a power failure.

        A client that sends notices it; a client that waits for an answer does not. Raises OSError if not allowed.
        """
        links = list(self._links)
        for link in links:
            link.be_silent()
            link.abort()
        return len(links)

    def swallow(self) -> int:
        """Acknowledges all data on open connections from now on, and never answers it.

        Closes their connections to the server, since nobody else could and the server has a limit.
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
    """Replaces `aiokafka.client.create_conn`, since the broker advertises its own port to clients."""
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
