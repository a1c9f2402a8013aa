"""Tests that each effect of a transaction is logged once, with every known id, and counted."""

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from uuid import uuid4

import pytest
import structlog
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from service.domain.delivery import Delivery
from service.domain.events import Reason, Rejection
from service.domain.repeats import FileDifference, KnownFile
from service.intake import reporting
from service.intake.outcome import EffectKind, EffectRecord, EffectRecords, Effects, ReconciledEffects
from service.runtime import logging
from tests.support.builders.events import content
from tests.support.builders.inputs import provisioned

CORRELATION = uuid4()
DELIVERY: Delivery = provisioned("b", "t")
WHERE = {"topic": DELIVERY.topic, "partition": DELIVERY.partition, "offset": DELIVERY.offset}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTENT = {"batch_id": "b", "text_storage_id": "t", "correlation_id": str(CORRELATION)}


def effect(kind: EffectKind, upload: str | None = "t", **more: object) -> EffectRecord:
    values: dict[str, object] = {"batch_id": "b", "upload": upload, "correlation_id": CORRELATION, **more}
    return EffectRecord(kind, **values)  # type: ignore[arg-type]


EFFECTS = {
    "early content": (
        effect("content_pending", delivery=DELIVERY, trace_id=TRACE),
        {**CONTENT, "trace_id": TRACE, **WHERE},
    ),
    "content that had waited": (
        effect("content_assigned", detail="e1", seconds=1.23456),
        {**CONTENT, "essay_id": "e1", "seconds": 1.235},
    ),
    "excess": (
        effect("content_excess", delivery=DELIVERY, detail="BATCH_FULL"),
        {**CONTENT, **WHERE, "reason": "BATCH_FULL"},
    ),
    "a failure": (
        effect("failure_slot", "u", delivery=DELIVERY),
        {"batch_id": "b", "file_upload_id": "u", "correlation_id": str(CORRELATION), **WHERE},
    ),
    "a batch": (
        effect("batch_ready", None, seconds=2),
        {"batch_id": "b", "correlation_id": str(CORRELATION), "seconds": 2},
    ),
    "a repeated rejection": (EffectRecord("rejection_repeated", None, None, None, DELIVERY), WHERE),
}


@pytest.mark.parametrize("what", EFFECTS)
async def test_an_effect_is_one_line_with_every_known_id(what: str) -> None:
    record, fields = EFFECTS[what]
    with capture_logs() as logs:
        await reporting.report(Effects(EffectRecords(record)))
    assert logs == [{"event": record.kind, "log_level": "info", **fields}]


async def test_json_lines_of_a_transaction_equal_those_that_are_logged_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging._Output, "is_json", True)
    await reporting.report(Effects(EffectRecords(*(record for record, _ in EFFECTS.values()))))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, (record, fields) in zip(lines, EFFECTS.values(), strict=True):
        assert line.pop("timestamp").endswith("Z")
        former = logging.FORMER_EVENTS.get(record.kind)
        assert line == {"event": record.kind, "level": "info", **fields} | ({"former_event": former} if former else {})


def test_the_columns_of_reconciled_content_keep_every_id() -> None:
    traced = content("t", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    reconciled = ReconciledEffects("content_assigned")
    for each in (content("u"), traced):
        reconciled.add("b", each, "e", 1.0)
    assert list(reconciled) == [
        EffectRecord("content_assigned", "b", each.text_storage_id, each.correlation_id, None, "e", 1.0, trace)
        for each, trace in ((content("u"), None), (traced, TRACE))
    ]


async def test_a_rejected_input_is_logged_with_its_ids() -> None:
    rejection = Rejection(Reason.DATA_ERROR, "no")
    event = content("t", traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    with capture_logs() as logs:
        await reporting.report(Effects(rejected=[(replace(DELIVERY, event=event), rejection)]))
    (line,) = logs
    ids = {**CONTENT, "file_upload_id": "upload-t", "correlation_id": str(event.correlation_id), "trace_id": TRACE}
    why = {"reason": "data_error", "error": "no"}
    assert line == {"event": "input_rejected", "log_level": "warning", **ids, **WHERE, **why}


async def test_a_repeat_that_names_another_file_is_a_warning_with_both_values_and_is_counted() -> None:
    def counted() -> list[float]:
        names = ("file_upload_id", "content_md5_hash", "file_size_bytes")
        return [REGISTRY.get_sample_value("els_content_differences_total", {"field": name}) or 0 for name in names]

    repeat = content("t", file_upload_id="again", file_size_bytes=2)
    difference = FileDifference(KnownFile("first", None, 1), repeat, ("file_upload_id", "file_size_bytes"))
    delivery = replace(DELIVERY, event=repeat)
    before = counted()
    with capture_logs() as logs:
        await reporting.report(Effects(other_files=[(delivery, difference)]))
    assert logs == [
        {
            "event": "content_differs",
            "log_level": "warning",
            "batch_id": "b",
            "text_storage_id": "t",
            "file_upload_id": "again",
            "correlation_id": str(repeat.correlation_id),
            **WHERE,
            "first": {"file_upload_id": "first", "file_size_bytes": 1},
            "repeat": {"file_upload_id": "again", "file_size_bytes": 2},
        }
    ]
    assert [after - was for was, after in zip(before, counted(), strict=True)] == [1, 0, 1]


async def test_effects_are_counted_although_logging_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, _: str) -> None:
            raise OSError("no space left on device")

    def counts() -> list[float]:
        samples = [("els_slots_assigned_total", {}), ("els_quarantined_total", {"reason": "data_error"})]
        return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in samples]

    monkeypatch.setattr(logging._Output, "is_json", True)
    monkeypatch.setattr("sys.stdout", Full())
    monkeypatch.setattr(logging, "_log", structlog.wrap_logger(structlog.PrintLogger(Full())))  # type: ignore[arg-type]
    many = [effect("content_assigned", f"t{number}") for number in range(reporting.AT_ONCE + 1)]
    rejected = [(DELIVERY, Rejection(Reason.DATA_ERROR, "no"))] * 2
    before = counts()
    with suppress(OSError):
        await reporting.report(Effects(EffectRecords(*many), rejected=rejected))
    assert [after - was for was, after in zip(before, counts(), strict=True)] == [len(many), 2]


async def test_other_tasks_run_between_many_effects(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging._Output, "is_json", True)
    many = [effect("content_assigned", f"t{number}") for number in range(3 * reporting.AT_ONCE)]
    reporting_task = asyncio.create_task(reporting.report(Effects(EffectRecords(*many))))
    lines = []
    while not reporting_task.done():
        await asyncio.sleep(0)
        lines.append(len(capsys.readouterr().out.splitlines()))
    assert max(lines) == reporting.AT_ONCE
    assert sum(lines) == len(many)
