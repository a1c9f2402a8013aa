"""Splits and moves cells under load, with commands and servers that are killed at random moments."""

import asyncio
import random
import tempfile
import time
import traceback
from pathlib import Path
from typing import Final

from deploy.local.postgres import Postgres
from deploy.servers import brokers, databases
from deploy.servers.brokers import PARTITIONS
from deploy.servers.standby import Standby
from tests.acceptance.test_split import KILLS, Plan, check_round
from tests.prove.report import Row, Task

CELL_ROUNDS: Final = {
    "one cell is split into two": Plan("split"),
    "two cells are split into four": Plan("split", 2),
    "a cell is moved": Plan("move"),
    "a split that nothing disturbs": Plan("split", kills=()),
}
"""The last one says how long the silence is."""


def _plan(dice: random.Random, of: Plan) -> Plan:
    """Returns the plan with some of the kills; the servers are killed, too."""
    if not of.kills:
        return of
    kills = [kill for kill in KILLS if dice.random() < 0.4]

    async def disturb(server: Postgres, standby: Standby) -> None:
        for _ in range(dice.choice((0, 1, 2))):
            await asyncio.sleep(dice.uniform(0.5, 2.5))
            which = dice.choice((server, standby))
            await asyncio.to_thread(which.kill)
            await asyncio.sleep(dice.uniform(0, 1))
            await asyncio.to_thread(which.start)

    return Plan(of.kind, of.cells, kills, disturb)


async def split_cells(
    server: str, template: str, task: Task, *, rounds: int, apache: bool, only: str = ""
) -> list[Row]:
    """Runs rounds, one of each kind after the other, until there were so many, or the time is over."""
    rows = {name: Row("cells", name, unit="rounds") for name in CELL_ROUNDS if only in name}
    with brokers.apache() if apache else brokers.tansu() as broker:
        for number in range(rounds):
            if task.is_over:
                break
            name = list(rows)[number % len(rows)]
            seed, row, started = task.seed * 1_000_000 + number, rows[name], time.monotonic()
            dice = random.Random(seed)
            task.report(f"{name}; round {number + 1} of {rounds}")
            await broker.create_topics(PARTITIONS)
            with (
                databases.cloned(server, template) as union,
                databases.embedded_server(durable=True) as postgres,
                tempfile.TemporaryDirectory() as folder,
            ):
                try:
                    seen = await check_round(
                        Path(folder), postgres, broker, f"cells-{seed}", union, _plan(dice, CELL_ROUNDS[name])
                    )
                except Exception as error:  # noqa: BLE001  every error is reported with its seed
                    where = traceback.extract_tb(error.__traceback__)[-1]
                    row.found.append(f"seed {seed}: {type(error).__name__} in {where.line}: {error}")
                else:
                    row.add(
                        Row(
                            "cells",
                            name,
                            more={
                                "longest fence, s": seen.fenced_seconds,
                                "longest silence, s": seen.silent_seconds,
                                "repeats": seen.repeats,
                            },
                        )
                    )
            await brokers.delete_topics(broker.bootstrap_servers)
            row.runs += 1
            row.seconds += time.monotonic() - started
    return list(rows.values())
