"""`top`: the whole, live, in a terminal.

It only looks: at the views of `ops`, as any role that may read them, and at the broker's offsets. Neither has to be
there: what could not be had is told in its place, and looked for again.
"""

import asyncio
import os
import re
import sys
import termios
import tty
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psycopg
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from psycopg.rows import dict_row
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from service.cli.output import Failed, cell
from service.domain.topics import INCOMING_TOPICS
from service.kafka.topics import OUTGOING
from service.postgres.pool import Database
from service.postgres.statements import STATEMENTS
from service.runtime.errors import one_line
from service.settings import Settings
from service.wiring import kafka_options, open_database

EVENTS = 12
"""So many of the latest events are shown."""

BROKER_SECONDS = 3.0
"""A broker that takes longer to answer is away, for this look."""

UPPER_LINES = 19
"""What stands above the latest events, with what frames them."""

PICTURE = (120, 30)
"""Columns and lines of a picture."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Where topics end, and how far the group has come."""

    ends: Mapping[str, int]
    lag: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen at once. What is None could not be had; the errors say why."""

    health: Mapping[str, Any] | None
    events: Sequence[Mapping[str, Any]]
    offsets: Offsets | None
    error: str | None
    broker_error: str | None
    seen: float
    """By the loop's clock, in seconds."""

    @property
    def attention(self) -> list[str]:
        """What asks for attention, in words."""
        if self.health is None:
            return [f"the database does not answer: {self.error}"]
        return list(self.health["attention"])


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, between two looks; None where one of them did not see it."""

    arriving: float | None
    written: float | None
    published: float | None


async def top(settings: Settings, options: Namespace) -> int:
    """Until q or an interrupt; with --once a single picture, and status 1 where something asks for attention."""
    interval: float = options.interval
    async with _watching(settings) as watch:
        if options.once:
            before = await watch.look()
            await asyncio.sleep(interval)
            look = await watch.look()
            _show_once(look, rates(before, look), options)
            return 1 if look.attention else 0
        if options.json:
            await _lines(watch, interval)
        else:
            await _live(watch, interval)
    return 0


class Watch:
    """Looks, again and again."""

    def __init__(self, database: Database, kafka: Mapping[str, Any], group: str) -> None:
        self._database = database
        self._kafka = kafka
        self._group = group
        self._clients: tuple[AIOKafkaConsumer, AIOKafkaAdminClient] | None = None
        self._partitions: list[TopicPartition] = []

    async def look(self) -> Snapshot:
        """Once. Raises nothing that the world does."""
        (health, events, error), (offsets, broker_error) = await asyncio.gather(self._tables(), self._broker())
        return Snapshot(health, events, offsets, error, broker_error, asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Leave the broker."""
        clients, self._clients = self._clients, None
        for client in clients or ():
            await client.stop() if isinstance(client, AIOKafkaConsumer) else await client.close()

    async def _tables(self) -> tuple[Mapping[str, Any] | None, Sequence[Mapping[str, Any]], str | None]:
        try:
            async with self._database.transaction() as conn:
                cursor = conn.cursor(row_factory=dict_row)
                await cursor.execute(STATEMENTS["watch_health"])
                health = await cursor.fetchone()
                await cursor.execute(STATEMENTS["watch_events"], {"page": EVENTS})
                return health, await cursor.fetchall(), None
        except psycopg.Error as error:
            return None, (), one_line(error, 200)

    async def _broker(self) -> tuple[Offsets | None, str | None]:
        try:
            async with asyncio.timeout(BROKER_SECONDS):
                return await self._offsets(), None
        except (KafkaError, OSError, TimeoutError) as error:
            await self.close()
            return None, one_line(error, 200)

    async def _offsets(self) -> Offsets:
        consumer, admin = self._clients or await self._connect()
        ends = await consumer.end_offsets(self._partitions)
        incoming = [tp for tp in self._partitions if tp.topic in INCOMING_TOPICS]
        committed = await admin.list_consumer_group_offsets(self._group, partitions=incoming)
        lag = dict.fromkeys(INCOMING_TOPICS, 0)
        for tp in incoming:
            # Nothing committed yet (-1): all of it waits.
            lag[tp.topic] += max(0, ends[tp] - max(0, committed[tp].offset if tp in committed else 0))
        totals: dict[str, int] = {}
        for tp, end in ends.items():
            totals[tp.topic] = totals.get(tp.topic, 0) + end
        return Offsets(totals, lag)

    async def _connect(self) -> tuple[AIOKafkaConsumer, AIOKafkaAdminClient]:
        consumer, admin = self._clients = AIOKafkaConsumer(**self._kafka), AIOKafkaAdminClient(**self._kafka)
        await consumer.start()
        await admin.start()
        described = await admin.describe_topics([*INCOMING_TOPICS, *OUTGOING])
        self._partitions = [
            TopicPartition(each["topic"], some["partition"]) for each in described for some in each["partitions"]
        ]
        return consumer, admin


