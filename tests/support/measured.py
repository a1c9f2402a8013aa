"""Selects the tests in which `make test-all` measures coverage: those of the packages that have a minimum.

Tracing makes Python code slower by up to a half (on 3.11), so it is off in all other tests: a package is to be covered
by its own tests, and the suite must stay quick. A plugin of pytest, loaded by `make test-all` beside `--cov`.
"""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["run"]["source"]
FOLDERS = [ROOT / "tests" / kind / Path(package).name for package in SOURCE for kind in ("unit", "integration")]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Switches coverage off for a test that lies outside the folders of the measured packages."""
    if not any(item.path.is_relative_to(folder) for folder in FOLDERS):
        item.add_marker("no_cover")
