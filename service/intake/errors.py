"""Classifies errors: which of them are caused by the data of a record."""

import struct

import orjson
import psycopg

from service.domain.enveloped import Unpublishable
from service.domain.events import Reason, Rejection
from service.postgres.errors import sqlstate_of
from service.runtime.errors import one_line


def is_caused_by_data(error: BaseException) -> bool:
    """Return whether the data of a record causes an error, not the environment or a concurrent transaction.

    The classes of SQLSTATE are those of PostgreSQL's appendix "Error Codes": 22 is "data exception".
    """
    if isinstance(error, Unpublishable | UnicodeEncodeError | OverflowError | struct.error | orjson.JSONEncodeError):
        return True
    state = sqlstate_of(error)
    if state is None:
        return isinstance(error, psycopg.DataError)
    return state.startswith("22") or state in ("23502", "23514", "54000", "54001")


def rejection_of(error: Exception) -> Rejection:
    """Return the rejection for a record whose data caused the error."""
    reason = Reason.UNPUBLISHABLE if isinstance(error, Unpublishable) else Reason.DATA_ERROR
    return Rejection(reason, one_line(error))
