"""Text from outside is harmless where people see it, and JSON stays the same JSON."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.text import plain, safe_json

HOSTILE = "a\x1b[2Jb\x9b31mc\u202ed\u2066e\x7ff"


@given(st.text())
def test_plain_text_is_one_printable_line(text: str) -> None:
    assert plain(text).isprintable()
    assert plain(plain(text)) == plain(text)


@given(st.text())
def test_safe_json_means_the_same(text: str) -> None:
    encoded = json.dumps({"name": text}, ensure_ascii=False)
    assert json.loads(safe_json(encoded)) == {"name": text}


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_log_contains_nothing_that_a_terminal_obeys(form: str) -> None:
    # In a process of its own: loggers keep the configuration with which they were first used.
    script = f"""
import structlog
from service.runtime.logging import log_many, set_up_logging

set_up_logging("INFO", {form!r})
structlog.get_logger("a test").info("received", batch_id={HOSTILE!r}, parts=[{HOSTILE!r}])
log_many([("received", {{"batch_id": {HOSTILE!r}}})])
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.count("received") == 2
    assert all(line.isprintable() for line in ended.stdout.splitlines())
