"""Runs a pod that kills itself at one step: `CRASH_AT=STEP:N python -m tests.support.pods.crash_at_step run`.

It sends itself SIGKILL instead of the N-th statement or commit in the database, the N-th commit of offsets (the
database has the records, the broker does not have the offsets), the N-th record batch that is sent, or the N-th
deletion of published rows (the broker has the events, the outbox has them too).
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from psycopg import AsyncCursor

from service.__main__ import main
from service.postgres import pool as database
from service.store import outbox

STEPS: dict[str, tuple[Any, str]] = {
    "statement": (AsyncCursor, "execute"),
    "commit": (database, "_commit"),
    "offsets": (AIOKafkaConsumer, "commit"),
    "send": (AIOKafkaProducer, "send_batch"),
    "delete": (outbox, "delete_outbox"),
}


def crashing(step: Callable[..., Awaitable[Any]], number: int) -> Callable[..., Awaitable[Any]]:
    """Returns the step; instead of its `number`-th call, it ends the process."""
    calls = count(1)

    async def taken(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return await step(*args, **kwargs)

    return taken


if __name__ == "__main__":
    step, _, number = os.environ["CRASH_AT"].partition(":")
    owner, name = STEPS[step]
    setattr(owner, name, crashing(getattr(owner, name), int(number)))
    sys.exit(main(sys.argv[1:]))
