"""Defines the options of the commands that split or move a cell."""

import argparse

from service.cli.arguments import Commands, add, age, group, with_json, with_operator


def add_cells(commands: Commands) -> None:
    """Add the commands that split or move a cell."""
    cells = group(commands, "cells", "split a cell in two, or move it to another server")
    split = add(
        cells,
        "cli.cells.cells_split",
        "split",
        "make two cells of this one: the standby of its database becomes the database of the second",
    )
    _transfer(split)
    move = add(
        cells, "cli.cells.cells_move", "move", "move this cell to the standby of its database; the old one is closed"
    )
    _transfer(move)


def _transfer(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run", action="store_true", help="only check the standby and say what would be done; change nothing"
    )
    command.add_argument(
        "--cancel", action="store_true", help="end what has begun, as long as neither database has a new slice"
    )
    command.add_argument(
        "--no-promote",
        action="store_true",
        help="do not promote the standby: wait until somebody else, or another tool, has",
    )
    command.add_argument(
        "--lag",
        type=age,
        default=10.0,
        metavar="TIME",
        help="do not begin where the standby needs longer to replay what is written now (90s, 5m; default 10s)",
    )
    command.add_argument(
        "--wait",
        type=age,
        default=60.0,
        metavar="TIME",
        help="how long a step may keep the pods waiting before it gives up (default 60s)",
    )
    with_operator(with_json(command))
