"""`make demo` shows on the running service how content and registrations race, and checks the result.

Each part sends records over Kafka and shows the views and the output topics afterwards. The checks at the end decide
the exit status. Nothing is left that needs an action, or to acknowledge.
"""

import asyncio
import os
import random
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from aiokafka.errors import KafkaError
from pydantic import ValidationError
from rich.console import Console, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.demo.checks import Claim, claims
from deploy.demo.screen import Screen
from deploy.demo.story import PRODUCERS, Batch, Input, Missing, World, until, world
from service.domain.topics import (
    ASSOCIATIONS_CONFIRMED,
    BATCH_COMPLETED,
    BATCH_READY,
    BATCH_REGISTERED,
    CONTENT_PROVISIONED,
    EXCESS_CONTENT,
    SLOT_ASSIGNED,
)

RACING = 50
RACE_SECONDS = 4.0


def run(settings: dict[str, str], console: Console) -> int:
    """Runs the demo on the service with these settings. Returns 0 if all checks pass, else 1."""
    began = time.monotonic()
    if "ELS_ADMIN_TOKEN" in settings:
        address = f"http://127.0.0.1:{settings.get('ELS_HTTP_PORT') or '8080'}/console/"
        console.print(f"\n  Watch it at {address} (token {escape(settings['ELS_ADMIN_TOKEN'])})", highlight=False)
    try:
        holds = asyncio.run(_play(settings, Screen(console), f"demo-{secrets.token_hex(4)}"))
    except (Missing, TimeoutError, OSError, KafkaError, psycopg.Error, ValidationError) as error:
        console.print(f"\n[bold red]✗[/] {escape(_message(error))}", highlight=False)
        port = settings.get("ELS_HTTP_PORT") or "8080"
        console.print(
            "  To find the cause: read the service's log (.local/service.log), open\n"
            f"  http://127.0.0.1:{port}/readyz, or run `.venv/bin/python -m deploy.local status`.",
            highlight=False,
        )
        return 1
    console.print(f"\n  [dim]{time.monotonic() - began:.0f} s. The demo can be repeated: each run uses new batches.[/]")
    return 0 if holds else 1


