"""Tests that actions are repeated for those who performed them first, and that what cannot be repeated is named."""

import json
from datetime import UTC, datetime

import pytest

from service.domain.delivery import IntakeLimits, fingerprint
from service.domain.events import Reason, Rejection
from service.domain.input_limits import InputLimits
from service.domain.topics import CONTENT_PROVISIONED
from service.operators.operations import Operations
from service.operators.repetition import Repetition
from service.recovery.acts import Act, lost_acts, read_acts
from tests.support.builders.inputs import content, delivery
from tests.support.pods.applier import ApplyFixture
from tests.support.pods.command_line import ROOT

AT = datetime(2026, 11, 1, 12, tzinfo=UTC)
REPEATED = """
select who, why, (details ->> 'first_at')::timestamptz, details ->> 'repeated_by' from ops.operator_actions
"""


def repetition(applier: ApplyFixture) -> Repetition:
    return Repetition(applier.database, Operations(applier.database, IntakeLimits(), InputLimits()), "her")


async def test_a_correction_that_another_process_repeats_is_also_that_of_its_first_author(
    applier: ApplyFixture, app_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise its row would say that they did it now, and a second repetition would write another one."""
    monkeypatch.setenv("ELS_DATABASE_URL", app_url)
    monkeypatch.setenv("ELS_KAFKA_BOOTSTRAP_SERVERS", "nobody:1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    killer = delivery(CONTENT_PROVISIONED, b"x", event=Rejection(Reason.KILLED_THE_PROCESS, "it crashed"))
    await applier.once(killer)
    details = {"fingerprint": fingerprint(killer).hex(), "value": content("b", "t").decode()}
    act = Act(AT, "me", "quarantine edit", "b", CONTENT_PROVISIONED, "by hand", details)
    for _ in range(2):
        assert await repetition(applier).repeat([act]) == []
    assert applier.rows("select text_storage_id from els.pending_content") == [("t",)]
    assert applier.rows(REPEATED) == [("me", "by hand", AT, "her")]


async def test_actions_whose_details_were_erased_are_named(applier: ApplyFixture) -> None:
    """An erasure blanks each detail that contains the name of a file, which may be "1"."""
    gone = "[erased]"
    lines = [
        {"action": "inputs skip", "topic": CONTENT_PROVISIONED, "details": {"partition": gone, "offset": 1}},
        {"action": "pending remove", "batch_id": "b", "details": {"contents": 2, "text_storage_ids": gone}},
        {"action": "quarantine discard", "topic": CONTENT_PROVISIONED, "details": {"fingerprint": gone}},
        {"action": "batches cancel", "batch_id": "b", "details": {"reason": gone}},
    ]
    common = {"who": "me", "why": gone, "at": AT.isoformat()}
    acts = read_acts("\n".join(json.dumps(common | line) for line in lines).encode())
    lost = lost_acts(acts, InputLimits())
    assert (lost.skipped, dict(lost.removed)) == ([], {"b": {}})
    incomplete = "its details do not say what it did: they were erased, or are no longer as they were written"
    assert {act.action: why for act, why in await repetition(applier).repeat(acts)} == {
        "inputs skip": incomplete,
        "pending remove": "it names 0 of its 2 uploads",
        "quarantine discard": incomplete,
        "batches cancel": incomplete,
    }


async def test_an_export_of_the_view_keeps_characters_that_the_view_does_not_show(applier: ApplyFixture) -> None:
    """Marks of the direction of text are parts of names, and a spreadsheet takes "@x" for a formula."""
    name = "\u200f@x\u202e\x1b"
    applier.conn.execute(
        "insert into els.operator_actions (who, action, batch_id, why, details) values (%s, %s, %s, %s, %s)",
        ["@x", "pending remove", "b", name, json.dumps({"contents": 1, "text_storage_ids": [name]})],
    )
    query = "select row_to_json(a)::text from ops.operator_actions as a"
    (act,) = read_acts("\n".join(row for (row,) in applier.rows(query)).encode())
    assert (act.who, act.why, act.details["text_storage_ids"]) == ("@x", name, [name])
