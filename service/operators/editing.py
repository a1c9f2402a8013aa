"""Shows the value of a rejected input to an operator who corrects it, and how the corrected one differs."""

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from service.operators.replay import Replayed
from service.runtime.text import plain

MOST_GROWTH: Final = 8
"""How many times longer a value may become by its lines. One that is nested deep may become 300 times longer."""

MOST_COMPARED: Final = 2_000_000
"""How many pairs of lines are compared: that takes a second, and the time grows with their number."""

CONTEXT: Final = 3


@dataclass(frozen=True, slots=True)
class Edited(Replayed):
    """The result of an edit. `difference` are lines of a unified diff, from the original value to the edited one."""

    difference: str = ""


def editable(value: bytes | None) -> str | None:
    """Return a value as it is edited: JSON with a line for each field, other text as it is; None if it is no text."""
    text = text_of(value or b"")
    if text is None:
        return None
    most = MOST_GROWTH * len(text) + 1_000
    shown = []
    try:
        encoder = json.JSONEncoder(indent=2, ensure_ascii=False)
        for part in encoder.iterencode(json.loads(text, object_pairs_hook=_unique)):
            shown.append(part)
            most -= len(part)
            if most < 0:
                return text
        formatted = "".join(shown)
        formatted.encode()
    except (ValueError, RecursionError):
        return text
    return formatted + "\n"


def difference(original: bytes | None, edited: bytes) -> str:
    """Return how an edited value differs from the original one, as both are edited."""
    before, after = editable(original), editable(edited)
    if before is None or after is None:
        return "the values are not text\n"
    return "".join(f"{plain(line)}\n" for line in _unified(before.splitlines(), after.splitlines()))


def _unified(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Return a unified diff, of which what is equal at both ends costs nothing; a long one replaces all between."""
    same = _equal(before, after)
    end = min(_equal(before[::-1], after[::-1]), len(before) - same, len(after) - same)
    old, new = len(before) - same - end, len(after) - same - end
    if not old and not new:
        return []
    if old * new > MOST_COMPARED:
        changed = [f"-{line}" for line in before[same : same + old]] + [f"+{line}" for line in after[same : same + new]]
        return ["--- original", "+++ edited", f"@@ -{same + 1},{old} +{same + 1},{new} @@", *changed]
    start, end = max(0, same - CONTEXT), max(0, end - CONTEXT)
    some, others = (lines[start : len(lines) - end] for lines in (before, after))
    found = difflib.unified_diff(some, others, "original", "edited", n=CONTEXT, lineterm="")
    return [_moved(line, start) if line.startswith("@@") else line for line in found]


def _equal(before: Sequence[str], after: Sequence[str]) -> int:
    """Return how many lines are equal at the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))


def _moved(header: str, by: int) -> str:
    return re.sub(r"(?<=[-+])\d+", lambda number: str(int(number[0]) + by), header)


def text_of(value: bytes) -> str | None:
    """Return bytes as text; None where they are not printable text."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if all(char.isprintable() or char in "\t\n\r" for char in text) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object. Raises ValueError where a name is there twice: one of the two would be lost."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is there twice")
    return made
