"""Runs a pod that one record kills: `MINE=decode python -m tests.support.pods.crash_on_record run`, or MINE=apply.

The pod sends itself SIGKILL when it decodes a record that contains "mine", or when it has it in a transaction.
"""

import os
import signal
import sys
from typing import Any

import service.intake.transaction
from service.__main__ import main
from service.domain import incoming as events
from service.intake import intake


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def deadly_decode(topic: str, value: bytes | None, *, max_bytes: int) -> Any:
    if b'"mine"' in (value or b""):
        die()
    return decode(topic, value, max_bytes=max_bytes)


async def deadly_apply(conn: Any, deliveries: Any, *args: Any, **options: Any) -> Any:
    outcome = await apply(conn, deliveries, *args, **options)
    if any(getattr(each.event, "text_storage_id", None) == "mine" for each in deliveries):
        die()
    return outcome


if __name__ == "__main__":
    decode, apply = events.decode, service.intake.transaction.apply
    if os.environ["MINE"] == "decode":
        events.decode = deadly_decode
    else:
        intake.__dict__["apply"] = deadly_apply
    sys.exit(main(sys.argv[1:]))
