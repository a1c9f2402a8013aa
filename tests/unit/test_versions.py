"""A Python that is too old ends in one line, from the service as from `make setup`."""

import ast
import subprocess
import sys
from pathlib import Path

from deploy.local.processes import plain_environment

ROOT = Path(__file__).parents[2]


def test_the_service_refuses_an_older_python_in_one_line() -> None:
    pretend = "import sys; sys.version_info, sys.version = (3, 10, 13, 'final', 0), '3.10.13 (main)'; import service"
    ended = subprocess.run([sys.executable, "-c", pretend], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"Python 3.11 or newer is needed; {sys.executable} is Python 3.10.13\n"


def test_an_older_python_can_read_the_module_that_refuses_it() -> None:
    ast.parse((ROOT / "service" / "__init__.py").read_text(), feature_version=(3, 7))


def test_setup_refuses_an_older_python_in_one_line(tmp_path: Path) -> None:
    ended = subprocess.run(
        ["make", "--no-print-directory", "PYTHON=false", f"VENV={tmp_path / 'venv'}", "setup"],
        cwd=ROOT,
        env=plain_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode
    assert (
        ended.stderr.splitlines()[0] == "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3 setup"
    )
