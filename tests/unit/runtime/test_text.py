"""Text from outside is harmless where people see it, and JSON stays the same JSON."""

import io
import json

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.runtime.logging import log_many, set_up_logging
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
    stream = io.StringIO()
    set_up_logging("INFO", form, stream)
    structlog.get_logger("a test").info("received", batch_id=HOSTILE, parts=[HOSTILE])
    log_many([{"event": "received", "batch_id": HOSTILE}])
    assert "received" in stream.getvalue()
    assert all(line.isprintable() for line in stream.getvalue().splitlines())
