"""Implements the commands that split a cell, or move it to another server.

They connect as the owner of the schema, and directly, not through a pooler.
"""

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import psycopg

from service.cells.beginning import TransferError, TransferOptions
from service.cells.servers import Server
from service.cells.transfer import STEPS, Performed, Transfer, perform
from service.cli.operations import operator_of
from service.cli.output import CommandError, UsageError, print_json, warn
from service.domain.cells import Slice
from service.runtime.errors import one_line
from service.settings import Settings
from service.store.cells import Kind

_MIGRATION_URL = "ELS_MIGRATION_DATABASE_URL"
_STANDBY_URL = "ELS_STANDBY_DATABASE_URL"


@dataclass(frozen=True, slots=True)
class _Half:
    """What the pods of a database are set to afterwards, and how long they had to wait for it."""

    cells: int
    cell: int
    database: str
    group: str
    fenced_seconds: float


async def cells_split(settings: Settings, options: Namespace) -> int:
    """Make two cells of one."""
    return await _transfer(settings, options, "split")


async def cells_move(settings: Settings, options: Namespace) -> int:
    """Move a cell to another server."""
    return await _transfer(settings, options, "move")


async def _transfer(settings: Settings, options: Namespace, kind: Kind) -> int:
    wanted = TransferOptions(
        kind,
        settings.slice,
        operator_of(options),
        most_lag=options.lag,
        most_wait=options.wait,
        promotes=not options.no_promote,
    )
    if settings.standby_database_url is None:
        raise UsageError(f"{_STANDBY_URL}: is needed, the URL of the standby")
    here = Server(settings.migration_url, _MIGRATION_URL)
    there = Server(settings.standby_database_url.get_secret_value(), _STANDBY_URL)
    transfer = Transfer(here, there, wanted, warn)
    try:
        if options.cancel:
            return await _cancel(transfer)
        if options.dry_run:
            return await _rehearse(transfer, options)
        return await _perform(settings, transfer, options)
    except TransferError as error:
        raise CommandError(str(error)) from None
    except psycopg.Error as error:
        raise CommandError(f"{one_line(error)}; run it again: it goes on where it was (or --cancel)") from None
    finally:
        await here.close()
        await there.close()


async def _cancel(transfer: Transfer) -> int:
    if not await transfer.cancel():
        raise CommandError("there is nothing to cancel: the database is not fenced")
    print("Cancelled: the fence is taken away, and pods go on as before. Build the standby anew if it was promoted.")
    return 0


async def _rehearse(transfer: Transfer, options: Namespace) -> int:
    said = await transfer.check()
    counts, left = await transfer.counts(), await transfer.leftovers()
    would = [name for name, _ in STEPS[1:]]
    if options.json:
        print_json({"check": said, "would": would, "would_delete": counts, "left": left})
        return 0
    print(f"check: {said}")
    print(f"would: {', '.join(would)}; from `hand over` on there is no way back")
    for half, tables in counts.items():
        rows = ", ".join(f"{count} of {table}" for table, count in tables.items())
        print(f"{half} would lose, to the other: {rows or 'no rows'}")
    for line in left:
        warn(line)
    return 0


async def _perform(settings: Settings, transfer: Transfer, options: Namespace) -> int:
    steps: list[Performed] = []

    def report(step: Performed) -> None:
        steps.append(step)
        if not options.json:
            print(f"{step.name}: {step.seconds:.2f} s, {step.said}", flush=True)

    await perform(transfer, report)
    halves, left = await _halves(settings, transfer), await transfer.leftovers()
    if options.json:
        print_json(
            {"steps": [step._asdict() for step in steps], "cells": [asdict(each) for each in halves], "left": left}
        )
        return 0
    _print_halves(halves)
    for line in left:
        warn(line)
    return 0


async def _halves(settings: Settings, transfer: Transfer) -> Sequence[_Half]:
    fenced = await transfer.fenced_seconds()
    both = zip((transfer.here, transfer.there), transfer.halves, fenced, strict=True)
    found = [
        _Half(half.cells, half.cell, server.place, settings.consumer_group + half.suffix, round(seconds, 2))
        for server, half, seconds in both
    ]
    return found if transfer.halves[0] != transfer.halves[1] else found[1:]


def _print_halves(halves: Sequence[_Half]) -> None:
    for half in halves:
        print(
            f"{Slice(half.cells, half.cell)}: refused its pods for {half.fenced_seconds:.2f} s. Start them with"
            f" ELS_CELLS={half.cells} ELS_CELL={half.cell}, ELS_DATABASE_URL at {half.database} (group {half.group})."
        )
