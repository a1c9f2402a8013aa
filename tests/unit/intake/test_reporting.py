"""What a transaction did is told once: a line for each decision, with every id that is known."""

import asyncio
import json
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
import structlog
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service.domain.delivery import Delivery
from service.domain.events import Reason, Rejection
from service.intake import reporting
from service.intake.outcome import EffectKind, EffectRecord, EffectRecords, Effects
from service.runtime import metrics as telemetry
from tests.support.builders.inputs import provisioned

CORRELATION = uuid4()
DELIVERY: Delivery = provisioned("b", "t")
WHERE = {"topic": DELIVERY.topic, "partition": DELIVERY.partition, "offset": DELIVERY.offset}
CONTENT = {"batch_id": "b", "text_storage_id": "t", "correlation_id": str(CORRELATION)}


def decision(what: EffectKind, upload: str | None = "t", **more: object) -> EffectRecord:
    values: dict[str, object] = {"batch_id": "b", "upload": upload, "correlation_id": CORRELATION, **more}
    return EffectRecord(what, **values)  # type: ignore[arg-type]


DECISIONS = {
    "early content": (decision("content_pending", delivery=DELIVERY), {**CONTENT, **WHERE}),
    "content that had waited": (
        decision("content_assigned", detail="e1", seconds=1.23456),
        {**CONTENT, "essay_id": "e1", "seconds": 1.235},
    ),
    "excess": (
        decision("content_excess", delivery=DELIVERY, detail="BATCH_FULL"),
        {**CONTENT, **WHERE, "reason": "BATCH_FULL"},
    ),
    "a failure": (
        decision("failure_slot", "u", delivery=DELIVERY),
        {"batch_id": "b", "file_upload_id": "u", "correlation_id": str(CORRELATION), **WHERE},
    ),
    "a batch": (
        decision("batch_ready", None, seconds=2),
        {"batch_id": "b", "correlation_id": str(CORRELATION), "seconds": 2},
    ),
    "a rejection that came again": (EffectRecord("rejection_repeated", None, None, None, DELIVERY), WHERE),
}


@pytest.mark.parametrize("what", DECISIONS)
async def test_a_decision_is_one_line_with_every_id_that_is_known(what: str) -> None:
    decided, fields = DECISIONS[what]
    with capture_logs() as logs:
        await reporting.report(Effects(EffectRecords(decided)))
    assert logs == [{"event": decided.kind, "log_level": "info", **fields}]


async def test_as_json_the_lines_of_a_transaction_are_those_of_one_line_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(telemetry, "_plain_json", True)
    await reporting.report(Effects(EffectRecords(*(decided for decided, _ in DECISIONS.values()))))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, (decided, fields) in zip(lines, DECISIONS.values(), strict=True):
        assert line.pop("timestamp").endswith("Z")
        assert line == {"event": decided.kind, "level": "info", **fields}


async def test_a_refused_input_is_told_with_the_batch_that_it_names() -> None:
    rejection = Rejection(Reason.CONFLICTING_REGISTRATION, "another set")
    with capture_logs() as logs:
        await reporting.report(Effects(rejected=[(DELIVERY, rejection)]))
    (line,) = logs
    assert (line["event"], line["log_level"], line["batch_id"]) == ("input_refused", "warning", "b")
    assert str(UUID(line["correlation_id"])) == line["correlation_id"]


async def test_what_cannot_be_logged_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: str) -> None:
            raise OSError("no space left on device")

    def counts() -> list[float]:
        samples = [("els_slots_assigned_total", {}), ("els_quarantined_total", {"reason": "data_error"})]
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in samples]

    monkeypatch.setattr(telemetry, "_plain_json", True)
    monkeypatch.setattr("sys.stdout", Full())
    monkeypatch.setattr(telemetry, "_log", structlog.wrap_logger(structlog.PrintLogger(Full())))  # type: ignore[arg-type]
    many = [decision("content_assigned", f"t{number}") for number in range(reporting.AT_ONCE + 1)]
    rejected = [(DELIVERY, Rejection(Reason.DATA_ERROR, "no"))] * 2
    before = counts()
    with suppress(OSError):
        await reporting.report(Effects(EffectRecords(*many), rejected=rejected))
    assert [after - was for was, after in zip(before, counts(), strict=True)] == [len(many), 2]


async def test_between_many_decisions_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(telemetry, "_plain_json", True)
    many = [decision("content_assigned", f"t{number}") for number in range(3 * reporting.AT_ONCE)]
    telling = asyncio.create_task(reporting.report(Effects(EffectRecords(*many))))
    lines = []
    while not telling.done():
        await asyncio.sleep(0)
        lines.append(len(capsys.readouterr().out.splitlines()))
    assert max(lines) == reporting.AT_ONCE
    assert sum(lines) == len(many)
