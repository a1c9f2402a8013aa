"""Replays an input in a process of its own: one that has killed a pod must not kill another."""

import asyncio
import sys
from subprocess import DEVNULL, PIPE
from typing import Final

import orjson

from service.operators.replay import Replayed
from service.store.operator_actions import Operator

SECONDS: Final = 120.0
"""How long such a replay may take; a record may also hang."""
MEMORY_BYTES: Final = 384 * 1024 * 1024
"""What it may take, so that it ends alone where its pod has 512 MiB."""


async def replay_apart(by: Operator, id_: int) -> Replayed:
    """Replay the input with the command line, under limits. The result says so where the process was ended by it."""
    command = ["-m", "service", "quarantine", "replay", str(id_), "--in-this-process", "--json", f"--who={by.who}"]
    if by.why:
        command.append(f"--why={by.why}")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    try:
        async with asyncio.timeout(SECONDS):
            answer, _ = await process.communicate()
        (outcome,) = orjson.loads(answer)
        return Replayed(**outcome)
    except TimeoutError:
        ended = f"did not end within {SECONDS:.0f} s"
    except ValueError:
        ended = f"ended with {process.returncode}"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Replayed(id_, "", "killed_the_process", f"the process that replayed it {ended}")
