"""Replays an input in a process of its own: one that has killed a pod must not kill another."""

import asyncio
import sys
from subprocess import PIPE
from tempfile import TemporaryFile
from typing import Final

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
    command = ["-m", "service", "quarantine", "replay" if edited is None else "edit", str(id_)]
    command += ["--in-this-process", "--json", f"--who={by.who}"]
    if edited is not None:
        command += ["--file=-", *(["--dry-run"] if dry_run else [])]
    if by.why:
        command.append(f"--why={by.why}")
    with TemporaryFile() as given:  # not a pipe, whose reader may end before it has read all
        given.write(edited or b"")
        given.seek(0)
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=given, stdout=PIPE, stderr=PIPE)
    try:
        async with asyncio.timeout(SECONDS):
            answer, errors = await process.communicate()
        lines = [orjson.loads(line) for line in errors.splitlines() if line.startswith(b"{")]
        for line in lines:
            log_many([(line.pop("event"), {name: line[name] for name in line.keys() - {"level", "timestamp"}})])
        outcome = orjson.loads(answer)[0]
        return Replayed(**{name: outcome[name] for name in ("id", "topic", "outcome", "error")})
    except TimeoutError:
        ended = f"did not end within {SECONDS:.0f} s"
    except ValueError:
        ended = f"ended with {process.returncode}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Replayed(id_, "", "killed_the_process", f"the process that replayed it {ended}")
