"""Runs a pod that one record kills: `MINE=decode python -m tests.support.pods.crash_on_record run`, or another MINE.

The pod sends itself SIGKILL when it decodes a record that contains "mine" (decode), when it has it in a transaction
(apply), or when it unpacks its record batch (unpack). With MINE=hang, decoding it never ends.
"""

import os
import signal
import sys
import threading
from typing import Any

import service.intake.transaction
from service.__main__ import main
from service.domain import incoming as events
from service.intake import intake
from service.kafka import deliveries


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def deadly_unpack(batch: Any, *args: Any) -> Any:
    if b'"mine"' in batch.raw:
        die()
    return await unpack(batch, *args)


def hanging_decode(topic: str, value: bytes | None, **limits: int) -> Any:
    if b'"mine"' in (value or b""):
        print('{"event": "hangs"}', flush=True)
        threading.Event().wait()
    return decode(topic, value, **limits)


def deadly_decode(topic: str, value: bytes | None, **limits: int) -> Any:
    if b'"mine"' in (value or b""):
        die()
    return decode(topic, value, **limits)


async def deadly_apply(conn: Any, deliveries: Any, *args: Any, **options: Any) -> Any:
    outcome = await apply(conn, deliveries, *args, **options)
    if any(getattr(each.event, "text_storage_id", None) == "mine" for each in deliveries):
        die()
    return outcome


if __name__ == "__main__":
    decode, apply, unpack = events.decode, service.intake.transaction.apply, deliveries.__dict__["unpack"]
    match os.environ["MINE"]:
        case "decode":
            events.decode = deadly_decode
        case "hang":
            events.decode = hanging_decode
        case "unpack":
            deliveries.__dict__["unpack"] = deadly_unpack
        case _:
            intake.__dict__["apply"] = deadly_apply
    sys.exit(main(sys.argv[1:]))
