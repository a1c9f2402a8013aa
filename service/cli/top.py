"""Implements the command `top`, which shows the state of the service live in a terminal.

It reads the views of `ops`, as any role that may read them, and the offsets of the broker, and changes nothing. If the
database or the broker is unavailable, it shows the error in the place of the numbers, and tries again.
"""

import asyncio
import os
import re
import sys
import termios
import tty
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import orjson
import psycopg
from rich.console import Console
from rich.live import Live

from service.cli.dashboard import as_json, screen
from service.cli.output import CommandError
from service.cli.snapshots import Rates, Snapshot, SnapshotReader, rates
from service.postgres.fence import slice_error
from service.runtime.errors import one_line
from service.settings import Settings
from service.wiring import kafka_options, open_database

SVG_SIZE = (120, 30)
"""Columns and lines of an SVG file."""


async def top(settings: Settings, options: Namespace) -> int:
    """Show snapshots until q or Ctrl-C; with --once, a single one, and exit status 1 if something needs an action."""
    interval: float = options.interval
    async with _snapshots(settings) as reader:
        if options.once:
            before = await reader.read()
            await asyncio.sleep(interval)
            snapshot = await reader.read()
            _show_once(snapshot, rates(before, snapshot), options)
            return 1 if snapshot.level == "action needed" else 0
        if options.json:
            await _lines(reader, interval)
        else:
            await _live(reader, interval)
    return 0


def _show_once(snapshot: Snapshot, speed: Rates, options: Namespace) -> None:
    if options.json:
        _line(snapshot, speed)
        return
    width, height = SVG_SIZE if options.svg else (None, None)
    console = Console(record=options.svg is not None, width=width, height=height)
    console.print(screen(snapshot, speed, SVG_SIZE[1]))
    if options.svg:
        try:
            svg = console.export_svg(title="python -m service top")
            # Without web fonts, a viewer of the file downloads nothing.
            Path(options.svg).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))
        except OSError as error:
            raise CommandError(f"--svg: {one_line(error)}") from None


def _line(snapshot: Snapshot, speed: Rates) -> None:
    sys.stdout.write(orjson.dumps(as_json(snapshot, speed), option=orjson.OPT_UTC_Z).decode() + "\n")
    sys.stdout.flush()


async def _lines(reader: SnapshotReader, interval: float) -> None:
    before = None
    while True:
        snapshot = await reader.read()
        _line(snapshot, rates(before, snapshot))
        before = snapshot
        await asyncio.sleep(interval)


async def _live(reader: SnapshotReader, interval: float) -> None:
    stopping = asyncio.Event()
    before: Snapshot | None = None
    console = Console()
    with _key(stopping), Live(console=console, screen=True, auto_refresh=False) as live:
        while not stopping.is_set():
            snapshot = await reader.read()
            live.update(screen(snapshot, rates(before, snapshot), console.height), refresh=True)
            before = snapshot
            waiting = asyncio.create_task(stopping.wait())
            await asyncio.wait([waiting], timeout=interval)
            waiting.cancel()


@contextmanager
def _key(stopping: asyncio.Event) -> Iterator[None]:
    """Set `stopping` when q is pressed, if standard input is a terminal."""
    if not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if set(os.read(keyboard, 64)) & set(b"qQ\x04"):
            stopping.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@asynccontextmanager
async def _snapshots(settings: Settings) -> AsyncIterator[SnapshotReader]:
    database = open_database(settings, sessions=1)
    try:
        with suppress(psycopg.Error):  # a database that is unavailable is shown
            if error := await slice_error(database):
                raise CommandError(error)
        reader = SnapshotReader(database, kafka_options(settings), settings.group)
        try:
            yield reader
        finally:
            await reader.close()
    finally:
        await database.close()
