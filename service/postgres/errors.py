"""Classifies database errors by their SQLSTATE."""

import re
from typing import Final

import psycopg


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's error, also of one that SQLAlchemy wrapped; None for any other error."""
    original = getattr(error, "orig", None) or error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


_CONNECTING: Final = (
    (
        "startup parameter",
        "a pooler in front of the server rejects `options`: set ELS_DATABASE_POOLER to its pool_mode",
    ),
    (
        "too many clients|remaining connection slots|too many connections|no more connections allowed",
        "too few connections: see docs/deployment.md",
    ),
    ("session is read-only|server is in hot standby", "the server accepts no writes: read-only, or a standby"),
)
"""Errors of a connection attempt, which have no SQLSTATE, and what they mean to an operator."""


def explained(error: psycopg.OperationalError) -> psycopg.OperationalError:
    """Return an error of a connection attempt that says what to do, followed by the text of the server.

    Returns the given error where there is nothing to add.
    """
    text = " ".join(str(error).split())
    for pattern, meaning in _CONNECTING:
        if re.search(pattern, text):
            return psycopg.OperationalError(f"{meaning} ({text})")
    return error


def is_server_lost(error: BaseException) -> bool:
    """Tell whether the server has stopped, or serves reads only: no session with it is of use any more.

    A session stays open when its server becomes read-only, and every later write of it would fail, too.
    """
    return sqlstate_of(error) in ("25006", "57P01", "57P02", "57P03")


def is_contention(error: BaseException) -> bool:
    """Tell whether concurrent transactions caused the error: the database is healthy, a retry can succeed."""
    state = sqlstate_of(error) or ""
    return state.startswith("40") or state in ("23505", "55P03")


BEHIND: Final = "EL004"
"""The SQLSTATE of a transaction that found less in the database than this process saw committed there."""


def is_refusal(error: BaseException) -> bool:
    """Tell whether a statement of ours refused to write: this database may not be the one that the process knows.

    EL001: it is behind or in recovery. EL002: another server. EL003: another epoch of a partition. EL004: `BEHIND`.
    EL005: this process's recovery has ended, or another process has taken it over.
    EL006: it holds another slice of the batches.
    """
    return (sqlstate_of(error) or "").startswith("EL")
