"""Starts programs in the background, and finds and stops them from a later command.

A program is ours if its pid still has the start time and the arguments that were recorded when it was started. The
pid alone is not enough: the kernel reuses pids.
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
    """An error that is printed to the user without a traceback; its text is the whole message."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system user that a program runs as, if that is another one than the caller."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies one run of a program, also after its pid was reused."""

    pid: int
    started: float
    argv: tuple[str, ...]

    def lives(self) -> bool:
        """Returns whether this run still exists. A zombie counts as ended once all its threads have ended."""
        try:
            found = psutil.Process(self.pid)
            if start_time(self.pid) != self.started:
                return False
            if found.status() == psutil.STATUS_ZOMBIE:
                # Threads that still run keep the port, which the next run needs.
                return found.num_threads() > 1
            # A launcher may rewrite argv[0]; the other arguments identify the program.
            return tuple(found.cmdline()[1:]) == self.argv[1:]
        except (psutil.Error, OSError):
            return False


def start_time(pid: int) -> float:
    """Returns the start time of a process: on Linux in ticks since boot (unmoved by clock changes), else seconds."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        return float(stat.read_text().rpartition(")")[2].split()[19])
    return psutil.Process(pid).create_time()


class Program:
    """One background program: `record` is the file that identifies its run, `log` receives its output."""

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
        """Starts it in its own session, so that Ctrl-C and the end of this command do not stop it."""
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
        # Just after exec the kernel shows no arguments yet, and the program would not be recognised.
        wait_until(lambda: self.running() or self._ended(), 5, 0.001)

    def adopt(self, pid: int, argv: Sequence[str]) -> None:
        """Records that `pid` is this program."""
        identity = Identity(pid, start_time(pid), tuple(argv))
        draft = self.record.with_suffix(".new")
        draft.write_text(json.dumps([identity.pid, identity.started, identity.argv]))
        draft.replace(self.record)

    def _ended(self) -> bool:
        return self._child is not None and self._child.poll() is not None

    def identity(self) -> Identity | None:
        """Returns the current run, or None."""
        if self._child is not None:
            self._child.poll()  # reaps it if it was our child and has ended
        try:
            pid, started, argv = json.loads(self.record.read_text())
        except (OSError, ValueError):
            return None
        found = Identity(pid, started, tuple(argv))
        return found if found.lives() else None

    def running(self) -> bool:
        """Returns whether it runs."""
        return self.identity() is not None

    def stop(self, *steps: tuple[signal.Signals, float]) -> bool:
        """Signals it until it has ended: each step is a signal and the seconds to wait after it.

        Returns False if it did not run. Raises StackError if it still runs after the last step.
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
        """Returns the end of its log, for an error message."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"    {line}" for line in lines[-count:])


def open_log(path: Path) -> IO[bytes]:
    """Opens a log for appending, readable by its owner only."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def as_account(account: Account | None) -> dict[str, Any]:
    """Returns the options with which subprocess runs something as `account`."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def wait_until(condition: Callable[[], bool], seconds: float, every: float = 0.02) -> bool:
    """Checks the condition repeatedly for at most `seconds`. Returns whether it became true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every)
    return True


def port_is_free(port: int) -> bool:
    """Returns whether a server could listen on the port now, on loopback and on all addresses."""
    for address in (LOOPBACK, "0.0.0.0"):  # noqa: S104 - a probe, closed at once
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def free_port(preferred: int = 0) -> int:
    """Returns the preferred port or the next free one above it; with 0, any free port."""
    if preferred:
        for port in range(preferred, min(preferred + 100, 65536)):
            if port_is_free(port):
                return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def port_answers(port: int) -> bool:
    """Returns whether a server listens on the port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def plain_environment() -> dict[str, str]:
    """Returns the environment for a server, without the variables that would configure it differently."""
    keep = ("PATH", "LANG", "TMPDIR", "SYSTEMROOT")
    return {name: value for name, value in os.environ.items() if name in keep}
