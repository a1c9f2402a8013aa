"""`make demo`: the race between content and registrations, played on the running service.

Five acts, each of which sends something over Kafka and shows what the views and the output topics say
then; at the end all of it is held against what must be so, which decides the exit status.
"""

import asyncio
import os
import random
import secrets
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from aiokafka.errors import KafkaError
from pydantic import ValidationError
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from deploy.demo.story import PRODUCERS, Batch, Input, Missing, Outcome, World, by_batch, until, world
from service.domain.topics import (
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    OUTGOING_TOPICS,
    SLOT_ASSIGNED,
    VALIDATION_ERRORS,
)

WIDTH = 96
RACING = 50
RACE_SECONDS = 4.0


def run(settings: dict[str, str], console: Console) -> int:
    """Play it on the service of these settings. 0 where all that must be so is so, else 1."""
    began = time.monotonic()
    try:
        holds = asyncio.run(_play(settings, Screen(console), f"demo-{secrets.token_hex(4)}"))
    except (Missing, TimeoutError, OSError, KafkaError, psycopg.Error, ValidationError) as trouble:
        console.print(f"\n[bold red]✗[/] {escape(_in_words(trouble))}", highlight=False)
        port = settings.get("ELS_HTTP_PORT") or "8080"
        console.print(
            f"  What is wrong: the log of the service (.local/service.log), http://127.0.0.1:{port}/readyz,\n"
            "  and python -m deploy.local status, which says what runs.",
            highlight=False,
        )
        return 1
    console.print(f"\n  [dim]{time.monotonic() - began:.0f} s. Play it again: every run has batches of its own.[/]")
    return 0 if holds else 1


def _in_words(trouble: Exception) -> str:
    if isinstance(trouble, ValidationError):
        return "The settings of the service are not whole: make down up"
    return str(trouble) or type(trouble).__name__


async def _play(settings: Mapping[str, str], screen: "Screen", name: str) -> bool:
    story = Batch(f"{name}-1", slots=6, contents=7)
    race = [_racing(f"{name}-{number}", number) for number in range(2, RACING + 2)]
    async with world(settings) as service:
        _introduce(screen, service)
        await _content_first(screen, service, story)
        await _registration(screen, service, story)
        await _repeats(screen, service, story)
        await _last_slot(screen, service, story)
        await _race(screen, service, race)
        outcome = await service.outcome([story, *race])
    return _judge(screen, claims([story, *race], story, outcome), service.repeats)


# The acts


def _introduce(screen: "Screen", service: World) -> None:
    role = "els_ops" if service.is_operator else "the service's own role"
    screen.act("Who comes first?")
    screen.say(
        "Two services tell ours about a batch of essays: one registers the batch, the other brings its texts. "
        "Each has a topic and a pace of its own, so any order happens. "
        f"Broker {service.settings.kafka_bootstrap_servers}; the views are read as {role}."
    )


async def _content_first(screen: "Screen", service: World, story: Batch) -> None:
    screen.act("Act 1 · The texts come first")
    screen.sends(CONTENT_PROVISIONED, f"5 texts of {story.batch_id}, which nobody has registered")
    await service.send(*(story.content(number) for number in range(1, 6)))

    async def wait() -> bool:
        [(waiting,)] = await service.look(
            "select count(*) from ops.pending_content where batch_id = %(id)s", id=story.batch_id
        )
        return bool(waiting == 5)

    await until("ops.pending_content does not show the 5 texts", wait)
    await service.settle()
    screen.table(
        "ops.pending_batches",
        ("batch_id", "items", "failures", "age"),
        await service.look(
            "select batch_id, items, failures, to_char(age, 'FMSS.MS \"s\"') from ops.pending_batches "
            "where batch_id = %(id)s",
            id=story.batch_id,
        ),
    )
    screen.table(
        "ops.pending_content",
        ("text_storage_id", "original_file_name", "expires_in"),
        await service.look(
            "select text_storage_id, original_file_name, to_char(expires_in, 'HH24:MI:SS') "
            "from ops.pending_content where batch_id = %(id)s order by arrival",
            id=story.batch_id,
        ),
    )
    _show_events(screen, service, story, since=0)
    screen.say(
        "Nobody knows how many essays this batch will have. Whoever answers “too many” now strands the batch "
        "for ever, and whoever keeps the texts in a cache with a TTL loses them. They wait in Postgres; "
        "nothing is announced."
    )