def rates(before: Snapshot | None, now: Snapshot) -> Rates:
    """What happened between two looks, per second."""
    if before is None:
        return Rates(None, None, None)
    seconds = max(now.seen - before.seen, 0.001)

    def rate(first: int | None, last: int | None) -> float | None:
        # Less than before: the statistics or the topics began anew.
        return None if first is None or last is None or last < first else (last - first) / seconds

    def counted(look: Snapshot, name: str) -> int | None:
        return None if look.health is None else int(look.health[name])

    def arrived(look: Snapshot) -> int | None:
        return None if look.offsets is None else sum(look.offsets.ends.get(topic, 0) for topic in INCOMING_TOPICS)

    return Rates(
        rate(arrived(before), arrived(now)),
        rate(counted(before, "written"), counted(now, "written")),
        rate(counted(before, "published"), counted(now, "published")),
    )


# -- what is shown


def picture(look: Snapshot, speed: Rates, lines: int) -> RenderableType:
    """All of it, for people, in so many lines."""
    upper = (_verdict(look), _numbers(look, speed), _lag(look))
    return Group(*upper, _latest(look.events[: max(1, lines - UPPER_LINES - len(look.attention))]))


def _verdict(look: Snapshot) -> RenderableType:
    attention = look.attention
    if look.broker_error:
        attention.append(f"the broker does not answer: {look.broker_error}")
    if not attention:
        return Panel(Text("all is well", style="bold green"), border_style="green")
    return Panel(Text("\n".join(cell(each) for each in attention), style="bold red"), border_style="red")


def _numbers(look: Snapshot, speed: Rates) -> RenderableType:
    table = Table.grid(padding=(0, 4, 0, 1), expand=True)
    health = look.health or {}
    now = health.get("at")
    rows = (
        ("records in", _speed(speed.arriving), "contents waiting", _count(health, "pending")),
        ("events written", _speed(speed.written), "for batches", _count(health, "batches_waiting")),
        ("events published", _speed(speed.published), "the longest", _age(now, health.get("oldest_pending"))),
        (
            "to be published",
            _count(health, "outbox_rows"),
            "expired since yesterday",
            _count(health, "expired_last_day"),
        ),
        (
            "the oldest",
            _age(now, health.get("oldest_outbox_row")),
            "open in quarantine",
            _count(health, "quarantine_open"),
        ),
        ("batches blocked", _count(health, "outbox_blocked"), "topics stopped", _count(health, "topics_stopped")),
        ("relays", _count(health, "relays"), "oldest transaction", _span(health.get("oldest_transaction"))),
    )
    for _ in range(2):
        table.add_column(style="cyan")
        table.add_column(justify="right", min_width=12)
    for row in rows:
        table.add_row(*row)
    return Panel(
        table, title=f"{now:%Y-%m-%d %H:%M:%S}Z" if now else "the database does not answer", title_align="left"
    )


def _lag(look: Snapshot) -> RenderableType:
    table = Table.grid(padding=(0, 4, 0, 1), expand=True)
    table.add_column(style="cyan")
    table.add_column(justify="right", min_width=12)
    table.add_column(style="red", min_width=8)
    stopped = (look.health or {}).get("stopped") or ()
    for topic in INCOMING_TOPICS:
        behind = "?" if look.offsets is None else f"{look.offsets.lag[topic]:,}"
        table.add_row(topic, behind, "STOPPED" if topic in stopped else "")
    return Panel(table, title="records behind", title_align="left")


