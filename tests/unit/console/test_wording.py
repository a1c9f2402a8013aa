"""Tests how the console says in words what the log of operator actions states as JSON."""

from typing import Any

import pytest

from service.console.acting import ACTIONS
from service.console.console import PAGES
from service.console.wording import _OUTCOMES, _PAGES, ActionOutcome, NextStep, facts, input_of, outcome, step
from service.operators.advice import Command


@pytest.mark.parametrize(
    ("action", "details", "said"),
    [
        (
            "quarantine replay",
            {"id": 1, "outcome": "rejected", "reason": "not_json"},
            ActionOutcome("not replayed: rejected again (not_json)", has_failed=True),
        ),
        (
            "quarantine replay",
            {"id": 1, "outcome": "killed_the_process", "error": "ended with -9"},
            ActionOutcome("not replayed: it ended the process that replayed it", has_failed=True),
        ),
        ("quarantine replay", {"id": 1, "outcome": "assigned"}, ActionOutcome("replayed: assigned")),
        ("quarantine replay", {"outcome": "assigned", "cell": 2}, ActionOutcome("replayed in cell 2: assigned")),
        ("pending remove", {"contents": 1, "text_storage_ids": ["t"]}, ActionOutcome("removed: 1 content")),
        (
            "pending restore",
            {"contents": 2, "failures": 1, "text_storage_ids": [], "file_upload_ids": []},
            ActionOutcome("waits again: 2 contents and 1 validation failure"),
        ),
        (
            "batches close",
            {"state": "ready", "expected": 1000, "assigned": 999, "failed": 0, "withdrawn": 1},
            ActionOutcome("ready: of 1,000 slots, 999 assigned, 0 failed, 1 withdrawn"),
        ),
        (
            "batches republish",
            {"events": [{}, {}], "slots": 3, "excess": 0, "left_out": 4},
            ActionOutcome("5 events published again, 4 not", has_failed=True),
        ),
        (
            "inputs skip",
            {"partition": 0, "first_offset": 3, "next_offset": 4},
            ActionOutcome("skipped: partition 0, offset 3"),
        ),
        (
            "privacy erase",
            {"kind": "user", "digest": "x", "batches": 2},
            ActionOutcome("to be erased in 2 batches: a row for each follows"),
        ),
        ("privacy erase", {"kind": "user", "whole": True, "rows": {}}, ActionOutcome("erased: the whole batch")),
        ("health acknowledge", {"lost_inputs": 7}, ActionOutcome("marked as seen: loss 7")),
        ("topics adopt", {"used_before": 1, "partitions": 2, "relays": 0}, ActionOutcome("2 partitions instead of 1")),
        # Of another release, or erased.
        ("pending remove", {}, ActionOutcome("done")),
        ("batches close", {"state": "ready", "expected": "[erased]"}, ActionOutcome("done")),
        ("an action of the future", {"x": 1}, ActionOutcome("done")),
    ],
)
def test_an_action_has_an_outcome_in_words(action: str, details: dict[str, Any], said: ActionOutcome) -> None:
    assert outcome(action, details) == said


def test_every_action_has_an_outcome() -> None:
    assert {name.replace("-", " ", 1) for name in ACTIONS} | {"recover", "recover abandon"} == _OUTCOMES.keys()


def test_details_are_shown_as_names_and_values() -> None:
    details = {
        "text_storage_ids": [f"t{number}" for number in range(23)],
        "before": None,
        "whole": False,
        "rows": {"batches": 1, "slots": 2},
        "events": [{"topic": "a", "event_id": "b"}],
        "none": [],
    }
    assert facts(details) == [
        ("text storage ids", ", ".join(f"t{number}" for number in range(20)) + " and 3 more"),
        ("before", "–"),
        ("whole", "no"),
        ("rows", "batches 1, slots 2"),
        ("events", "topic a, event id b"),
        ("none", "none"),
    ]


def test_only_actions_on_rejected_inputs_are_about_one() -> None:
    assert input_of("quarantine replay", {"id": 4}) == 4
    assert input_of("quarantine resume", {}) is input_of("pending remove", {"id": 4}) is None
    assert input_of("quarantine replay", {"id": "[erased]"}) is None


def test_a_command_is_the_page_that_does_the_same() -> None:
    assert step("ask them") == NextStep("ask them")
    assert step(Command("batches cancel", "it's", "WRONG_REGISTRATION")) == NextStep(
        "Cancel the batch", "do/batches-cancel", {"batch": "it's", "kind": "WRONG_REGISTRATION"}
    )
    assert step(Command("top --once")) == NextStep("Topics", "topics")
    assert step(Command("recover")) == NextStep("els recover", is_command=True)
    paths = {page.path for page in PAGES}
    for _, page, name in _PAGES.values():
        action = ACTIONS.get(page.removeprefix("do/"))
        assert (page in paths) if action is None else (name in {each.name for each in action.fields})


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (Command("quarantine show", "4"), "els quarantine show 4"),
        (Command("pending restore", "it's"), """els pending restore 'it'"'"'s' --why '…'"""),
        (
            Command("batches cancel", "b", "WRONG_REGISTRATION"),
            "els batches cancel b --reason WRONG_REGISTRATION --why '…'",
        ),
        (Command("recover"), "els recover"),
    ],
)
def test_a_command_is_a_line_of_the_shell(command: Command, line: str) -> None:
    assert str(command) == line
