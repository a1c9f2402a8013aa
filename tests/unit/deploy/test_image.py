"""Checks deploy/Dockerfile and .dockerignore, as far as possible without a Docker engine."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from service import __version__
from service.cli import parser as commandline
from service.settings import Settings

ROOT = Path(__file__).parents[3]
ELS = ROOT / "deploy" / "els.py"

INSTRUCTIONS = [
    (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
    for line in re.sub(r"\\\n\s*", "", (ROOT / "deploy" / "Dockerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]
IGNORED = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]


def given(instruction: str) -> list[str]:
    """Returns the arguments of each instruction with this name, in order."""
    return [arguments for name, arguments in INSTRUCTIONS if name == instruction]


def last(instruction: str) -> str:
    return given(instruction)[-1]


def reaches_the_engine(path: str) -> bool:
    """Applies .dockerignore as Docker does: the last matching pattern decides; a folder includes its contents."""
    parts = [str(parent) for parent in [Path(path), *Path(path).parents] if str(parent) != "."]
    fits = [not p.startswith("!") for p in IGNORED if any(fnmatch(part, p.lstrip("!")) for part in parts)]
    return not fits[-1] if fits else True


def test_what_is_copied_is_there_and_reaches_the_engine() -> None:
    sources = [source for copied in given("COPY") if not copied.startswith("--from") for source in _sources(copied)]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert [source for source in sources if not reaches_the_engine(source)] == []


@pytest.mark.parametrize(
    "needed",
    ["alembic.ini", "migrations/env.py", "sql/roles.sql", "sql/queries/batches/lock_batch.sql", "docs/operations.md"],
)
def test_what_the_service_reads_at_runtime_is_in_the_image(needed: str) -> None:
    assert (ROOT / needed).exists()
    sources = [source for copied in given("COPY") for source in _sources(copied)]
    assert any(needed == source or needed.startswith(f"{source}/") for source in sources)


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


def test_els_in_the_image_runs_the_service_beside_it(tmp_path: Path) -> None:
    assert "deploy/els.py /opt/els/els" in given("COPY")
    assert any("ln -s /opt/els/els /opt/python/bin/els" in run for run in given("RUN"))
    assert os.access(ELS, os.X_OK)
    assert ELS.read_text().startswith("#!/opt/python/bin/python\n")
    # The same paths with another service, since this environment has the service of the checkout installed.
    image, command = tmp_path / "opt" / "els", tmp_path / "els"
    shutil.copytree(ROOT / "service", image / "service", ignore=lambda *_: {"__pycache__"})
    (image / "service" / "__main__.py").write_text("def entry_point() -> None:\n    print(__file__)\n")
    command.symlink_to(shutil.copy(ELS, image / "els"))
    ended = subprocess.run([sys.executable, command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(ended.stdout.strip()) == image / "service" / "__main__.py"


def test_the_label_is_the_version_of_the_code() -> None:
    assert "VERSION=unknown" in given("ARG")
    assert 'org.opencontainers.image.version="${VERSION}"' in last("LABEL")
    plain = {**os.environ, "MAKEFLAGS": ""}  # not those of the `make` that runs the tests
    build = subprocess.run(
        ["make", "--dry-run", "image"], cwd=ROOT, env=plain, capture_output=True, text=True, check=True
    ).stdout
    assert f"--build-arg VERSION={__version__} " in build
    assert f"--tag essay-lifecycle-service:{__version__} " in build


@pytest.mark.parametrize(
    ("version", "status"), [("unknown", 0), (__version__, 0), ("", 1), ("0.0.1", 1), (f"els {__version__}", 1)]
)
def test_a_build_for_another_version_fails(version: str, status: int) -> None:
    [check] = [run for run in given("RUN") if "/opt/python/bin/els --version" in run]
    link, _, script = check.partition(" && ")
    assert link.startswith("ln -s ")
    script = script.replace("/opt/python/bin/els", f"'{sys.executable}' -m service")
    ended = subprocess.run(["sh", "-c", script], cwd=ROOT, env={"VERSION": version}, capture_output=True, check=False)
    assert ended.returncode == status, ended


def test_it_is_not_root_and_says_so_with_a_number() -> None:
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_it_exposes_and_asks_the_port_that_the_service_listens_on() -> None:
    port = str(Settings.model_fields["http_port"].default)
    assert last("EXPOSE") == port
    assert f"or {port})" in last("HEALTHCHECK")


def _sources(copied: str) -> list[str]:
    return shlex.split(copied)[:-1]