def _latest(events: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 1), expand=True)
    table.add_column(style="dim", width=9)
    table.add_column(width=16, style="cyan")
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    for event in events:
        # Text of others is shown as it is: it must not be able to style a terminal.
        told = (Text(cell(event[name])) for name in ("what", "about", "told"))
        table.add_row(f"{event['at']:%H:%M:%S}Z", *told)
    return Panel(table, title="what happened last", title_align="left")


def _count(health: Mapping[str, Any], name: str) -> str:
    return f"{health[name]:,}" if health else "?"


def _speed(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s"


def _age(now: datetime | None, since: datetime | None) -> str:
    return _span(now - since) if now and since else "–"


def _span(span: timedelta | None) -> str:
    """A length of time in its two largest units."""
    if span is None:
        return "–"
    seconds = max(0, int(span.total_seconds()))
    for unit, size, less in (("d", 86400, 3600), ("h", 3600, 60), ("m", 60, 1)):
        if seconds >= size:
            smaller = {3600: "h", 60: "m", 1: "s"}[less]
            return f"{seconds // size}{unit} {seconds % size // less}{smaller}"
    return f"{max(0.0, span.total_seconds()):.1f}s"


def as_json(look: Snapshot, speed: Rates) -> dict[str, Any]:
    """All of it, for scripts."""
    health = dict(look.health) if look.health else None
    if health and health["oldest_transaction"] is not None:
        health["oldest_transaction"] = health["oldest_transaction"].total_seconds()
    return {
        "well": not look.attention,
        "attention": look.attention,
        "broker": look.broker_error,
        "health": health,
        "rates": speed,
        "lag": None if look.offsets is None else look.offsets.lag,
        "events": list(look.events),
    }


# -- how it is shown


def _show_once(look: Snapshot, speed: Rates, options: Namespace) -> None:
    if options.json:
        _line(look, speed)
        return
    width, height = PICTURE if options.svg else (None, None)
    console = Console(record=options.svg is not None, width=width, height=height)
    console.print(picture(look, speed, PICTURE[1]))
    if options.svg:
        try:
            svg = console.export_svg(title="python -m service top")
            # Whoever looks at it fetches nothing: its font is the one that is there.
            Path(options.svg).write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))
        except OSError as error:
            raise Failed(f"--svg: {one_line(error)}") from None


def _line(look: Snapshot, speed: Rates) -> None:
    sys.stdout.write(orjson.dumps(as_json(look, speed), option=orjson.OPT_UTC_Z).decode() + "\n")
    sys.stdout.flush()


async def _lines(watch: Watch, interval: float) -> None:
    before = None
    while True:
        look = await watch.look()
        _line(look, rates(before, look))
        before = look
        await asyncio.sleep(interval)


async def _live(watch: Watch, interval: float) -> None:
    asked_to_stop = asyncio.Event()
    before: Snapshot | None = None
    console = Console()
    with _key(asked_to_stop), Live(console=console, screen=True, auto_refresh=False) as live:
        while not asked_to_stop.is_set():
            look = await watch.look()
            live.update(picture(look, rates(before, look), console.height), refresh=True)
            before = look
            waiting = asyncio.create_task(asked_to_stop.wait())
            await asyncio.wait([waiting], timeout=interval)
            waiting.cancel()


@contextmanager
def _key(asked_to_stop: asyncio.Event) -> Iterator[None]:
    """While it lasts, q asks to stop, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    loop = asyncio.get_running_loop()

    def pressed() -> None:
        if set(os.read(keyboard, 64)) & set(b"qQ\x04"):
            asked_to_stop.set()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@asynccontextmanager
async def _watching(settings: Settings) -> AsyncIterator[Watch]:
    database = open_database(settings, sessions=1)
    watch = Watch(database, kafka_options(settings), settings.consumer_group)
    try:
        yield watch
    finally:
        await watch.close()
        await database.close()
