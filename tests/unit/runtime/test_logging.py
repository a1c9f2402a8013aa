"""All lines of the log have one spelling, and renamed events carry their old name for one release."""

import json
import subprocess
import sys

from service.runtime.logging import FIRST, FORMER_EVENTS

# In processes of their own: loggers keep the configuration with which they were first used.
RENAMED = """
import structlog
from service.runtime.logging import FORMER_EVENTS, log_many, set_up_logging

set_up_logging("INFO", "json")
for event in [*FORMER_EVENTS, "content_pending"]:
    structlog.get_logger("test").info(event, topic="t")
    log_many([(event, {"topic": "t"})])
"""
SPELLED = """
import logging, warnings
from uuid import UUID
import structlog
from service.runtime.logging import log_many, set_up_logging

set_up_logging("INFO", "json")
fields = {"batch_id": "Klass 9\\u00c5", "correlation_id": UUID(int=1), "topic": "t", "offset": 1, "reason": "r"}
log_many([("received", fields)], "warning")
structlog.get_logger("test").warning("received", **dict(reversed(fields.items())))
logging.getLogger("library").warning("received")
warnings.warn("received")
structlog.get_logger("test").warning("received", number=2**70, text="\\ud800", thing=object, batch_id="b")
"""


def lines_of(script: str) -> list[str]:
    """The lines that a script logs. Its locale has no Unicode."""
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": "."}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    return ended.stdout.decode().splitlines()


def test_a_renamed_event_carries_its_former_name_and_no_other_does() -> None:
    lines = [json.loads(line) for line in lines_of(RENAMED)]
    found = [(line["event"], line.get("former_event"), line["topic"]) for line in lines]
    expected = [(event, former, "t") for event, former in [*FORMER_EVENTS.items(), ("content_pending", None)]]
    assert found == [line for line in expected for _ in range(2)]
    assert all(list(line) == sorted(line, key=FIRST.index) for line in lines)


def test_every_line_has_the_same_spelling_whoever_writes_it() -> None:
    lines = lines_of(SPELLED)
    many, one, *others = lines
    assert many.split('"timestamp"')[0] == one.split('"timestamp"')[0] == '{"event":"received","level":"warning",'
    assert many.split('Z",')[1] == one.split('Z",')[1]
    assert '"batch_id":"Klass 9Å","correlation_id":"00000000-0000-0000-0000-000000000001","topic":"t",' in many
    for line in [many, *others]:
        fields = json.loads(line)
        spelled = json.dumps(fields, separators=(",", ":"), ensure_ascii=line == others[-1])
        assert line == spelled
        assert list(fields)[:3] == ["event", "level", "timestamp"]
        assert len(fields["timestamp"]) == len("2026-01-01T00:00:00.000000Z")
    assert [json.loads(line)["logger"] for line in others[:2]] == ["library", "py.warnings"]
