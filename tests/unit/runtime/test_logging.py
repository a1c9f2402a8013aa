"""Lines of renamed log events carry the old name for one release, whichever way they are written."""

import json
import subprocess
import sys

from service.runtime.logging import FORMER_EVENTS

# In a process of its own: loggers keep the configuration with which they were first used.
SCRIPT = """
import structlog
from service.runtime.logging import FORMER_EVENTS, log_many, set_up_logging

set_up_logging("INFO", "json")
for event in [*FORMER_EVENTS, "content_pending"]:
    structlog.get_logger("test").warning(event, topic="t")
    log_many([{"event": event, "topic": "t"}])
"""


def test_a_renamed_event_carries_its_former_name_and_no_other_does() -> None:
    ended = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    found = [(line["event"], line.get("former_event"), line["topic"]) for line in lines]
    expected = [(event, former, "t") for event, former in [*FORMER_EVENTS.items(), ("content_pending", None)]]
    assert found == [line for line in expected for _ in range(2)]
