"""Reads a section of a runbook from the documents that belong to this release."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from markupsafe import Markup, escape

from service.console.pages.reads import ConsolePage, Query, Reads
from service.console.rendering import href
from service.operators.errors import NotFound

RUNBOOKS: Final = ("operations.md", "recovery.md", "kafka.md")
"""The documents that lines of ops.health and next steps name."""

FOLDER_OF_DOCS: Final = Path(__file__).parents[3] / "docs"

_MARK: Final = re.compile(r"(?P<code>`[^`]+`)|\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)|\*\*?(?P<strong>[^*]+)\*\*?")


class Block(NamedTuple):
    """A part of a section: `text` in lines, `code`, or a `table` of rows of cells."""

    kind: str
    content: Any


class Section(NamedTuple):
    """What is below a heading, up to the next one."""

    title: str
    blocks: Sequence[Block]


async def _runbook(_: Reads, query: Query) -> Mapping[str, Any]:
    document, anchor = query.required("name").partition("#")[::2]
    section = _sections(document).get(anchor) if document in RUNBOOKS else None
    if section is None:
        raise NotFound("no runbook has such a section")
    return {"section": section, "place": f"docs/{document}"}


@cache
def _sections(document: str) -> Mapping[str, Section]:
    """Return the sections of a document by their anchor, as a hosting site names them."""
    path = FOLDER_OF_DOCS / document
    if not path.exists():
        raise NotFound(f"docs/{document} is not part of this installation")
    found: dict[str, tuple[str, list[str]]] = {}
    lines: list[str] = []
    is_code = False
    for line in path.read_text().splitlines():
        is_code ^= line.strip().startswith("```")
        if not is_code and re.match("#+ ", line):
            title, lines = line.lstrip("# "), []
            found[re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")] = title, lines
        else:
            lines.append(line)
    return {anchor: Section(title, list(_blocks(document, body))) for anchor, (title, body) in found.items()}


def _blocks(document: str, lines: Sequence[str]) -> Iterator[Block]:
    text: list[str] = []
    kind = "text"
    for line in [*lines, ""]:
        is_fence = line.strip().startswith("```")
        ahead = kind if kind == "code" else "table" if line.startswith("|") else "text"
        if is_fence or ahead != kind or (kind == "text" and not line.strip()):
            if text:
                yield _block(document, kind, text)
            text = []
            kind = ("text" if kind == "code" else "code") if is_fence else ahead
        if not is_fence and (line.strip() or kind == "code"):
            text.append(line)


def _block(document: str, kind: str, lines: Sequence[str]) -> Block:
    if kind == "code":
        return Block(kind, "\n".join(lines))
    if kind == "text":
        return Block(kind, _marked(document, "\n".join(lines)))
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in lines if not re.fullmatch(r"[|\s:-]+", line)]
    return Block(kind, [[_marked(document, cell.strip().replace("\\|", "|")) for cell in row] for row in rows])


def _marked(document: str, text: str) -> Markup:
    """Return text with its code, its emphasis, and its links to other sections."""
    shown, end = Markup(""), 0
    for mark in _MARK.finditer(text):
        shown += escape(text[end : mark.start()])
        end = mark.end()
        if mark["code"]:
            shown += Markup("<code>{}</code>").format(mark["code"].strip("`"))
        elif mark["text"]:
            shown += _link(document, mark["text"], mark["target"])
        else:
            shown += Markup("<strong>{}</strong>").format(mark["strong"])
    return shown + escape(text[end:])


def _link(document: str, text: str, target: str) -> Markup:
    path, _, anchor = target.partition("#")
    text = text.strip("`")
    if anchor and (path or document) in RUNBOOKS:
        return Markup('<a href="{}">{}</a>').format(href("runbook", name=f"{path or document}#{anchor}"), text)
    return escape(f"{text} (docs/{target})")


def pages() -> Sequence[ConsolePage]:
    """Return the pages of this module."""
    return (
        ConsolePage(
            "runbook", "Runbook", "runbook.html", _runbook, is_in_menu=False, shows_persons=False, needs_database=False
        ),
    )
