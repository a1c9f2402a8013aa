"""Real pods of the service, `python -m service run`, as a cluster would start, kill and stop them."""

import asyncio
import json
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
    """One process and its log; it may be started again after its end."""

    def __init__(self, module: str, environment: Mapping[str, str], log: Path, arguments: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", module, "run", *arguments]
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._begun_at = 0

    def start(self) -> None:
        """Start it; `ready` waits until it serves."""
        with self._log.open("ab") as log:
            self._begun_at = log.tell()
            self._process = subprocess.Popen(
                self._command,
                env=dict(self._environment),
                cwd=self._log.parent,  # where no .env lies
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    async def ready(self, seconds: float = 60) -> None:
        """Wait until /readyz says so."""
        await until(self._is_ready, seconds, lambda: f"the pod is not ready:\n{self.last_lines()}")

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Ask it to drain and end; `ended` waits for that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    async def ended(self, seconds: float = 60) -> int:
        """Wait until it has ended, by itself or told so; returns its exit status."""
        process = self._process
        assert process is not None
        await until(lambda: process.poll() is not None, seconds, lambda: f"the pod lives on:\n{self.last_lines()}")
        return process.returncode

    def logged(self) -> Iterator[dict[str, Any]]:
        """What it has logged since it was started last, line by line."""
        with self._log.open("rb") as log:
            log.seek(self._begun_at)
            for line in log:
                try:
                    entry = json.loads(line)
                except ValueError:  # a traceback of the interpreter's own, or a line that is still being written
                    entry = {"event": line.decode(errors="replace")}
                yield entry if isinstance(entry, dict) else {"event": entry}

    def last_lines(self, count: int = 30) -> str:
        """The end of its log, for a message."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-count:])

    async def metrics(self) -> str:
        """What it tells Prometheus."""
        return await asyncio.to_thread(_fetched, f"http://{LOOPBACK}:{self._port()}/metrics")

    def _port(self) -> int | None:
        return next((entry["port"] for entry in self.logged() if entry.get("event") == "started"), None)

    async def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the pod has ended with {self._process.returncode}:\n{self.last_lines()}")
        port = self._port()
        return port is not None and await asyncio.to_thread(_answers_well, f"http://{LOOPBACK}:{port}/readyz")


class Pods:
    """The pods of one test, all with the same settings."""

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._settings = settings
        self.all: list[Pod] = []

    def start(
        self, count: int = 1, *, module: str = "service", arguments: Sequence[str] = (), **more: str
    ) -> list[Pod]:
        """Start so many; `arguments` go to `run`, `more` adds to their environment."""
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
        """Wait until all serve."""
        for pod in self.all:
            await pod.ready()

    async def stop(self, seconds: float = 30) -> list[int]:
        """Ask all to drain and end; returns their exit statuses."""
        for pod in self.all:
            pod.terminate()
        return [await pod.ended(seconds) for pod in self.all]

    def complaints(self) -> list[str]:
        """What the pods logged as errors, and whatever is no log line of theirs."""
        return [
            json.dumps(entry)
            for pod in self.all
            for entry in pod.logged()
            if entry.get("level") not in ("debug", "info", "warning")
        ]


@contextmanager
def pods(folder: Path, *settings: Mapping[str, str]) -> Iterator[Pods]:
    """Pods that are gone at the end, whatever happens; where the test fails, it shows their logs."""
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
    """Look until it is so; a bound, not a measurement. Raises AssertionError with the complaint."""
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    while True:
        so = condition()
        if not isinstance(so, bool):
            so = await so
        if so:
            return
        if clock() > end:
            raise AssertionError(complaint())
        await asyncio.sleep(every)


def _answers_well(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


def killed(status: int) -> bool:
    """Whether an exit status means a death by SIGKILL."""
    return status == -signal.SIGKILL


__all__ = ["SESSION_SECONDS", "Pod", "Pods", "killed", "pods", "until"]
