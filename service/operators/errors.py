"""Defines why an operator action was not performed. Each message is one line for people."""

import psycopg

from service.postgres.errors import is_contention, is_refusal
from service.runtime.errors import one_line


class OperationError(Exception):
    """The action was not performed. The message is the same for all interfaces.

    `parameter` names the one that allows the action: each interface adds it as its users write it.
    """

    def __init__(self, message: str, *, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter


class NotFound(OperationError):
    """The subject of the action does not exist."""


class Conflict(OperationError):
    """The present state forbids the action. Nothing was changed."""


class Contention(OperationError):
    """Another transaction is working on the subject. Nothing was changed; the action may be repeated."""


class InvalidRequest(OperationError):
    """The action may not be requested like this."""


class Unavailable(OperationError):
    """The database cannot be used."""


class TooSlow(Unavailable):
    """The database answers, but what was asked takes longer than it may."""


def operation_error(error: psycopg.Error) -> OperationError:
    """Returns the operation error that stands for an error of the database."""
    if is_refusal(error):
        return Conflict(f"{one_line(error)}: see ops.health")
    if is_contention(error):
        return Contention("another transaction is working on this: try again")
    if isinstance(error, psycopg.DataError):
        return InvalidRequest(one_line(error))
    if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.TransactionTimeout):
        return TooSlow("the database took longer than a statement may take: try again, or narrow it down")
    return Unavailable(one_line(error))
