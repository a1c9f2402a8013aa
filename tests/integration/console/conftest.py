"""Serves the console in this process, without a broker."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http.cookies import SimpleCookie
from typing import Any

import psycopg
import pytest
from aiohttp import ClientResponse, ClientSession

from service.console.access import Access
from service.console.cells import ConsoleCell, ConsoleCells
from service.console.console import Console
from service.console.outages import Outages
from service.console.pages.reads import Reads
from service.console.samples import Samples
from service.console.session import COOKIE, Person, Sessions, TrustedProxy
from service.domain.cells import Slice
from service.domain.delivery import Delivery, IntakeLimits
from service.domain.input_limits import DEFAULT_LIMITS
from service.environment import Check
from service.http.server import Http
from service.intake.intake import Intake
from service.kafka.offsets import OffsetsReader
from service.operators.operations import Operations
from service.postgres.pool import Database
from service.runtime.health import Health
from service.runtime.tokens import Denials, Tokens
from tests.support.pods.applier import forget
from tests.support.pods.command_line import NOBODY

TOKENS = Tokens("a token of operators", "a token of viewers")


class ServedHere:
    """A console on a free port, and a client of it."""

    def __init__(
        self, url: str, proxy: TrustedProxy | None = None, broker: str = NOBODY, others: Sequence[str] = ()
    ) -> None:
        """With the URLs of others, these are cells, and that of `url` is cell 0."""
        urls = [url, *others]
        slices = [Slice(len(urls), cell) for cell in range(len(urls))]
        self.databases = [Database(each, pool_size=2, of=of) for each, of in zip(urls, slices, strict=True)]
        self.database = self.databases[0]
        self.now = 1_000_000.0
        self.sessions = Sessions(TOKENS, lambda: self.now)
        offsets = OffsetsReader({"bootstrap_servers": broker}, *(f"group{of.suffix}" for of in slices))
        self.samples = Samples(dict, offsets)
        self.cells = ConsoleCells({cell: self._cell(cell, offsets) for cell in range(len(urls))}, 0, range(len(urls)))
        self.outages = self.cells[0].reads.outages
        access = Access(TOKENS, self.sessions, Denials(), proxy)
        application = Console(access, self.cells).application()
        self.http = Http("127.0.0.1", 0, Health(), self._refresh, {"/console/": application})

    def _cell(self, cell: int, offsets: OffsetsReader) -> ConsoleCell:
        database, of_group = self.databases[cell], offsets.of(cell)
        operations = Operations(database, IntakeLimits(), DEFAULT_LIMITS)
        samples = None if cell else self.samples
        reads = Reads(database, operations, of_group, samples, Outages(database, of_group), self._check)
        return ConsoleCell(reads, operations)

    async def _refresh(self) -> None:
        """Refresh nothing."""

    async def _check(self) -> Sequence[Check]:
        return [Check("database", True, "reachable"), Check("topic", False, "<b>missing</b>")]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.http.port}"

    async def take(self, *deliveries: Delivery, cell: int = 0) -> None:
        """Applies records as the consumer would."""
        await Intake(self.databases[cell], IntakeLimits(), Health("database"), forget).take(deliveries)

    def cookie(self, role: Any = "operator") -> dict[str, str]:
        """The cookie of a session that begins now."""
        return {COOKIE: self.sessions.cookie(Person("Åsa", role))}

    async def send(
        self, method: str, path: str, *, role: str | None = "operator", cookies: Any = None, **more: Any
    ) -> tuple[ClientResponse, str]:
        """Sends a request as a page of the console would. Returns the response and its text."""
        headers = {"Origin": self.origin} | more.pop("headers", {})
        sent = cookies if cookies is not None else self.cookie(role) if role else {}
        async with (
            ClientSession(cookies=sent) as client,
            client.request(
                method, f"{self.origin}/console/{path}", headers=headers, allow_redirects=False, **more
            ) as response,
        ):
            return response, await response.text()


@asynccontextmanager
async def served(app_url: str, proxy: TrustedProxy | None = None) -> AsyncIterator[ServedHere]:
    """Serves the console."""
    console = ServedHere(app_url, proxy)
    await console.http.start()
    try:
        yield console
    finally:
        await console.http.close()
        await console.database.close()


@pytest.fixture
async def console(app_url: str) -> AsyncIterator[ServedHere]:
    async with served(app_url) as here:
        yield here


@pytest.fixture
def conn(database_url: str) -> Any:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def set_cookie(response: ClientResponse) -> SimpleCookie:
    """The cookies that a response sets, with their attributes."""
    return SimpleCookie(response.headers.get("Set-Cookie", ""))
