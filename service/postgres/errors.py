"""Classifies database errors by their SQLSTATE."""

import psycopg


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE of a driver's error, also of one that SQLAlchemy wrapped; None for any other error."""
    original = getattr(error, "orig", None) or error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def is_contention(error: BaseException) -> bool:
    """Tell whether concurrent transactions caused the error: the database is healthy, a retry can succeed."""
    state = sqlstate_of(error) or ""
    return state.startswith("40") or state in ("23505", "55P03")