async def _registration(screen: "Screen", service: World, story: Batch) -> None:
    screen.act("Act 2 · The registration")
    screen.sends(BATCH_REGISTERED, f"{story.batch_id} will hold {story.slots} essays")
    seen = len(service.events)
    await service.send(story.registration())
    await _until_batch_is(service, story, "registered")
    await service.settle()
    await _show_batch(screen, service, story)
    screen.table(
        "ops.slots",
        ("essay_id", "state", "text_storage_id", "original_file_name", "since registration"),
        await service.look(
            "select essay_id, slots.state, text_storage_id, original_file_name, "
            "to_char(assigned_at - registered_at, 'FMSS.MS \"s\"') "
            "from ops.slots join ops.batches using (batch_id) where batch_id = %(id)s order by position",
            id=story.batch_id,
        ),
    )
    _show_events(screen, service, story, since=seen)
    [(waiting,)] = await service.look(
        "select count(*) from ops.pending_content where batch_id = %(id)s", id=story.batch_id
    )
    screen.say(
        "The batch, its slots, the texts in them and the announcements were one transaction: "
        f"{waiting} texts wait now. "
        "The trap was a text that asks “is it registered?”, hears no, and is stored just after the "
        "registration has looked for it: text and registration lock the batch before they look."
    )


async def _repeats(screen: "Screen", service: World, story: Batch) -> None:
    screen.act("Act 3 · Everything again")
    before, seen = await _state(service, story), len(service.events)
    deliveries: Sequence[tuple[str, str, list[Input]]] = (
        (CONTENT_PROVISIONED, "the same 5 texts, new event ids", [story.content(n) for n in range(1, 6)]),
        (BATCH_REGISTERED, "the same 6 essays in another order", [story.registration(story.essays[::-1])]),
        (BATCH_REGISTERED, "a contradiction: 4 essays", [story.registration(story.essays[:4])]),
    )
    rows = []
    for topic, what, inputs in deliveries:
        screen.sends(topic, what)
        await service.send(*inputs)
        await service.settle()
        after = await _state(service, story)
        new = len(service.events) - seen
        rows.append((what, "none" if after == before else "CHANGED", str(new) if new else "none"))
    screen.table("What it led to", ("sent", "changed rows", "new events"), rows)
    screen.table(
        "ops.quarantine",
        ("id", "state", "reason", "error"),
        await service.look(
            "select id, state, reason, error from ops.quarantine where key_text = %(id)s",
            id=story.batch_id,
        ),
    )
    screen.say(
        "Kafka delivers at least once, and its sender may number the same thing anew: what an event is about "
        "tells that it is a repeat, not its id. The registration that contradicts is kept whole for a person "
        "to look at, and what follows it goes on."
    )


async def _last_slot(screen: "Screen", service: World, story: Batch) -> None:
    screen.act("Act 4 · Two texts, one slot")
    screen.sends(CONTENT_PROVISIONED, "the last essay and one too many, at the same time")
    seen = len(service.events)
    await service.send(story.content(6), story.content(7))
    await _until_batch_is(service, story, "ready")
    await service.settle()
    await _show_batch(screen, service, story)
    screen.table(
        "ops.excess_content",
        ("batch_id", "text_storage_id", "original_file_name", "reason"),
        await service.look(
            "select batch_id, text_storage_id, original_file_name, reason from ops.excess_content "
            "where batch_id = %(id)s",
            id=story.batch_id,
        ),
    )
    _show_events(screen, service, story, since=seen)
    screen.say(
        "Ready is said once, in the transaction that takes the last slot, and goes out after the slots. "
        "“Too many” is said only after a second look that waits for whoever holds a slot and may still "
        "give it back."
    )


