"""`make demo` on a real pod: its checks pass, each check fails when it should, and no wait is unbounded."""

import asyncio
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from deploy.demo import checks, demo, story
from deploy.demo.story import Batch, Event, Outcome
from deploy.servers.brokers import Broker
from deploy.servers.pods import pods
from service.domain.topics import BATCH_COMPLETED, BATCH_READY, EXCESS_CONTENT, SLOT_ASSIGNED, VALIDATION_ERRORS
from tests.support.checks.expected import read_back
from tests.support.checks.readers import read_strictly


@pytest.fixture
def settings(app_url: str, database_url: str, kafka: Broker) -> dict[str, str]:
    return {
        "ELS_DATABASE_URL": app_url,
        "ELS_MIGRATION_DATABASE_URL": database_url,
        **kafka.settings,
    }


@pytest.fixture
def service(settings: dict[str, str], tmp_path: Path) -> Iterator[None]:
    with pods(tmp_path, settings) as started:
        started.start()
        asyncio.run(started.ready())
        yield
        assert not started.complaints()


def played(settings: dict[str, str]) -> tuple[int, str]:
    """Returns its exit status and what it printed without a terminal."""
    paper = io.StringIO()
    status = demo.run(settings, Console(file=paper, width=100))
    return status, paper.getvalue()


def test_the_demo_can_be_repeated_on_one_service_and_leaves_nothing_to_do(
    service: None, settings: dict[str, str], kafka: Broker, database_url: str
) -> None:
    for _ in range(2):
        status, paper = played(settings)
        assert status == 0, paper
        assert "All checks passed." in paper
        assert "✗" not in paper
        assert "\x1b" not in paper
        assert max(map(len, paper.splitlines())) <= 100
        with psycopg.connect(database_url) as conn:
            assert conn.execute("select level, attention from ops.health").fetchone() == ("fine", [])
            # Nor does it leave what tomorrow is late.
            assert conn.execute("select from els.batches where state in ('registered', 'complete')").fetchall() == []
    published = asyncio.run(read_back(kafka))
    assert all(published[topic] for topic in (SLOT_ASSIGNED, BATCH_COMPLETED, BATCH_READY, VALIDATION_ERRORS))
    for topic, records in published.items():
        for record in records:
            read_strictly(topic, record.value)


def test_a_demo_without_a_service_says_what_is_missing_and_where_to_find_the_cause(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "PATIENCE", 3.0)
    status, paper = played({**settings, "ELS_HTTP_PORT": "8123"})
    assert status == 1
    assert "ops.pending_content does not show the 5 texts" in paper
    assert "http://127.0.0.1:8123/readyz" in paper
    assert ".local/service.log" in paper


def test_a_demo_without_a_broker_or_a_database_fails_with_one_line(settings: dict[str, str]) -> None:
    nobody = "127.0.0.1:1"
    for name, value in {
        "ELS_KAFKA_BOOTSTRAP_SERVERS": nobody,
        "ELS_MIGRATION_DATABASE_URL": f"postgresql://els@{nobody}/els",
        "ELS_DATABASE_URL": "",
    }.items():
        status, paper = played({**settings, name: value})
        assert status == 1
        assert paper.strip().startswith("✗")
        assert "Traceback" not in paper


BATCH = Batch("b", slots=3, contents=3)
FAILING = Batch("f", slots=2, contents=1, failures=1)
FULL = Batch("x", slots=1, contents=2)


