"""Implements the search for batches, uploads and rejected inputs, in every state."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from service.operators.errors import InvalidRequest, NotFound
from service.operators.transactions import transaction
from service.postgres.pool import Database
from service.postgres.queries import NamedRow
from service.store import search
from service.store.search import SearchCondition

LEAST_NAME = 3
"""Characters of a text that is searched: shorter ones are in nearly every file's name."""


class SearchActions:
    """Searches one database. Every method raises OperationError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(
        self,
        text: str,
        *,
        page: int,
        older_than: float | None = None,
        newer_than: float | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Sequence[NamedRow]:
        """Returns what `text` names (the id of a batch, text, upload, essay, user, class or correlation), and the files
        whose names contain it, in every state and the newest first; at most `page` rows. Where no id is `text`, also
        what has an id that begins with it.

        Ages are seconds, and hold together with the times. Raises NotFound where nothing is found.
        """
        if len(text.strip()) < LEAST_NAME:
            raise InvalidRequest(f"give at least {LEAST_NAME} characters of an id or a file's name")
        now = datetime.now(UTC)
        condition = SearchCondition(
            text,
            page,
            max((at for at in (since, _before(now, newer_than)) if at), default=None),
            min((at for at in (until, _before(now, older_than)) if at), default=None),
        )
        async with transaction(self._database) as conn:
            rows = await search.find(conn, condition)
        if not rows:
            raise NotFound(f"nothing has the id {text!r}, or one that begins with it, and no file's name contains it")
        return rows


def _before(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now - timedelta(seconds=seconds)
