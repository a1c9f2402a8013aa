"""Shows the value of a rejected input to an operator who corrects it, and how the corrected one differs."""

import difflib
import json
from dataclasses import dataclass
from typing import Any

from service.operators.replay import Replayed
from service.runtime.text import plain


@dataclass(frozen=True, slots=True)
class Edited(Replayed):
    """The result of an edit. `difference` are lines of a unified diff, from the original value to the edited one."""

    difference: str = ""


def editable(value: bytes | None) -> str | None:
    """Return a value as it is edited: JSON with a line for each field, other text as it is; None if it is no text."""
    text = text_of(value or b"")
    if text is None:
        return None
    try:
        shown = json.dumps(json.loads(text, object_pairs_hook=_unique), indent=2, ensure_ascii=False)
        shown.encode()
    except (ValueError, RecursionError):
        return text
    return shown + "\n"


def difference(original: bytes | None, edited: bytes) -> str:
    """Return how an edited value differs from the original one, as both are edited."""
    before, after = editable(original), editable(edited)
    if before is None or after is None:
        return "the values are not text\n"
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "original", "edited", lineterm="")
    return "".join(f"{plain(line)}\n" for line in lines)


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
