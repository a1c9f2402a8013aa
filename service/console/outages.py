"""Finds out what cannot be shown or done now, for a line on each page: a server that is down, a recovery."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import psycopg

from service.kafka.offsets import OffsetsSource
from service.postgres import schema
from service.postgres.pool import Database
from service.runtime.errors import one_line
from service.store import progress

KNOWN_SECONDS: Final = 3.0
"""How old the state that pages show may be: however many look, the database is asked once in that time."""

DATABASE_ANSWER_SECONDS: Final = 3.0
"""A database that takes longer for a few short reads counts as unavailable."""


class Outage(NamedTuple):
    """Something that is not as it should be, in one line, and what follows from it."""

    about: Literal["database", "schema", "recovery", "broker"]
    text: str
    follows: str

    @property
    def forbids_actions(self) -> bool:
        """Returns whether no action can be performed until it ends."""
        return self.about != "broker"


class Outages:
    """Asks the database; of the broker, it knows what the last read of the offsets has found."""

    def __init__(self, database: Database, offsets: OffsetsSource) -> None:
        self._database = database
        self._offsets = offsets
        self._known: Outage | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def read(self) -> Sequence[Outage]:
        """Returns what is known: at most `KNOWN_SECONDS` old of the database, one sample old of the broker."""
        async with self._reading:
            if time.monotonic() - self._read_at > KNOWN_SECONDS:
                self._known = await self._ask()
                self._read_at = time.monotonic()
        found = [self._known] if self._known else []
        if (error := self._offsets.error) is not None:
            follows = "Lag and ends of the topics are not known. Nothing is lost: events wait in the outbox."
            found.append(Outage("broker", f"The broker is unavailable: {one_line(error, 200)}.", follows))
        return found

    def forget(self) -> None:
        """Ask the database anew next time."""
        self._read_at = float("-inf")

    async def _ask(self) -> Outage | None:
        try:
            async with asyncio.timeout(DATABASE_ANSWER_SECONDS), self._database.transaction() as conn:
                if error := await schema.read_schema_error(conn):
                    return Outage("schema", _sentence(error), "Until then pages may fail, and no action is performed.")
                if error := (await progress.read_database_state(conn)).error:
                    return Outage("recovery", _sentence(error), "Until that has ended, no action is performed.")
        except TimeoutError:
            return _unavailable(f"it has not answered within {DATABASE_ANSWER_SECONDS:.0f} s")
        except psycopg.Error as error:
            return _unavailable(one_line(error))
        return None


def _unavailable(why: str) -> Outage:
    follows = "Nothing is lost: records wait in Kafka, and the pods continue by themselves when the database answers."
    return Outage("database", f"The database is unavailable: {why}.", follows)


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:].rstrip('.')}."
