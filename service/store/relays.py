"""Which relay has which shards of the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg import AsyncConnection

from service.postgres.arrays import Integers
from service.postgres.statements import STATEMENTS

SHARDS = 64
"""How many shards the outbox has: a generated column of the schema."""


@dataclass(frozen=True, slots=True)
class Share:
    """The shards that a relay had, those that it got just now, and how many it should have."""

    held: tuple[int, ...]
    taken: tuple[int, ...]
    fair: int


async def prepare_relay(conn: AsyncConnection) -> None:
    """Settings of this transaction: commits that need not be durable."""
    await conn.execute(STATEMENTS["prepare_relay"])


async def renew_relay(conn: AsyncConnection, relay: UUID, lease: float) -> None:
    """The relay lives for another `lease` seconds."""
    await conn.execute(STATEMENTS["renew_relay"], {"relay": relay, "lease": lease})


async def share_shards(conn: AsyncConnection, relay: UUID) -> Share:
    """Take free shards up to the fair share."""
    cursor = await conn.execute(STATEMENTS["share_shards"], {"relay": relay}, binary=True)
    ((held, taken, fair),) = await cursor.fetchall()
    return Share(tuple(held), tuple(taken), int(fair))


async def give_back_shards(conn: AsyncConnection, relay: UUID, shards: Sequence[int]) -> None:
    """Shards beyond the fair share are free for others."""
    await conn.execute(STATEMENTS["give_back_shards"], {"relay": relay, "shards": Integers(shards)})


async def leave_relay(conn: AsyncConnection, relay: UUID) -> None:
    """The relay ends: all its shards are free."""
    await conn.execute(STATEMENTS["leave_relay"], {"relay": relay})


async def notify_relays(conn: AsyncConnection) -> None:
    """Wake the relays of other pods; in a transaction of its own."""
    await conn.execute(STATEMENTS["notify_relays"])
