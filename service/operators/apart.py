"""Replays an input in a process of its own: one that has killed a pod must not kill another."""

import asyncio
import sys
from collections.abc import Sequence
from subprocess import PIPE
from tempfile import TemporaryFile
from typing import Any, Final

import orjson

from service.operators.replay import Replayed
from service.runtime.logging import log_many
from service.store.operator_actions import Operator

SECONDS: Final = 120.0
"""How long such a replay may take; a record may also hang."""
MEMORY_BYTES: Final = 384 * 1024 * 1024
"""What it may take, so that it ends alone where its pod has 512 MiB."""


async def replay_apart(by: Operator, id_: int, edited: bytes | None = None, *, dry_run: bool = False) -> Replayed:
    """Replay the input, or an edited value, with the command line, under limits.

    The result says so where the process was ended by it.
    """
    command = ["quarantine", "replay" if edited is None else "edit", str(id_), f"--who={by.who}"]
    if edited is not None:
        command += ["--file=-", *(["--dry-run"] if dry_run else [])]
    if by.why:
        command.append(f"--why={by.why}")
    if by.first_at is not None:
        command += [f"--first-at={by.first_at.isoformat()}", f"--repeated-by={by.repeated_by}"]
    answer = await run_apart(command, edited or b"")
    if isinstance(answer, str):
        return Replayed(id_, "", "killed_the_process", f"the process that replayed it {answer}")
    outcome = answer[0]
    return Replayed(**{name: outcome[name] for name in ("id", "topic", "outcome", "error")})


async def run_apart(command: Sequence[str], stdin: bytes = b"") -> Any:
    """Run a command in a process of its own, under limits. Returns its JSON, or how it ended without any, as text."""
    arguments = ["-m", "service", *command, "--in-this-process", "--json"]
    with TemporaryFile() as given:  # not a pipe, whose reader may end before it has read all
        given.write(stdin)
        given.seek(0)
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdin=given, stdout=PIPE, stderr=PIPE
        )
    try:
        async with asyncio.timeout(SECONDS):
            answer, errors = await process.communicate()
        lines = [orjson.loads(line) for line in errors.splitlines() if line.startswith(b"{")]
        for line in lines:
            log_many([(line.pop("event"), {name: line[name] for name in line if name not in ("level", "timestamp")})])
        return orjson.loads(answer)
    except TimeoutError:
        return f"did not end within {SECONDS:.0f} s"
    except ValueError:
        return f"ended with {process.returncode}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