async def _race(screen: "Screen", service: World, race: Sequence[Batch]) -> None:
    screen.act("Act 5 · The race")
    deliveries = [event for batch in race for event in batch.inputs()]
    deliveries += random.sample(deliveries, len(deliveries) // 10)
    random.shuffle(deliveries)
    slots = sum(batch.slots for batch in race)
    screen.say(
        f"{len(race)} batches, {slots} slots, {sum(batch.contents for batch in race)} texts, "
        f"{sum(batch.failures for batch in race)} failed uploads, every tenth message twice, from producers of "
        f"both generations: {len(deliveries)} messages in random order, from {PRODUCERS} producers at once."
    )
    progress = Progress(batches=len(race), slots=slots)
    sending = asyncio.gather(*(_produce(service, number, deliveries) for number in range(PRODUCERS)))
    try:
        with Live(progress.shown(), console=screen.console, refresh_per_second=20) as live:

            async def is_over() -> bool:
                await progress.look(service, race)
                live.update(progress.shown())
                return progress.complete == len(race)

            while not sending.done():
                await is_over()
                await asyncio.sleep(0.05)
            await sending
            await until("Not every batch of the race is ready", is_over)
    finally:
        sending.cancel()
    await service.settle()
    screen.say(f"Up to {progress.most_waiting} texts waited for their registrations at a time; none waits now.")


def _racing(batch_id: str, number: int) -> Batch:
    """Of ten batches two have failed uploads and two have texts too many."""
    failures = {0: 1, 1: 2}.get(number % 10, 0)
    too_many = {2: 2, 3: 1}.get(number % 10, 0)
    return Batch(batch_id, slots=10, contents=10 - failures + too_many, failures=failures, newer=number % 2 == 0)


async def _produce(service: World, producer: int, deliveries: Sequence[Input]) -> None:
    """One producer's share, spread over the race at its own uneven pace."""
    share = deliveries[producer::PRODUCERS]
    pause = RACE_SECONDS / len(share)
    end = time.monotonic()
    for delivery in share:
        end += random.uniform(0, 2 * pause)  # noqa: S311  no secret
        await asyncio.sleep(end - time.monotonic())
        await service.send_by(producer, delivery)


async def _until_batch_is(service: World, batch: Batch, state: str) -> None:
    async def is_it() -> bool:
        found = await service.look("select state from ops.batches where batch_id = %(id)s", id=batch.batch_id)
        return found == [(state,)]

    await until(f"ops.batches does not show {batch.batch_id} as {state}", is_it)


async def _state(service: World, batch: Batch) -> list[list[tuple[Any, ...]]]:
    """All rows of a batch that an input could change."""
    views = {
        "ops.batches": "state, expected, assigned, failed, registered_at, course_code, user_id, changed_at",
        "ops.slots": "position, essay_id, state, text_storage_id, assigned_at, correlation_id",
        "ops.excess_content": "text_storage_id, reason, declared_at",
        "ops.pending_content": "text_storage_id, stored_at",
        "ops.validation_failures": "file_upload_id, state",
    }
    return [
        await service.look(
            f"select {columns} from {view} where batch_id = %(id)s order by 1",  # noqa: S608  ours
            id=batch.batch_id,
        )
        for view, columns in views.items()
    ]


async def _show_batch(screen: "Screen", service: World, batch: Batch) -> None:
    screen.table(
        "ops.batches",
        ("batch_id", "state", "expected", "assigned", "failed", "open"),
        await service.look(
            "select batch_id, state, expected, assigned, failed, open from ops.batches where batch_id = %(id)s",
            id=batch.batch_id,
        ),
    )


def _show_events(screen: "Screen", service: World, batch: Batch, since: int) -> None:
    """What came out for the batch, after the first so many events."""
    found = [event for event in list(service.events.values())[since:] if event.batch_id == batch.batch_id]
    found.sort(key=lambda event: event.published_at)
    if not found:
        screen.note("On the output topics: nothing.")
        return
    screen.table("On the output topics", ("topic", "what it says"), [(e.topic, _gist(e.topic, e.data)) for e in found])


def _gist(topic: str, data: Mapping[str, Any]) -> str:
    if topic == SLOT_ASSIGNED:
        return f"{data['text_storage_id']} is {data['essay_id']}"
    if topic == EXCESS_CONTENT:
        return f"{data['text_storage_id']}, {data['reason']}"
    if topic == BATCH_READY:
        return f"ready with {len(data['ready_essays'])} essays"
    return str(data["event"])


class Progress:
    """How far the race has come."""

    def __init__(self, batches: int, slots: int) -> None:
        self.batches, self.slots = batches, slots
        self.registered = self.complete = self.taken = self.waiting = self.most_waiting = 0

    async def look(self, service: World, race: Sequence[Batch]) -> None:
        ids = [batch.batch_id for batch in race]
        [(self.registered, self.complete, self.taken, self.waiting)] = await service.look(
            "select count(*), count(*) filter (where state = 'ready'), "
            "coalesce(sum(assigned + failed), 0)::bigint, "
            "(select count(*) from ops.pending_content where batch_id = any(%(ids)s)) "
            "from ops.batches where batch_id = any(%(ids)s)",
            ids=ids,
        )
        self.most_waiting = max(self.most_waiting, self.waiting)

    def shown(self) -> RenderableType:
        """A bar for each; what waits is measured by the most that ever did."""
        grid = Table.grid(padding=(0, 2))
        for name, value, total, colour in (
            ("texts that wait", self.waiting, max(self.most_waiting, 1), "yellow"),
            ("batches registered", self.registered, self.batches, "blue"),
            ("slots taken", self.taken, self.slots, "cyan"),
            ("batches ready", self.complete, self.batches, "green"),
        ):
            bar = ProgressBar(
                total=total, completed=value, width=40, complete_style=colour, finished_style=f"bold {colour}"
            )
            of = "" if name == "texts that wait" else f" of {total}"
            grid.add_row(f"  {name}", bar, Text(f"{value}{of}"))
        return Padding(grid, (1, 0), expand=False)


# What must be so


class Claim(NamedTuple):
    """Something that must be so, whether it is, and the numbers of it."""

    text: str
    holds: bool
    numbers: str


def claims(batches: Sequence[Batch], contradicted: Batch, end: Outcome) -> list[Claim]:
    """The end held against what was sent. `contradicted` is the batch that had two registrations."""
    held = by_batch((batch, text) for batch, _, _, _, text, _ in end.slots if text is not None)
    beyond = by_batch(end.excess)
    failed = by_batch((batch, upload) for batch, _, _, state, _, upload in end.slots if state == "failed")
    assigned = [(batch, essay, text) for batch, _, essay, state, text, _ in end.slots if state == "assigned"]
    return [
        Claim(
            "each text has one place: a slot or excess",
            all(sorted(held[b.batch_id] + beyond[b.batch_id]) == sorted(b.texts) for b in batches),
            f"{sum(b.contents for b in batches)} = {_count(held)} + {_count(beyond)}",
        ),
        Claim(
            "all slots are taken, all batches are ready",
            sorted(end.batches) == sorted((b.batch_id, "ready") for b in batches)
            and len(end.slots) == sum(b.slots for b in batches)
            and all(state != "open" for _, _, _, state, _, _ in end.slots),
            f"{len(end.slots)} slots, {len(end.batches)} batches",
        ),
        Claim(
            "each failed upload took one slot",
            all(sorted(failed[b.batch_id]) == sorted(b.failed_uploads) for b in batches),
            f"{_count(failed)} failed slots",
        ),
        Claim(
            "excess is what was too many, no more",
            all(len(beyond[b.batch_id]) == b.excess for b in batches),
            f"{sum(b.excess for b in batches)} too many",
        ),
        Claim(
            "EssaySlotAssigned, once for each text in a slot",
            _same(_named(end, SLOT_ASSIGNED, "batch_id", "essay_id", "text_storage_id"), assigned),
            f"{len(end.data(SLOT_ASSIGNED))} events",
        ),
        Claim(
            "BatchEssaysReady, once for each, slots in order",
            _same(map(_ready, end.data(BATCH_READY)), _ready_by_slots(end)),
            f"{len(end.data(BATCH_READY))} events",
        ),
        Claim(
            "BatchEssaysReady, never before one of its slots",
            all(_last(end, SLOT_ASSIGNED, b) <= _last(end, BATCH_READY, b) for b in batches),
            f"{len(end.batches)} batches",
        ),
        Claim(
            "ExcessContentProvisioned, once for each excess",
            _same(_named(end, EXCESS_CONTENT, "batch_id", "text_storage_id"), end.excess),
            f"{len(end.data(EXCESS_CONTENT))} events",
        ),
        Claim(
            "BatchValidationErrors, once where uploads failed",
            _same(map(_errors, end.data(VALIDATION_ERRORS)), [(b.batch_id, b.failures) for b in batches if b.failures]),
            f"{len(end.data(VALIDATION_ERRORS))} events",
        ),
        Claim(
            "nothing else was published",
            {event.topic for event in end.events} <= {SLOT_ASSIGNED, BATCH_READY, EXCESS_CONTENT, VALIDATION_ERRORS},
            f"{len(OUTGOING_TOPICS)} topics read",
        ),
        Claim(
            "nothing waits, nothing has expired",
            not end.waiting,
            f"{len(end.waiting)} rows",
        ),
        Claim(
            "one row in quarantine: the contradiction",
            list(end.quarantine) == [(contradicted.batch_id, "conflicting_registration")],
            f"{len(end.quarantine)} row{'' if len(end.quarantine) == 1 else 's'}",
        ),
        Claim(
            "ops.invariant_violations is empty",
            not end.violations,
            "; ".join(" ".join(row) for row in end.violations[:3]) or "0 rows",
        ),
    ]


def _last(end: Outcome, topic: str, batch: Batch) -> int:
    """When the last event of a topic was published for a batch, in milliseconds."""
    of_it = (e.published_at for e in end.events if e.topic == topic and e.batch_id == batch.batch_id)
    return max(of_it, default=0)


def _ready_by_slots(end: Outcome) -> list[Any]:
    """What the slots say that each BatchEssaysReady must be."""
    essays = by_batch((batch, (essay, text)) for batch, _, essay, state, text, _ in end.slots if state == "assigned")
    return [(batch, tuple(essays[batch])) for batch, state in end.batches if state == "ready"]


def _ready(data: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, str], ...]]:
    return data["batch_id"], tuple((each["essay_id"], each["text_storage_id"]) for each in data["ready_essays"])


