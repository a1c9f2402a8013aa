"""What deploy/Dockerfile and .dockerignore promise, as far as it can be seen without an engine."""

import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest

from service.cli import parser as commandline
from service.settings import Settings

ROOT = Path(__file__).parents[2]

INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"\\\n\s*", "", (ROOT / "deploy" / "Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def given(instruction: str) -> list[str]:
    """The arguments of each instruction of this name, in order."""
    return [arguments for name, arguments in INSTRUCTIONS if name == instruction]


def last(instruction: str) -> str:
    return given(instruction)[-1]


def reaches_the_engine(path: str) -> bool:
    """As an engine reads .dockerignore: the last pattern that fits decides; of a folder, all that is in it."""
    parts = [str(parent) for parent in [Path(path), *Path(path).parents] if str(parent) != "."]
    fits = [not p.startswith("!") for p in IGNORED if any(fnmatch(part, p.lstrip("!")) for part in parts)]
    return not fits[-1] if fits else True


def test_what_is_copied_is_there_and_reaches_the_engine() -> None:
    sources = [shlex.split(copied)[0] for copied in given("COPY") if not copied.startswith("--from")]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if not reaches_the_engine(source)] == []


@pytest.mark.parametrize(
    "needed", ["alembic.ini", "migrations/env.py", "sql/roles.sql", "sql/queries/batches/lock_batch.sql"]
)
def test_what_the_service_reads_at_runtime_is_in_the_image(needed: str) -> None:
    assert (ROOT / needed).exists()
    assert any(needed == source or needed.startswith(f"{source}/") for source in map(_source, given("COPY")))


@pytest.mark.parametrize("secret", [".env", ".local/env", ".git/config", "tests/conftest.py", ".venv/bin/python"])
def test_secrets_and_local_state_do_not_reach_the_engine(secret: str) -> None:
    assert not reaches_the_engine(secret)


def test_dependencies_are_installed_by_their_hashes_only_and_without_building_any() -> None:
    [install] = [run for run in given("RUN") if " install " in run]
    assert "--require-hashes --only-binary :all:" in install


def test_the_process_is_no_shell_and_its_command_exists() -> None:
    entrypoint, command = json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))
    assert entrypoint == ["python", "-m", "service"]
    assert commandline.parser().parse_args(command).command == "run"


def test_it_is_not_root_and_says_so_with_a_number() -> None:
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_it_exposes_and_asks_the_port_that_the_service_listens_on() -> None:
    port = str(Settings.model_fields["http_port"].default)
    assert last("EXPOSE") == port
    assert f"or {port})" in last("HEALTHCHECK")


def _source(copied: str) -> str:
    return shlex.split(copied)[0]
