"""Runs `python -m service` in tests, as scripts do."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy.local.processes import plain_environment
from service.__main__ import main
from service.runtime.logging import set_cell

ROOT = Path(__file__).parents[3]
NOBODY = "127.0.0.1:1"
"""An address without a server."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The result of a command."""

    status: int
    out: str
    stderr: str

    @property
    def err(self) -> str:
        """Standard error, without the lines of the log."""
        return "".join(line for line in self.stderr.splitlines(keepends=True) if not line.startswith("{"))

    @property
    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def failed_with(self, status: int, *texts: str) -> bool:
        """Returns whether it ended with this status and one line of output that contains the texts."""
        lines = self.err.splitlines()
        assert self.status == status, self
        assert (self.out, len(lines)) == ("", 1), self
        assert all(each in lines[0] for each in texts), self
        return True


IN_A_PROCESS = ("run", "relay", "migrate", "recover")
"""Commands that set up logging or signals run in their own process; the others run in this one, which is faster."""


class CommandLine:
    """Runs `python -m service` with some settings, in a folder without a .env."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
        settings: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        self._settings = settings

    def __call__(self, *arguments: str, without: str | None = None, **settings: str) -> Ended:
        if arguments and arguments[0] in IN_A_PROCESS:
            return self._process(arguments, self._merged(without, settings))
        return self.here(*arguments, without=without, **settings)

    def here(self, *arguments: str, without: str | None = None, **settings: str) -> Ended:
        """Run any command in this process: for one that ends before it sets up anything."""
        return self._here(arguments, self._merged(without, settings))

    def _merged(self, without: str | None, settings: Mapping[str, str]) -> dict[str, str]:
        merged = {**self._settings, **settings, "COLUMNS": "200"}
        merged.pop(without or "", None)
        return merged

    def _here(self, arguments: Sequence[str], settings: Mapping[str, str]) -> Ended:
        self._capfd.readouterr()
        with self._monkeypatch.context() as patch:
            patch.chdir(self._folder)
            for name, value in settings.items():
                patch.setenv(name, value)
            try:
                status = main(arguments)
            except SystemExit as ended:  # of argparse
                status = int(ended.code or 0)
            finally:
                set_cell(None)  # which the next test would log
        return Ended(status, *self._capfd.readouterr())

    def _process(self, arguments: Sequence[str], settings: Mapping[str, str]) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            env={**plain_environment(), "PYTHONPATH": str(ROOT), **settings},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)
