"""Reads a value from a file, or lets the user edit it in the editor of the environment."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from service.cli.output import CommandError, UsageError
from service.runtime.errors import one_line

OWN = 0o600
"""The mode of the file that is edited: it may hold data of persons."""


def read_file(path: str) -> bytes:
    """Read a file, or standard input where `path` is "-". Raises CommandError."""
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise CommandError(f"--file {path}: {one_line(error)}") from None


def in_editor(text: str | None) -> bytes:
    """Let the user edit a text (None: the value is no text). Returns what was saved.

    Raises UsageError where that is not possible, and CommandError where nothing was changed.
    """
    if text is None:
        raise UsageError("--file: is needed, since the value is not text")
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "")
    if not editor:
        raise UsageError("--file: is needed, since neither VISUAL nor EDITOR names an editor")
    with TemporaryDirectory(prefix="els-") as folder:  # which only this user may enter
        path = Path(folder) / "value.json"
        path.touch(OWN)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        try:
            ended = subprocess.run([*editor, str(path)], check=False)
            edited = path.read_bytes()
        except OSError as error:
            raise CommandError(f"nothing was changed: {one_line(error)}") from None
    if ended.returncode:
        raise CommandError(f"nothing was changed: the editor ended with {ended.returncode}")
    if edited == text.encode("utf-8", "surrogateescape"):
        raise CommandError("nothing was changed: the value was saved as it was")
    return edited
