"""What the tests of one process start ends with that process, also where it is killed.

`watch` starts a second process that waits for the end of the first. Everything that tests start has the folder of
temporary files of its test process in its environment (`TMPDIR`), and is known by that.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PREFIX = "els-test-"
PATIENCE = 5
"""Seconds for what can end in order to do so."""
_watchers: list[subprocess.Popen[bytes]] = []
"""Keeps the watchers' input open: it closes when the last reference to the process object is gone."""


def watch(*elsewhere: Path) -> tuple[Path, subprocess.Popen[bytes]]:
    """A new folder for temporary files, to be named in TMPDIR, and the process that removes it when this one ends.

    That process reads its input, which ends when this one has ended. It also removes what lies in `elsewhere` and has
    a name that begins with `prefix()`.
    """
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    watcher = subprocess.Popen(
        [sys.executable, "-m", "deploy.servers.leftovers", *map(str, (folder, *elsewhere))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C ends the tests, and only then this
    )
    _watchers.append(watcher)
    return folder, watcher


def prefix() -> str:
    """How the name of a folder begins that lies elsewhere and is to be removed with the others."""
    name = Path(tempfile.gettempdir()).name
    return f"{name}-" if name.startswith(PREFIX) else PREFIX


def remove(folder: Path, *elsewhere: Path) -> None:
    """End what still runs with this folder in its environment, then remove the folder and what belongs to it."""
    _end(_started_with(folder))
    for left in (folder, *(found for place in elsewhere for found in place.glob(f"{folder.name}-*"))):
        shutil.rmtree(left, ignore_errors=True)


def _started_with(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _end(processes: list[psutil.Process]) -> None:
    """SIGQUIT first, for PostgreSQL: it ends its sessions and gives back its shared memory."""
    for number in (signal.SIGQUIT, signal.SIGKILL):
        for process in processes:
            try:
                process.send_signal(number)
            except psutil.Error:
                continue
        _, processes = psutil.wait_procs(processes, timeout=PATIENCE)


if __name__ == "__main__":
    # Who ends all that runs from a folder ends this one too, and it is the one that has to outlive the others.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.buffer.read()
    remove(*map(Path, sys.argv[1:]))
