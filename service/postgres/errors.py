"""Classifies database errors by their SQLSTATE."""

import psycopg


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's error, also of one that SQLAlchemy wrapped; None for any other error."""
    original = getattr(error, "orig", None) or error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def is_server_lost(error: BaseException) -> bool:
    """Tell whether the server has stopped, or serves reads only: no session with it is of use any more.

    A session stays open when its server becomes read-only, and every later write of it would fail, too.
    """
    return sqlstate_of(error) in ("25006", "57P01", "57P02", "57P03")


def is_contention(error: BaseException) -> bool:
    """Tell whether concurrent transactions caused the error: the database is healthy, a retry can succeed."""
    state = sqlstate_of(error) or ""
    return state.startswith("40") or state in ("23505", "55P03")