def _errors(data: Mapping[str, Any]) -> tuple[str, int]:
    return data["batch_id"], len(data["failed_essays"])


def _named(end: Outcome, topic: str, *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(data[name] for name in fields) for data in end.data(topic)]


def _same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return sorted(some) == sorted(others)


def _count(grouped: Mapping[str, list[Any]]) -> int:
    return sum(map(len, grouped.values()))


def _judge(screen: "Screen", found: Sequence[Claim], repeats: int) -> bool:
    """Show them; whether all hold."""
    screen.act("What must be so")
    table = Table.grid(padding=(0, 2, 0, 0))
    for claim in found:
        mark = Text("✓", "bold green") if claim.holds else Text("✗", "bold red")
        table.add_row(mark, Text(claim.text), Text(claim.numbers, "dim" if claim.holds else "red"))
    screen.show(table)
    if repeats:
        screen.note(f"{repeats} events were published again under their own ids: readers tell them by these.")
    broken = sum(not claim.holds for claim in found)
    verdict = f"[bold red]{broken} of {len(found)} do not hold.[/]" if broken else "[bold green]All of it holds.[/]"
    screen.show(Text.from_markup(verdict))
    return not broken


class Screen:
    """How it looks: narrow, calm, and the same words where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def act(self, title: str) -> None:
        self.console.print()
        self.console.print(Rule(f"[bold]{title}", align="left", style="dim"), width=self._width)

    def say(self, text: str) -> None:
        """What happened, and why it is hard."""
        self.show(Text(text))

    def sends(self, topic: str, what: str) -> None:
        self.show(Text.assemble(("→ ", "cyan"), what, (f"\n  to {topic}", "dim")))

    def note(self, text: str) -> None:
        self.show(Text(text, "dim"))

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        table = Table(
            box=box.SIMPLE_HEAD, show_edge=False, header_style="dim", border_style="dim", padding=(0, 1, 0, 0)
        )
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text("–" if value is None else str(value), _style(value)) for value in row))
        self.show(Group(Text(title, "bold"), table))

    def show(self, what: RenderableType) -> None:
        self.console.print()
        self.console.print(Padding(what, (0, 0, 0, 2), expand=False), width=self._width)

    @property
    def _width(self) -> int:
        return min(self.console.width, WIDTH)


_STYLES = {
    "ready": "green",
    "assigned": "green",
    "none": "green",
    "open": "yellow",
    "failed": "red",
    "CHANGED": "bold red",
}


def _style(value: object) -> str:
    return _STYLES.get(value, "") if isinstance(value, str) else ""


if __name__ == "__main__":
    # On the service that the environment describes; `python -m deploy.local demo` starts one where there is none.
    sys.exit(run({name: value for name, value in os.environ.items() if name.startswith("ELS_")}, Console()))
