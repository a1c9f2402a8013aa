"""Makes text from outside harmless where people see it: in terminals, logs and JSON."""

import re
from typing import Final

REPLACEMENT: Final = "\ufffd"
_UNSAFE_IN_JSON: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Return one line without control characters, and without marks that change the direction of what follows."""
    return text if text.isprintable() else "".join(char if char.isprintable() else REPLACEMENT for char in text)


def plain_lines(text: str) -> str:
    """Return the same for a text of several lines."""
    return "\n".join(plain(line.replace("\t", "    ")) for line in text.splitlines())


def safe_json(encoded: str) -> str:
    """Return the same JSON, with escapes for the characters that JSON allows and a terminal obeys."""
    if encoded.isascii():
        return encoded
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)
