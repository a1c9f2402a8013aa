"""Metrics and log lines of a cell carry its number; those of a service without cells do not."""

import json

from service.runtime.metrics import exposition
from tests.unit.runtime.test_logging import lines_of

LOGGED = """
import structlog
from service.runtime.logging import log_many, set_cell, set_up_logging

set_up_logging("INFO", "json")
set_cell(3)
structlog.get_logger("cells").info("one", batch_id="b")
log_many([("two", {"batch_id": "b"})])
set_cell(None)
log_many([("three", {"batch_id": "b"})])
"""


def test_every_sample_has_the_label_of_the_cell() -> None:
    plain, labelled = exposition().decode().splitlines(), exposition(3).decode().splitlines()
    assert not any('cell="' in line for line in plain)
    samples = [line for line in labelled if not line.startswith("#")]
    assert all('cell="3"' in line for line in samples)
    assert len(samples) == len([line for line in plain if not line.startswith("#")])
    assert any(line.startswith('els_batches_ready_total{cell="3"} ') for line in samples)
    assert any(line.startswith('els_excess_content_total{cell="3",reason="BATCH_FULL"} ') for line in samples)
    assert [line for line in labelled if line.startswith("#")] == [line for line in plain if line.startswith("#")]


def test_every_line_has_the_cell() -> None:
    lines = [json.loads(line) for line in lines_of(LOGGED)]
    assert [(line["event"], line.get("cell")) for line in lines] == [("one", 3), ("two", 3), ("three", None)]
