"""Shares the shards of the outbox among the relays, by leases.

Each function runs in the caller's transaction. Each raises psycopg.Error.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from service.postgres.arrays import Integers
from service.postgres.queries import fetch_rows
from service.postgres.statements import STATEMENTS

SHARDS = 64
"""How many shards the outbox has. A generated column of the table computes the shard of a row."""


@dataclass(frozen=True, slots=True)
class Share:
    """The shards that a relay held already, those that it took just now, and how many it should hold."""

    held: tuple[int, ...]
    taken: tuple[int, ...]
    fair: int


async def prepare_relay(conn: AsyncConnection) -> None:
    """Set options of this transaction: its commit need not be durable."""
    await conn.execute(STATEMENTS["prepare_relay"])


async def renew_relay(conn: AsyncConnection, relay: UUID, lease: float) -> None:
    """Renew the lease of a relay for `lease` seconds from now."""
    await conn.execute(STATEMENTS["renew_relay"], {"relay": relay, "lease": lease})


async def end_previous_format(conn: AsyncConnection) -> None:
    """Begin to write a row for each batch and transaction, once no relay of the previous release is left.

    Until then the service writes a row for each event, which such a relay can read. Afterwards such a relay is refused.
    """
    if await (await conn.execute(STATEMENTS["lock_format"])).fetchall():
        await conn.execute(STATEMENTS["end_previous_format"])


async def share_shards(conn: AsyncConnection, relay: UUID) -> Share:
    """Take free shards, up to the relay's fair share."""
    cursor = await conn.execute(STATEMENTS["share_shards"], {"relay": relay}, binary=True)
    ((held, taken, fair),) = await cursor.fetchall()
    return Share(tuple(held), tuple(taken), int(fair))


async def give_back_shards(conn: AsyncConnection, relay: UUID, shards: Sequence[int]) -> None:
    """Free these shards of a relay, for other relays."""
    await conn.execute(STATEMENTS["give_back_shards"], {"relay": relay, "shards": Integers(shards)})


async def leave_relay(conn: AsyncConnection, relay: UUID) -> None:
    """Remove a relay that ends, and free all its shards."""
    await conn.execute(STATEMENTS["leave_relay"], {"relay": relay})


async def notify_relays(conn: AsyncConnection) -> None:
    """Wake the relays of other pods. Run it in a transaction of its own: its commit waits for a global lock."""
    await conn.execute(STATEMENTS["notify_relays"])


async def serves_previous_release(conn: AsyncConnection) -> bool:
    """Read whether pods of the previous release may be alive."""
    return (await (await conn.execute(STATEMENTS["read_format"])).fetchall()) == [(True,)]


async def count_relays(conn: AsyncConnection[Any]) -> int:
    """Count the relays that run, in the caller's transaction. Raises psycopg.Error."""
    ((count,),) = await fetch_rows(conn, "count_relays")
    return int(count)
