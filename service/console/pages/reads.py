"""Provides what the pages share: where they read from, the parameters of an address, and what a page is."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg
from aiokafka.errors import KafkaError
from psycopg import AsyncConnection

from service.console.outages import Outages
from service.console.samples import Samples
from service.kafka.offsets import OffsetsSource, TopicOffsets
from service.operators import parameters
from service.operators.errors import InvalidRequest, TooSlow, Unavailable, operation_error
from service.operators.operations import Operations
from service.postgres.pool import Database
from service.store import monitoring

ROWS: Final = 50
"""Rows of a list."""

HEALTH_SECONDS: Final = 3.0
"""How old the verdict of the overview may be: whoever reloads it all the time does not burden the database."""


PAGE_SECONDS: Final = 15.0
"""How long a page may read; each of its statements has a shorter time limit of its own."""


@dataclass(slots=True)
class Reads:
    """Where the pages read from. `operations` are of the console's own sessions, whose timeouts are short."""

    database: Database
    operations: Operations
    offsets: OffsetsSource
    samples: Samples | None
    """The numbers of the last hour; None of a cell that is not that of this process."""
    outages: Outages
    check: Callable[[], Awaitable[Sequence[Any]]]
    """Returns the rows of `check`: about, is_good, message."""
    _health: tuple[float, Mapping[str, Any]] | None = None
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _checking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def tables(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Open a transaction. Raises OperationError; at once where the database is known to be unavailable."""
        if known := await self.unavailable():
            raise known
        try:
            async with self.database.transaction() as conn:
                yield conn
        except psycopg.Error as error:
            self.outages.forget()
            raise operation_error(error) from None

    async def health(self) -> Mapping[str, Any]:
        """Read ops.health; at most once in `HEALTH_SECONDS`, for everybody. Raises OperationError."""
        async with self._reading:
            if self._health is None or time.monotonic() - self._health[0] > HEALTH_SECONDS:
                async with self.tables() as conn:
                    self._health = time.monotonic(), await monitoring.watch_health(conn)
            return self._health[1]

    async def checked(self) -> Sequence[Any]:
        """Returns the rows of `check`; one check runs at a time."""
        async with self._checking:
            return await self.check()

    def forget(self) -> None:
        """Read the verdict anew: something was changed."""
        self._health = None

    async def unavailable(self) -> Unavailable | None:
        """Returns that the database cannot be read, as far as is known."""
        outage = next((each for each in await self.outages.read() if each.about == "database"), None)
        return outage and Unavailable(f"{outage.text} {outage.follows}")

    async def broker(self) -> TopicOffsets | None:
        """Read the offsets of the topics. Returns None where the broker cannot be read."""
        try:
            return await self.offsets.read()
        except (KafkaError, OSError, TimeoutError):
            return None


@asynccontextmanager
async def read_in_time(seconds: float | None) -> AsyncIterator[None]:
    """Limit the time of what a page reads; None stands for `PAGE_SECONDS`. Raises TooSlow."""
    limit = seconds or PAGE_SECONDS
    try:
        async with asyncio.timeout(limit):
            yield
    except TimeoutError:
        raise TooSlow(f"This has taken longer than {limit:.0f} s.") from None


class Query:
    """The parameters of an address. Every method raises InvalidRequest."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def text(self, name: str) -> str | None:
        """Returns a short text; None where it is not given."""
        text: str | None = self._read(name, parameters.short_text)
        return text

    def row_id(self, name: str) -> int | None:
        """Returns the id of a row; None where it is not given."""
        id_: int | None = self._read(name, parameters.row_id)
        return id_

    def position(self, name: str) -> int:
        """Returns the position of a slot, by default 0."""
        return self._read(name, parameters.position) or 0

    def since(self) -> datetime | None:
        """Returns when the time that is asked for begins, in UTC where it has no zone; None where it is not given."""
        at: datetime | None = self._read("since", parameters.moment)
        return at

    def until(self) -> datetime | None:
        """Returns likewise when it ends; a date includes the whole day."""
        at: datetime | None = self._read("until", parameters.moment_end)
        return at

    def ages(self) -> tuple[float | None, float | None]:
        """Returns the same two as ages in seconds."""
        return self._read("since", parameters.age_since), self._read("until", parameters.age_until)

    def required(self, name: str) -> str:
        """Returns a short text that must be given."""
        if (text := self.text(name)) is None:
            raise InvalidRequest(f"{name} is missing")
        return text

    def _read(self, name: str, read: Callable[[str], Any]) -> Any:
        given = self._given.get(name, "")
        if not given:
            return None
        try:
            return read(given)
        except ValueError as error:
            raise InvalidRequest(f"{name}: {error}") from None


@dataclass(frozen=True, slots=True)
class ConsolePage:
    """A page: its address below /console/, its title, its template, and what it shows.

    `read` returns the values of the template, and raises OperationError.
    """

    path: str
    title: str
    template: str
    read: Callable[[Reads, Query], Awaitable[Mapping[str, Any]]]
    is_in_menu: bool = True
    read_all: Callable[[Mapping[int, Reads], Query], Awaitable[Mapping[str, Any]]] | None = None
    """Reads what it shows of all cells together, where there are several."""
    template_of_all: str = ""
    """The template for that, where it is another one."""
    is_of_all: bool = False
    """Whether it shows all cells even where one is selected."""
    batch: str = "batch"
    """The parameter that may be the id of a batch: then the page shows the cell that has it."""
    shows_persons: bool = True
    """Whether it shows names of files or persons: then who reads it is logged."""
    needs_database: bool = True
    """Whether it has nothing to show while the database cannot be read."""
    seconds: float | None = None
    """How long it may take, where that is not `PAGE_SECONDS`."""
