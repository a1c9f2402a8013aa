"""A pod that dies by SIGKILL at one exact instruction: `python -m tests.support.doomed_pod run`, DOOM=PLACE:N.

commit:N    the N-th time that offsets would be committed: the database has the records, the broker does not know
delete:N    the N-th time that published rows would be deleted: the broker has the events, the outbox too
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from aiokafka import AIOKafkaConsumer

from service import outbox
from service.__main__ import main


def deadly(step: Callable[..., Awaitable[Any]], number: int) -> Callable[..., Awaitable[Any]]:
    """The step, but instead of its `number`-th call the process ends."""
    calls = count(1)

    async def taken(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return await step(*args, **kwargs)

    return taken


if __name__ == "__main__":
    place, _, number = os.environ["DOOM"].partition(":")
    if place == "commit":
        AIOKafkaConsumer.commit = deadly(AIOKafkaConsumer.commit, int(number))
    elif place == "delete":
        outbox.delete_outbox = deadly(outbox.delete_outbox, int(number))  # type: ignore[assignment]
    else:
        sys.exit(f"nobody dies at {place!r}")
    sys.exit(main(sys.argv[1:]))
