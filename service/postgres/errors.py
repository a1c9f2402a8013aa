"""What an error of the database means, by its SQLSTATE."""

import psycopg


def sqlstate_of(error: BaseException) -> str | None:
    """The SQLSTATE behind an error, the driver's own or one that SQLAlchemy wrapped; else None."""
    original = getattr(error, "orig", None) or error
    return original.sqlstate if isinstance(original, psycopg.Error) else None


def is_contention(error: BaseException) -> bool:
    """Whether an error is about what other transactions do: the database is well, and this one goes again."""
    state = sqlstate_of(error) or ""
    return state.startswith("40") or state in ("23505", "55P03")
