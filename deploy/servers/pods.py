"""Runs pods of the service (`python -m service run`), which tests start, kill and stop as a cluster does."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.local.processes import LOOPBACK, plain_environment

ROOT = Path(__file__).parents[2]

SESSION_SECONDS = 6


class Pod:
    """One process and its log. It may be started again after its end."""

    def __init__(self, module: str, environment: Mapping[str, str], log: Path, arguments: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", module, "run", *arguments]
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = 0
        self._readyz = ""

    def start(self) -> None:
        """Starts it; `ready` waits until it is ready."""
        with self._log.open("ab") as log:
            self._begin = log.seek(0, os.SEEK_END)
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                cwd=self._log.parent,  # a folder without a .env
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The pid of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    async def ready(self, seconds: float = 120) -> None:
        """Waits until /readyz reports that it is ready."""
        await until(self._is_ready, seconds, lambda: f"the pod is not ready: {self._readyz}\n{self.last_lines()}")

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Sends SIGTERM, so that it drains and ends; `ended` waits for that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def ended(self, seconds: float = 90) -> int:
        """Waits until it has ended. Returns its exit status."""
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None, seconds, lambda: f"the pod still runs:\n{self.last_lines()}")
        return process.returncode

    def logged(self) -> Iterator[dict[str, Any]]:
        """Returns its log entries since it was started last."""
        with self._log.open("rb") as log:
            log.seek(self._begin)
            for line in log:
                try:
                    entry = json.loads(line)
                except ValueError:  # a traceback of the interpreter, or an incomplete line
                    entry = {"event": line.decode(errors="replace")}
                yield entry if isinstance(entry, dict) else {"event": entry}

    def last_lines(self, count: int = 30) -> str:
        """Returns the end of its log, for an error message."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-count:])

    async def metrics(self) -> str:
        """Returns its metrics in Prometheus' text format."""
        return await asyncio.to_thread(_fetched, f"http://{LOOPBACK}:{self._port()}/metrics")

    def readiness(self) -> tuple[bool, str]:
        """Returns whether /readyz reports that it is ready, and the body of the answer, or the error."""
        port = self._port()
        return (False, "it does not listen yet") if port is None else _readiness(f"http://{LOOPBACK}:{port}/readyz")

    def _port(self) -> int | None:
        return next((entry["port"] for entry in self.logged() if entry.get("event") == "started"), None)

    async def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the pod has ended with {self._process.returncode}:\n{self.last_lines()}")
        is_ready, self._readyz = await asyncio.to_thread(self.readiness)
        return is_ready


class Pods:
    """The pods of one test, with the same settings."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = settings
        self.all: list[Pod] = []

    def start(
        self, count: int = 1, *, module: str = "service", arguments: Sequence[str] = (), **more: str
    ) -> list[Pod]:
        """Starts `count` pods. `arguments` are passed to `run`; `more` is added to the environment."""
        new = []
        for number in range(len(self.all), len(self.all) + count):
            environment = {
                **plain_environment(),
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                "ELS_HTTP_HOST": LOOPBACK,
                "ELS_HTTP_PORT": "0",
                "ELS_SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
                **self._settings,
                **more,
            }
            new.append(Pod(module, environment, self._folder / f"pod-{number}.log", arguments))
        for pod in new:
            pod.start()
        self.all += new
        return new

    async def ready(self) -> None:
        """Waits until all are ready."""
        for pod in self.all:
            await pod.ready()

    async def stop(self, seconds: float = 90) -> list[int]:
        """Stops all with SIGTERM. Returns their exit statuses."""
        for pod in self.all:
            pod.terminate()
        return [await pod.ended(seconds) for pod in self.all]

    def complaints(self) -> list[str]:
        """Returns the errors in the logs, and lines that are no log entries."""
        return [
            json.dumps(entry)
            for pod in self.all
            for entry in pod.logged()
            if entry.get("level") not in ("debug", "info", "warning")
        ]


@contextmanager
def pods(folder: Path, *settings: Mapping[str, str]) -> Iterator[Pods]:
    """Gives pods that are killed at the end. If the test fails, prints the ends of their logs."""
    merged: dict[str, str] = {}
    for some in settings:
        merged |= some
    started = Pods(folder, merged)
    try:
        yield started
    except BaseException:
        for number, pod in enumerate(started.all):
            print(f"--- pod {number}\n{pod.last_lines()}")
        raise
    finally:
        for pod in started.all:
            pod.kill()


async def until(
    condition: Callable[[], bool | Awaitable[bool]], seconds: float, complaint: Callable[[], str], every: float = 0.05
) -> None:
    """Waits until the condition is true. Raises AssertionError with the complaint after `seconds`."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while True:
        met = condition()
        if not isinstance(met, bool):
            met = await met
        if met:
            return
        if clock() > end:
            raise AssertionError(complaint())
        await asyncio.sleep(every)


def _readiness(url: str) -> tuple[bool, str]:
    """Returns whether the response is 200, and its body or the error."""
    try:
        return True, _fetched(url)
    except urllib.error.HTTPError as error:
        return False, error.read().decode()
    except (urllib.error.URLError, OSError) as error:
        return False, str(error)


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def killed(status: int) -> bool:
    """Returns whether the exit status means that SIGKILL ended the process."""
    return status == -signal.SIGKILL


__all__ = ["SESSION_SECONDS", "Pod", "Pods", "killed", "pods", "until"]
