"""Tests that `els` and `python -m service` are the same program, know the version, and print help quickly."""

import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from service import __version__

ROOT = Path(__file__).parents[3]
ELS = [str(Path(sys.executable).with_name("els"))]
MODULE = [sys.executable, "-m", "service"]

HEAVY = ("aiohttp", "aiokafka", "alembic", "opentelemetry", "psycopg", "pydantic", "rich", "sqlalchemy", "structlog")


def output(command: Sequence[str], *arguments: str) -> str:
    """Run a command from the root of the checkout. Returns its standard output."""
    ended = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, ""), f"{ended}: is `make setup` up to date?"
    return ended.stdout


@pytest.mark.parametrize("command", [ELS, MODULE], ids=["els", "python -m service"])
def test_version_is_printed(command: list[str]) -> None:
    assert output(command, "--version") == f"els {__version__}\n"


@pytest.mark.parametrize(("command", "name"), [(ELS, "els"), (MODULE, "python -m service")])
@pytest.mark.parametrize("arguments", ["", "run", "pending list"])
def test_usage_names_the_command_as_it_was_typed(command: list[str], name: str, arguments: str) -> None:
    words = arguments.split()
    assert output(command, *words, "--help").startswith(" ".join(["usage:", name, *words, "["]))


def test_els_is_found_from_another_folder_without_a_path_variable(tmp_path: Path) -> None:
    ended = subprocess.run([*ELS, "--version"], cwd=tmp_path, env={}, capture_output=True, text=True, check=False)
    assert ended.stdout == f"els {__version__}\n"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    report = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"
    code = f"{report}; from service.__main__ import main; main(['{option}'])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(ended.stderr.split())
    assert "service.__main__" in imported
    assert imported.isdisjoint(HEAVY)


def test_the_version_is_stated_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
