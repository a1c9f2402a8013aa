"""Programs that outlive the command which started them, found again and stopped by the next one.

A program is ours when its pid still has the start time and the arguments that were written down when it
was started. A pid alone says nothing: the kernel gives it to somebody else.
"""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

LOOPBACK = "127.0.0.1"


class StackError(Exception):
    """Something that the person at the keyboard must know; its text is all there is to say."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that a program runs as, where that is not who started it."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells one run of a program from whatever has its pid later."""

    pid: int
    started: float
    argv: tuple[str, ...]

    def lives(self) -> bool:
        """Whether this very run is still there; a zombie is not, once all its threads have ended."""
        try:
            found = psutil.Process(self.pid)
            if start_time(self.pid) != self.started:
                return False
            if found.status() == psutil.STATUS_ZOMBIE:
                # Threads that are still dying hold the port that the next run wants.
                return found.num_threads() > 1
            # argv[0] may be rewritten by a launcher; the rest says what was started, and where.
            return tuple(found.cmdline()[1:]) == self.argv[1:]
        except (psutil.Error, OSError):
            return False


def start_time(pid: int) -> float:
    """When the process began: clock ticks since boot on Linux, which no clock change moves, else seconds."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        return float(stat.read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


class Program:
    """One detached program: its record in `record`, its output in `log`."""

    def __init__(self, name: str, record: Path, log: Path) -> None:
        self.name = name
        self.record = record
        self.log = log
        self._child: subprocess.Popen[bytes] | None = None

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        account: Account | None = None,
        cwd: Path = Path("/"),
    ) -> None:
        """Start it in a session of its own, so that neither Ctrl-C nor the end of this command reaches it."""
        with open_log(self.log) as log:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
                umask=0o077,
                **as_account(account),
            )
        self.adopt(self._child.pid, argv)
        # For a moment after exec the kernel shows no arguments yet, and the program would not be known.
        wait_until(lambda: self.running() or self._ended(), 5, 0.001)

    def adopt(self, pid: int, argv: Sequence[str]) -> None:
        """Write down that `pid` is this program."""
        identity = Identity(pid, start_time(pid), tuple(argv))
        draft = self.record.with_suffix(".new")
        draft.write_text(json.dumps([identity.pid, identity.started, identity.argv]))
        draft.replace(self.record)

    def _ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def identity(self) -> Identity | None:
        """The run that is going on, or None."""
        if self._child is not None:
            self._child.poll()  # reaps it, where it was our child and has ended
        try:
            pid, started, argv = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None
        found = Identity(pid, started, tuple(argv))
        return found if found.lives() else None

    def running(self) -> bool:
        """Whether it runs."""
        return self.identity() is not None

    def stop(self, *steps: tuple[signal.Signals, float]) -> bool:
        """Signal it until it is gone: each step is a signal and the seconds to wait after it.

        False where it did not run. Raises StackError where it outlives the last step.
        """
        identity = self.identity()
        if identity is None:
            self.record.unlink(missing_ok=True)
            return False
        for number, seconds in steps:
            if identity.lives():
                os.kill(identity.pid, number)
            if wait_until(lambda: not self.running(), seconds):
                self.record.unlink(missing_ok=True)
                return True
        raise StackError(f"{self.name} (pid {identity.pid}) does not stop")

    def last_lines(self, count: int = 15) -> str:
        """The end of its log, for a message about why it is not there."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"    {line}" for line in lines[-count:])


def open_log(path: Path) -> IO[bytes]:
    """Open a log for appending, readable to its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def as_account(account: Account | None) -> dict[str, Any]:
    """What subprocess needs to be told to run something as `account`."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.02) -> bool:
    """Look until it is so, for at most so many seconds. Whether it became so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def port_is_free(port: int) -> bool:
    """Whether a server could listen there now, on loopback and on all addresses."""
    for address in (LOOPBACK, "0.0.0.0"):  # noqa: S104 - asked, not served
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def free_port(preferred: int = 0) -> int:
    """The preferred port or the next free one above it; with 0 any port that is free."""
    if preferred:
        for port in range(preferred, min(preferred + 100, 65536)):
            if port_is_free(port):
                return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def port_answers(port: int) -> bool:
    """Whether somebody listens on that port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def plain_environment() -> dict[str, str]:
    """What a server needs of the environment: none of the variables that would set it up differently."""
    keep = ("PATH", "LANG", "TMPDIR", "SYSTEMROOT")
    return {name: value for name, value in os.environ.items() if name in keep}