def _message(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "The settings of the service are incomplete; run: make down up"
    return str(error) or type(error).__name__


async def _play(settings: Mapping[str, str], screen: Screen, name: str) -> bool:
    story = Batch(f"{name}-1", slots=6, contents=7)
    regular = Batch(f"{name}-2", slots=2, contents=2, newer=True)
    race = [_racing(f"{name}-{number}", number) for number in range(3, RACING + 3)]
    async with world(settings) as service:
        lines_before = await service.health()
        _introduce(screen, service)
        await _content_first(screen, service, story)
        await _registration(screen, service, story)
        await _repeats(screen, service, story)
        await _last_slot(screen, service, story)
        await _confirmation(screen, service, regular)
        await _race(screen, service, race)
        outcome = await service.outcome([story, regular, *race], lines_before)
    return _judge(screen, claims([story, regular, *race], story, outcome), service.repeats)


# The parts of the demo


def _introduce(screen: Screen, service: World) -> None:
    role = "els_ops" if service.is_operator else "the service's own role"
    screen.heading("Content and registration arrive in any order")
    screen.say(
        "Two services publish events about a batch of essays: one registers the batch, the other uploads its texts. "
        "They use different topics, so a text can arrive before the registration of its batch. "
        f"Broker: {service.settings.kafka_bootstrap_servers}. The views are read as {role}."
    )


async def _content_first(screen: Screen, service: World, story: Batch) -> None:
    screen.heading("1 · Texts arrive before the registration")
    screen.sends(CONTENT_PROVISIONED, f"5 texts of {story.batch_id}, which is not registered")
    await service.send(*(story.content(number) for number in range(1, 6)))

    async def wait() -> bool:
        [(waiting,)] = await service.query(
            "select count(*) from ops.pending_content where batch_id = %(id)s", id=story.batch_id
        )
        return bool(waiting == 5)

    await until("ops.pending_content does not show the 5 texts", wait)
    await service.settle()
    screen.table(
        "ops.pending_batches",
        ("batch_id", "items", "failures", "age"),
        await service.query(
            "select batch_id, items, failures, to_char(age, 'FMSS.MS \"s\"') from ops.pending_batches "
            "where batch_id = %(id)s",
            id=story.batch_id,
        ),
    )
    screen.table(
        "ops.pending_content",
        ("text_storage_id", "original_file_name", "expires_in"),
        await service.query(
            "select text_storage_id, original_file_name, to_char(expires_in, 'HH24:MI:SS') "
            "from ops.pending_content where batch_id = %(id)s order by arrival",
            id=story.batch_id,
        ),
    )
    _show_events(screen, service, story, since=0)
    screen.say(
        "The number of expected essays is not known yet. Declaring the texts excess now would lose them, and a "
        "cache with a TTL would lose them too. They are stored as pending in PostgreSQL; no event is published."
    )


async def _registration(screen: Screen, service: World, story: Batch) -> None:
    screen.heading("2 · The registration arrives")
    screen.sends(BATCH_REGISTERED, f"registration of {story.batch_id} with {story.slots} essays")
    seen = len(service.events)
    await service.send(story.registration())
    await _until_batch_is(service, story, "registered")
    await service.settle()
    await _show_batch(screen, service, story)
    screen.table(
        "ops.slots",
        ("essay_id", "state", "text_storage_id", "original_file_name", "since registration"),
        await service.query(
            "select essay_id, slots.state, text_storage_id, original_file_name, "
            "to_char(assigned_at - registered_at, 'FMSS.MS \"s\"') "
            "from ops.slots join ops.batches using (batch_id) where batch_id = %(id)s order by position",
            id=story.batch_id,
        ),
    )
    _show_events(screen, service, story, since=seen)
    [(waiting,)] = await service.query(
        "select count(*) from ops.pending_content where batch_id = %(id)s", id=story.batch_id
    )
    screen.say(
        "One transaction created the batch and its slots, assigned the texts and wrote the events to the outbox. "
        f"{waiting} texts are pending now. "
        "A text that is stored while the registration is applied cannot be missed: both lock the batch before they "
        "read its state."
    )


async def _repeats(screen: Screen, service: World, story: Batch) -> None:
    screen.heading("3 · Repeats and a contradiction")
    before, seen = await _state(service, story), len(service.events)
    deliveries: Sequence[tuple[str, str, list[Input]]] = (
        (CONTENT_PROVISIONED, "the same 5 texts, new event ids", [story.content(n) for n in range(1, 6)]),
        (BATCH_REGISTERED, "the same 6 essays in another order", [story.registration(story.essays[::-1])]),
        (BATCH_REGISTERED, "a contradicting registration: 4 essays", [story.registration(story.essays[:4])]),
    )
    rows = []
    for topic, what, inputs in deliveries:
        screen.sends(topic, what)
        await service.send(*inputs)
        await service.settle()
        after = await _state(service, story)
        new = len(service.events) - seen
        rows.append((what, "none" if after == before else "CHANGED", str(new) if new else "none"))
    screen.table("Effect", ("sent", "changed rows", "new events"), rows)
    screen.table(
        "ops.quarantine",
        ("id", "state", "reason", "error"),
        await service.query(
            "select id, state, reason, error from ops.quarantine where key_text = %(id)s",
            id=story.batch_id,
        ),
    )
    screen.say(
        "Kafka delivers at least once, and a producer may send the same event again under a new id. So repeats are "
        "recognised by batch and text, not by event id. The contradicting registration is stored in quarantine "
        "(a dead-letter table) for an operator, and the records after it are processed."
    )
    [(rejected,)] = await service.query(
        "select id from ops.quarantine where key_text = %(id)s and state = 'open'", id=story.batch_id
    )
    why = "demo: the Batch Orchestrator sent it by mistake"
    command = ("quarantine", "discard", str(rejected), "--yes", "--why", why)
    screen.say(
        "Until somebody deals with it, `els health` says that an action is needed. The operator has asked: the first "
        "registration is the right one. So:"
    )
    screen.note(f"els quarantine discard {rejected} --why '{why}'\n{await service.operate(*command)}")


async def _last_slot(screen: Screen, service: World, story: Batch) -> None:
    screen.heading("4 · Two texts for the last slot")
    screen.sends(CONTENT_PROVISIONED, "2 texts at the same time; 1 slot is open")
    seen = len(service.events)
    await service.send(story.content(6), story.content(7))
    await _until_batch_is(service, story, "ready")
    await service.settle()
    await _show_batch(screen, service, story)
    screen.table(
        "ops.excess_content",
        ("batch_id", "text_storage_id", "original_file_name", "reason"),
        await service.query(
            "select batch_id, text_storage_id, original_file_name, reason from ops.excess_content "
            "where batch_id = %(id)s",
            id=story.batch_id,
        ),
    )
    _show_events(screen, service, story, since=seen)
    screen.say(
        "BatchEssaysReady is written once, in the transaction that assigns the last slot, and published after the "
        "slots. A text is declared excess only after a second read that waits for other transactions, since one "
        "that holds a slot may still roll back."
    )


async def _confirmation(screen: Screen, service: World, regular: Batch) -> None:
    screen.heading("5 · A class is confirmed")
    screen.sends(BATCH_REGISTERED, f"registration of {regular.batch_id}, which names a class, and its 2 texts")
    seen = len(service.events)
    await service.send(regular.registration(), regular.content(1), regular.content(2))
    await _until_batch_is(service, regular, "complete")
    await service.settle()
    _show_events(screen, service, regular, since=seen)
    screen.say(
        "All slots are taken, and BatchContentProvisioningCompleted is published. BatchEssaysReady waits until the "
        "students of the class are confirmed. A confirmation may also come first, even before the registration."
    )
    screen.sends(ASSOCIATIONS_CONFIRMED, "which students have written the 2 essays")
    seen = len(service.events)
    await service.send(regular.confirmation())
    await _until_batch_is(service, regular, "ready")
    await service.settle()
    _show_events(screen, service, regular, since=seen)


async def _race(screen: Screen, service: World, race: Sequence[Batch]) -> None:
    screen.heading("6 · The race")
    deliveries = [event for batch in race for event in batch.inputs()]
    deliveries += random.sample(deliveries, len(deliveries) // 10)
    random.shuffle(deliveries)
    slots = sum(batch.slots for batch in race)
    screen.say(
        f"{len(race)} batches, {slots} slots, {sum(batch.contents for batch in race)} texts, "
        f"{sum(batch.failures for batch in race)} failed uploads, every tenth message twice, in the formats of "
        f"older and newer producers: {len(deliveries)} messages in random order, from {PRODUCERS} producers at once."
    )
    progress = Progress(batches=len(race), slots=slots)
    sending = asyncio.gather(*(_produce(service, number, deliveries) for number in range(PRODUCERS)))
    try:
        with Live(progress.shown(), console=screen.console, refresh_per_second=20) as live:

            async def is_over() -> bool:
                await progress.update(service, race)
                live.update(progress.shown())
                return progress.complete == len(race)

            while not sending.done():
                await is_over()
                await asyncio.sleep(0.05)
            await sending
            await until("Not all batches of the race are ready", is_over)
    finally:
        sending.cancel()
    await service.settle()
    screen.say(f"Up to {progress.most_waiting} texts were pending at the same time; none is now.")


def _racing(batch_id: str, number: int) -> Batch:
    """Of ten batches, two have failed uploads and two have excess texts."""
    failures = {0: 1, 1: 2}.get(number % 10, 0)
    too_many = {2: 2, 3: 1}.get(number % 10, 0)
    return Batch(batch_id, slots=10, contents=10 - failures + too_many, failures=failures, newer=number % 2 == 0)


async def _produce(service: World, producer: int, deliveries: Sequence[Input]) -> None:
    """Sends one producer's share, at random intervals over the length of the race."""
    share = deliveries[producer::PRODUCERS]
    pause = RACE_SECONDS / len(share)
    end = time.monotonic()
    for delivery in share:
        end += random.uniform(0, 2 * pause)  # noqa: S311  no secret
        await asyncio.sleep(end - time.monotonic())
        await service.send_by(producer, delivery)


async def _until_batch_is(service: World, batch: Batch, state: str) -> None:
    async def is_it() -> bool:
        found = await service.query("select state from ops.batches where batch_id = %(id)s", id=batch.batch_id)
        return found == [(state,)]

    await until(f"ops.batches does not show {batch.batch_id} as {state}", is_it)


async def _state(service: World, batch: Batch) -> list[list[tuple[Any, ...]]]:
    """Returns all rows of a batch that an input could change."""
    views = {
        "ops.batches": "state, expected, assigned, failed, registered_at, course_code, user_id, changed_at",
        "ops.slots": "position, essay_id, state, text_storage_id, assigned_at, correlation_id",
        "ops.excess_content": "text_storage_id, reason, declared_at",
        "ops.pending_content": "text_storage_id, stored_at",
        "ops.validation_failures": "file_upload_id, state",
    }
    return [
        await service.query(
            f"select {columns} from {view} where batch_id = %(id)s order by 1",  # noqa: S608  ours
            id=batch.batch_id,
        )
        for view, columns in views.items()
    ]


async def _show_batch(screen: Screen, service: World, batch: Batch) -> None:
    screen.table(
        "ops.batches",
        ("batch_id", "state", "expected", "assigned", "failed", "open"),
        await service.query(
            "select batch_id, state, expected, assigned, failed, open from ops.batches where batch_id = %(id)s",
            id=batch.batch_id,
        ),
    )


def _show_events(screen: Screen, service: World, batch: Batch, since: int) -> None:
    """Shows the events of the batch, without the first `since` events of all batches."""
    found = [event for event in list(service.events.values())[since:] if event.batch_id == batch.batch_id]
    found.sort(key=lambda event: event.published_at)
    if not found:
        screen.note("Output topics: no event.")
        return
    screen.table("Output topics", ("topic", "event"), [(e.topic, _gist(e.topic, e.data)) for e in found])


def _gist(topic: str, data: Mapping[str, Any]) -> str:
    if topic == SLOT_ASSIGNED:
        return f"{data['text_storage_id']} assigned to {data['essay_id']}"
    if topic == EXCESS_CONTENT:
        return f"{data['text_storage_id']}, {data['reason']}"
    if topic == BATCH_COMPLETED:
        return f"completed with {data['provisioned_count']} of {data['expected_count']} essays"
    if topic == BATCH_READY:
        return f"ready with {len(data['ready_essays'])} essays"
    return str(data["event"])


class Progress:
    """The progress of the race."""

    def __init__(self, batches: int, slots: int) -> None:
        self.batches, self.slots = batches, slots
        self.registered = self.complete = self.taken = self.waiting = self.most_waiting = 0

    async def update(self, service: World, race: Sequence[Batch]) -> None:
        ids = [batch.batch_id for batch in race]
        [(self.registered, self.complete, self.taken, self.waiting)] = await service.query(
            "select count(*), count(*) filter (where state = 'ready'), "
            "coalesce(sum(assigned + failed), 0)::bigint, "
            "(select count(*) from ops.pending_content where batch_id = any(%(ids)s)) "
            "from ops.batches where batch_id = any(%(ids)s)",
            ids=ids,
        )
        self.most_waiting = max(self.most_waiting, self.waiting)

    def shown(self) -> RenderableType:
        """Returns a bar for each count. The bar of pending texts is relative to the most that were pending so far."""
        grid = Table.grid(padding=(0, 2))
        for name, value, total, colour in (
            ("texts pending", self.waiting, max(self.most_waiting, 1), "yellow"),
            ("batches registered", self.registered, self.batches, "blue"),
            ("slots taken", self.taken, self.slots, "cyan"),
            ("batches ready", self.complete, self.batches, "green"),
        ):
            bar = ProgressBar(
                total=total, completed=value, width=40, complete_style=colour, finished_style=f"bold {colour}"
            )
            of = "" if name == "texts pending" else f" of {total}"
            grid.add_row(f"  {name}", bar, Text(f"{value}{of}"))
        return Padding(grid, (1, 0), expand=False)


def _judge(screen: Screen, found: Sequence[Claim], repeats: int) -> bool:
    """Shows the checks. Returns whether all pass."""
    screen.heading("Checks")
    table = Table.grid(padding=(0, 2, 0, 0))
    for claim in found:
        mark = Text("✓", "bold green") if claim.holds else Text("✗", "bold red")
        table.add_row(mark, Text(claim.text), Text(claim.numbers, "dim" if claim.holds else "red"))
    screen.show(table)
    if repeats:
        screen.note(f"{repeats} events were published twice, with the same event id: consumers must deduplicate by it.")
    broken = sum(not claim.holds for claim in found)
    verdict = f"[bold red]{broken} of {len(found)} checks failed.[/]" if broken else "[bold green]All checks passed.[/]"
    screen.show(Text.from_markup(verdict))
    return not broken


if __name__ == "__main__":
    # With the settings in the environment; `python -m deploy.local demo` starts a service if necessary.
    sys.exit(run({name: value for name, value in os.environ.items() if name.startswith("ELS_")}, Console()))