@pytest.fixture
def good() -> Outcome:
    """The correct result of three batches; the first was registered twice, with a contradiction."""
    slots = [("b", n, f"essay-{n}", "assigned", f"text-{n}", f"upload-{n}") for n in (1, 2, 3)]
    slots += [
        ("f", 1, "essay-1", "assigned", "text-1", "upload-1"),
        ("x", 1, "essay-1", "assigned", "text-1", "upload-1"),
    ]
    events = [
        Event(SLOT_ASSIGNED, batch, {"batch_id": batch, "essay_id": essay, "text_storage_id": text}, 1)
        for batch, _, essay, _, text, _ in slots
    ]
    events += [
        Event(
            topic,
            ready,
            {
                "batch_id": ready,
                name: [
                    {"essay_id": essay, "text_storage_id": text}
                    for batch, _, essay, _, text, _ in slots
                    if batch == ready
                ],
            },
            2,
        )
        for ready in "bfx"
        for topic, name in ((BATCH_COMPLETED, "essays_for_processing"), (BATCH_READY, "ready_essays"))
    ]
    events.append(Event(VALIDATION_ERRORS, "f", {"batch_id": "f", "failed_essays": [{}]}, 2))
    events.append(Event(EXCESS_CONTENT, "x", {"batch_id": "x", "text_storage_id": "text-2"}, 2))
    return Outcome(
        events=events,
        slots=[*slots, ("f", 2, "essay-2", "failed", None, "failed-1")],
        batches=[("b", "ready"), ("f", "ready"), ("x", "ready")],
        excess=[("x", "text-2")],
        quarantine=[("b", "conflicting_registration, discarded")],
    )


def broken(end: Outcome) -> list[str]:
    return [claim.text for claim in checks.claims([BATCH, FAILING, FULL], BATCH, end) if not claim.holds]


def test_every_check_passes_on_the_correct_result(good: Outcome) -> None:
    assert broken(good) == []


@pytest.mark.parametrize(
    ("spoil", "claim"),
    [
        (lambda end: {"slots": end.slots[1:]}, "each text is in one slot"),
        (lambda end: {"excess": [*end.excess, ("b", "text-1")]}, "each text is in one slot"),
        (lambda end: {"excess": [*end.excess, ("b", "text-1")]}, "only surplus texts are excess"),
        (lambda end: {"batches": [("b", "registered"), *end.batches[1:]]}, "all slots are taken"),
        (lambda end: {"slots": end.slots[:-1]}, "each failed upload"),
        (lambda end: {"events": end.events[1:]}, "EssaySlotAssigned"),
        (lambda end: {"events": [*end.events, end.events[0]]}, "EssaySlotAssigned"),
        (lambda end: {"events": [*end.events, end.events[5]]}, "BatchContentProvisioningCompleted: one per"),
        (lambda end: {"events": end.events[:5] + end.events[6:]}, "BatchContentProvisioningCompleted: one per"),
        (lambda end: {"events": [*end.events, end.events[6]]}, "BatchEssaysReady: one per"),
        (lambda end: {"events": end.events[:6] + end.events[7:]}, "BatchEssaysReady: one per"),
        (
            lambda end: {"events": [dataclasses.replace(end.events[0], published_at=3), *end.events[1:]]},
            "BatchEssaysReady: never before",
        ),
        (lambda end: {"events": end.events[:-1]}, "ExcessContentProvisioned"),
        (lambda end: {"events": [*end.events[:-2], end.events[-1]]}, "BatchValidationErrors"),
        (lambda end: {"events": [*end.events, Event("another", "b", {}, 1)]}, "no other events were published"),
        (lambda _: {"waiting": [("b", "content")]}, "nothing is pending"),
        (lambda _: {"quarantine": []}, "one row in quarantine"),
        (lambda _: {"quarantine": [("b", "conflicting_registration, open")]}, "one row in quarantine"),
        (lambda _: {"left": ["1 rejected inputs are open"]}, "ops.health"),
        (lambda end: {"quarantine": [*end.quarantine, ("f", "invalid_field")]}, "one row in quarantine"),
        (lambda _: {"violations": [("I4", "b", "content waits")]}, "ops.invariant_violations"),
    ],
)
def test_a_wrong_result_fails_its_check(
    good: Outcome, spoil: Callable[[Outcome], dict[str, object]], claim: str
) -> None:
    found = broken(dataclasses.replace(good, **spoil(good)))  # type: ignore[arg-type]
    assert any(text.startswith(claim) for text in found), found
