"""Which errors are caused by the data of a record."""

import struct

import orjson
import psycopg

from service.domain.enveloped import Unpublishable
from service.domain.events import Reason, Refusal
from service.postgres.errors import sqlstate_of
from service.runtime.errors import one_line


def is_the_records(error: BaseException) -> bool:
    """Whether an error is about what a record says, and not about the world or the concurrency around it."""
    if isinstance(error, Unpublishable | UnicodeEncodeError | OverflowError | struct.error | orjson.JSONEncodeError):
        return True
    state = sqlstate_of(error)
    if state is None:
        return isinstance(error, psycopg.DataError)
    return state.startswith("22") or state in ("23502", "23514", "54001")


def refusal_of(error: Exception) -> Refusal:
    """What an error that `is_the_records` says about its record."""
    reason = Reason.UNPUBLISHABLE if isinstance(error, Unpublishable) else Reason.DATA_ERROR
    return Refusal(reason, one_line(error))
