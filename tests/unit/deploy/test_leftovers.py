"""What a test process leaves behind when it is killed is ended and removed; ports belong to one process at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from deploy.local.processes import port_is_free, wait_until
from deploy.servers import ports
from deploy.servers.pods import ROOT

BOUND = 60
"""Seconds after which a wait has failed."""

STARTS_A_PROGRAM_AND_WAITS = """
import os, pathlib, subprocess, sys, tempfile, time
from deploy.servers import leftovers
elsewhere = pathlib.Path(sys.argv[1])
folder, watcher = leftovers.watch(elsewhere)
os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
(elsewhere / f"{leftovers.prefix()}data").mkdir()
started = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(started.pid, watcher.pid, flush=True)
time.sleep(600)
"""


def test_what_a_killed_process_has_started_is_ended_and_its_folders_are_removed(tmp_path: Path) -> None:
    others = tmp_path / "of others"
    others.mkdir()
    tests = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_PROGRAM_AND_WAITS, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert tests.stdout is not None
    program, watcher = (psutil.Process(int(pid)) for pid in tests.stdout.readline().split())
    assert len(list(tmp_path.iterdir())) == 3
    assert wait_until(lambda: ignores(signal.SIGTERM, watcher), BOUND)
    watcher.terminate()
    tests.send_signal(signal.SIGKILL)
    tests.wait()
    assert wait_until(lambda: not program.is_running(), BOUND)
    assert wait_until(lambda: list(tmp_path.iterdir()) == [others], BOUND)
    tests.stdout.close()


def ignores(number: signal.Signals, process: psutil.Process) -> bool:
    """Whether that process has come to where it ignores this signal, as the kernel says; True where none says so."""
    status = Path(f"/proc/{process.pid}/status")
    if not status.exists():
        return True
    (ignored,) = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigIgn:")]
    return bool(int(ignored, 16) >> (number - 1) & 1)


RESERVES_A_PORT = "from deploy.servers.ports import reserved_port; print(reserved_port(), flush=True); input()"


def test_two_processes_never_reserve_the_same_port() -> None:
    ours = {ports.reserved_port() for _ in range(ports.BLOCK)}
    assert all(port_is_free(port) for port in ours)
    command = [sys.executable, "-c", RESERVES_A_PORT]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert int(other.stdout.readline()) not in ours
        other.communicate("\n")
