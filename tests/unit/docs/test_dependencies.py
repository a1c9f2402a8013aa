"""Dependencies are pinned, and docs/security.md gives the reason for each."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PINS = sorted((ROOT / "requirements").glob("*.txt"))


def names(requirements: list[Any]) -> set[str]:
    """Returns the names without versions and extras, and without included groups."""
    return {re.split(r"[^\w-]", each)[0] for each in requirements if isinstance(each, str)}


def documented(heading: str) -> set[str]:
    """Returns the first column of the table with this heading."""
    page = (ROOT / "docs" / "security.md").read_text()
    table = page.partition(f"| {heading} |")[2].partition("\n\n")[0]
    return {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_each_dependency_has_its_reason() -> None:
    assert documented("the service needs") == names(PROJECT["project"]["dependencies"])
    assert documented("tests and tools need") == set().union(*map(names, PROJECT["dependency-groups"].values()))


@pytest.mark.parametrize("pins", PINS, ids=lambda path: path.name)
def test_every_pin_has_its_hashes_and_no_file_says_where_from(pins: Path) -> None:
    text = pins.read_text()
    pinned = re.findall(r"(?m)^[a-z0-9][^\s=]*==\S+[^\n]*\\\n    --hash=sha256:[0-9a-f]{64}", text)
    assert len(pinned) == len(re.findall(r"(?m)^[a-z0-9]", text))
    assert "://" not in text


def test_what_the_service_needs_is_among_its_pins() -> None:
    pinned = set(re.findall(r"(?m)^([a-z0-9-]+)==", (ROOT / "requirements" / "runtime.txt").read_text()))
    assert names(PROJECT["project"]["dependencies"]) <= pinned
