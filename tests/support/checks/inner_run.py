"""pytest, run by a test: with another Python, or on another server."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local.processes import plain_environment

ROOT = Path(__file__).parents[3]


def run_tests(*selection: str, python: Path | None = None, settings: Sequence[tuple[str, str]] = ()) -> None:
    """Run these tests, but not on Apache Kafka, which the outer run does; fails with their output where one fails."""
    argv = [python or sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*argv, "-k", "not apache", *selection],
        cwd=ROOT,
        env={**plain_environment(), "HOME": os.environ.get("HOME", ""), **dict(settings)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout
