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
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import repeat
from pathlib import Path

import orjson
import psycopg
from rich.console import Console, RenderableType
from rich.live import Live

from service.cli.cell_dashboard import cells_as_json, screen_of_cells
from service.cli.dashboard import as_json, screen
from service.cli.output import CommandError
from service.cli.snapshots import Rates, Snapshot, SnapshotReader, rates
from service.postgres.fence import slice_error
from service.runtime.errors import one_line
from service.settings import Settings
from service.wiring import kafka_options, open_database, settings_of_cells

SVG_SIZE = (120, 30)
"""Columns and lines of an SVG file."""


async def top(settings: Settings, options: Namespace) -> int:
    """Show snapshots until q or Ctrl-C; with --once, a single one, and exit status 1 if something needs an action.

    Shows all cells, where their databases are known.
    """
    interval: float = options.interval
    async with _snapshots(settings) as reader:
        if options.once:
            before = await reader.read()
            await asyncio.sleep(interval)
            snapshots = await reader.read()
            _show_once(snapshots, _speeds(before, snapshots), options)
            return 1 if any(each.level == "action needed" for each in snapshots) else 0
        if options.json:
            await _lines(reader, interval)
        else:
            await _live(reader, interval)
    return 0


def _speeds(before: Sequence[Snapshot] | None, now: Sequence[Snapshot]) -> Sequence[Rates]:
    earlier = before or repeat(None, len(now))
    return [rates(*pair) for pair in zip(earlier, now, strict=True)]


def _screen(snapshots: Sequence[Snapshot], speeds: Sequence[Rates], lines: int) -> RenderableType:
    return screen(snapshots[0], speeds[0], lines) if len(snapshots) == 1 else screen_of_cells(snapshots, speeds, lines)


def _show_once(snapshots: Sequence[Snapshot], speeds: Sequence[Rates], options: Namespace) -> None:
    if options.json:
        _line(snapshots, speeds)
        return
    width, height = SVG_SIZE if options.svg else (None, None)
    console = Console(record=options.svg is not None, width=width, height=height)
    console.print(_screen(snapshots, speeds, SVG_SIZE[1]))
    if options.svg:
        try:
            svg = console.export_svg(title="python -m service top")
            # Without web fonts, a viewer of the file downloads nothing.
            Path(options.svg).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))
        except OSError as error:
            raise CommandError(f"--svg: {one_line(error)}") from None


def _line(snapshots: Sequence[Snapshot], speeds: Sequence[Rates]) -> None:
    value = as_json(snapshots[0], speeds[0]) if len(snapshots) == 1 else cells_as_json(snapshots, speeds)
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_UTC_Z).decode() + "\n")
    sys.stdout.flush()


async def _lines(reader: SnapshotReader, interval: float) -> None:
    before = None
    while True:
        snapshots = await reader.read()
        _line(snapshots, _speeds(before, snapshots))
        before = snapshots
        await asyncio.sleep(interval)


async def _live(reader: SnapshotReader, interval: float) -> None:
    stopping = asyncio.Event()
    before: Sequence[Snapshot] | None = None
    console = Console()
    with _key(stopping), Live(console=console, screen=True, auto_refresh=False) as live:
        while not stopping.is_set():
            snapshots = await reader.read()
            live.update(_screen(snapshots, _speeds(before, snapshots), console.height), refresh=True)
            before = snapshots
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
    cells = settings_of_cells(settings) or [settings]
    databases = [open_database(each, sessions=1) for each in cells]
    reader = SnapshotReader(databases, kafka_options(settings), [each.group for each in cells])
    try:
        if len(databases) == 1:
            with suppress(psycopg.Error):  # a database that is unavailable is shown
                if error := await slice_error(databases[0]):
                    raise CommandError(error)
        yield reader
    finally:
        await reader.close()
