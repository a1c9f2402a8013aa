"""Finds the words that docs/glossary.md avoids: `python -m docs.words`, a part of `make lint`.

The table "Words that we avoid" is read from the page, so that the page and the check never differ.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
GLOSSARY: Final = ROOT / "docs" / "glossary.md"
NOT_SEARCHED: Final = ("docs/glossary.md", "CHANGELOG.md", "docs/results/*", "migrations/versions/*", "tests/data/*")
TEXTS: Final = ("service/*", "sql/*", "deploy/*", "benchmarks/*.py", "docs/*.md", "docs/*.py", "*.md", "Makefile")
_ROW: Final = re.compile(
    r"^\| (?P<kind>identifier|phrase) \| `(?P<pattern>.+?)(?<!\\)` \| (?P<instead>.*?) \| ?(?P<allowed>.*?) ?\|$"
)


class Word(NamedTuple):
    """One row of the table. `allowed` are patterns of paths."""

    kind: str
    pattern: re.Pattern[str]
    instead: str
    allowed: tuple[str, ...]


def words(page: str) -> list[Word]:
    """The words that the page avoids. Raises re.error for a pattern that is none."""
    found = []
    for row in filter(None, map(_ROW.match, page.splitlines())):
        pattern = row["pattern"].replace(r"\|", "|")
        whole = rf"(?:{pattern})\Z" if row["kind"] == "identifier" else pattern
        flags = re.IGNORECASE if row["kind"] == "phrase" else 0
        allowed = tuple(re.findall(r"`([^`]+)`", row["allowed"].partition("(")[0]))
        found.append(Word(row["kind"], re.compile(whole, flags), row["instead"].replace("\\", ""), allowed))
    return found


def identifiers(source: str) -> Iterator[tuple[int, str]]:
    """The names in Python source, with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def findings(path: str, text: str, avoided: list[Word]) -> Iterator[str]:
    """What the glossary avoids in one file, a line each."""
    here = [word for word in avoided if not any(fnmatch(path, pattern) for pattern in word.allowed)]
    if path.endswith(".py"):
        named = [word for word in here if word.kind == "identifier"]
        for line, name in identifiers(text):
            for word in named:
                if word.pattern.match(name):
                    yield f"{path}:{line}: `{name}`; say {word.instead}"
    if any(fnmatch(path, pattern) for pattern in TEXTS):
        for word in here:
            if word.kind == "phrase":
                for match in word.pattern.finditer(text):
                    line = text.count("\n", 0, match.start()) + 1
                    yield f'{path}:{line}: "{match[0]}"; say {word.instead}'


def searched() -> list[str]:
    """The files of the checkout that are searched, by their paths."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.splitlines()
    ends = (".py", ".sql", ".md", ".yaml", "Makefile")
    return [
        path
        for path in listed
        if path.endswith(ends)
        and (ROOT / path).is_file()
        and not any(fnmatch(path, pattern) for pattern in NOT_SEARCHED)
    ]


def main() -> int:
    """Print what was found. Returns 1 where it is anything, else 0."""
    avoided = words(GLOSSARY.read_text())
    found = [line for path in searched() for line in findings(path, (ROOT / path).read_text(), avoided)]
    for line in found:
        print(line)
    if found:
        print(f"{len(found)} words that docs/glossary.md avoids", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
